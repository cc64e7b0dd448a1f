#!/usr/bin/env python3
"""Datagrams and DNS of programs under a seccomp filter, where cgroup-BPF is not: also of a user without rights. In a
network namespace with a resolver of its own."""
import os
import signal
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import dns_lib
from attach_lib import Program
from dgram_lib import ANSWERED, CALLER, FAILED, MMSG, Echo
from dns_lib import A4, A6, Server, alone
from injector_lib import alive, until
from intercept_lib import NO_BPF, Rig, Without, main

RESOLVER = "127.0.0.99"
USER = ["setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups"]

# What the caller runs: each way to send to an address and to learn who answered.
WAYS = MMSG + r"""
libc = ctypes.CDLL(None, use_errno=True)
def fresh(family=socket.AF_INET, v6only=False):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
    s.settimeout(2)
    return s
def to(host, s=None, data=b"x", how="sendto"):
    s = s or fresh(socket.AF_INET6 if ":" in host else socket.AF_INET)
    t0 = time.monotonic()
    try:
        if how == "sendto": n = s.sendto(data, (host, PORT))
        if how == "sendmsg": n = s.sendmsg([data[:1], data[1:]], [], 0, (host, PORT))
        if how == "sendto": got, frm = s.recvfrom(70000)
        else: got, _, flags, frm = s.recvmsg(70000)
        return {"n": n, "whole": got == data, "frm": list(frm[:2]), "ms": (time.monotonic() - t0) * 1000}
    except OSError as x:
        return {"err": str(x), "ms": (time.monotonic() - t0) * 1000}
"""


class Under(Rig):
    def __init__(self, run_dir, to, prefix=NO_BPF, **kw):
        os.chmod(run_dir, 0o755)
        if prefix is USER:
            os.chown(run_dir, 65533, 65533)
        super().__init__(run_dir, to, mode="seccomp", injector=Without(run_dir, prefix), **kw)
        self.head = ""

    def run(self, body):
        return self.do(self.head + body, 60)


def rig(run_dir, echo, **kw):
    r = Under(run_dir, [f"127.0.0.1:{echo.port}", f"[::1]:{echo.port}"], protocol="udp", **kw)
    r.head = f"PORT={echo.port}\n" + CALLER + WAYS
    return r


def test_pass_through(run_dir):
    """Whatever a program sends and however: it is taken, counted, and the program sees whom it had asked. What is
    nobody's, and what is no datagram, is as ever."""
    echo, other = Echo(socket.AF_INET6, "::"), Echo()
    r = rig(run_dir, echo)
    got = r.run("""
any = fresh(socket.AF_INET6)
conn = dial()
result = [to("127.0.0.1"), to("127.0.0.1", how="sendmsg"), to("::1"), to("::1", how="sendmsg"), to("::1", any),
          to("::ffff:127.0.0.1", any), to("127.0.0.1", data=b"y" * 9000), to("127.0.0.1", data=b"y" * 65000, how="sendmsg")]
conn.send(b"z"); data, frm = conn.recvfrom(100)
result.append({"n": len(data), "whole": data == b"z", "frm": list(frm)})
m6 = fresh(socket.AF_INET6); m6.connect(("::ffff:127.0.0.1", PORT))
v6 = fresh(socket.AF_INET6); v6.connect(("::1", PORT))
libc.getpeername.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
room, short = ctypes.c_uint32(4), ctypes.create_string_buffer(b"....####", 8)
cut = [libc.getpeername(conn.fileno(), short, ctypes.byref(room)), room.value, short.raw[:2] == bytes([2, 0]), short.raw[4:] == b"####"]
bad = [libc.getpeername(conn.fileno(), 8, ctypes.byref(room)), ctypes.get_errno()]
a, b = socket.socketpair(); local = a.getpeername()
try: fresh().getpeername(); none = 0
except OSError as x: none = x.errno
peers = [list(x.getpeername()[:2]) for x in (conn, m6, v6)] + [cut, bad, local, none]
result = [result, peers]
""")
    got, peers = got
    port = echo.port
    assert peers == [["127.0.0.1", port], ["::ffff:127.0.0.1", port], ["::1", port], [0, 16, True, True], [-1, 14], "", 107], peers
    hosts = ["127.0.0.1", "127.0.0.1", "::1", "::1", "::1", "::ffff:127.0.0.1"] + 3 * ["127.0.0.1"]
    assert [g.get("frm") for g in got] == [[h, echo.port] for h in hosts] and all(g["whole"] for g in got), got
    assert [g["n"] for g in got] == [1] * 6 + [9000, 65000, 1], got
    until("the calls are told", lambda: len(r.calls()) >= 9, 15)
    assert all(c[2] == ANSWERED for c in r.calls()), r.calls()
    got = r.run(f"""
other = {other.port}
s = fresh()
sent = mmsg(s, [(("127.0.0.1", PORT), b"a"), (("127.0.0.1", other), b"bb"), (("127.0.0.1", PORT), b"ccc")])
back = sorted([list(x) for x in (s.recvfrom(100) for _ in range(3))], key=str)
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
a.sendmsg([b"unix"]); unix = b.recvmsg(100)[0]
c, d = socket.socketpair(); c.sendmsg([b"stream"]); stream = d.recvmsg(100)[0]
r, w = os.pipe(); socket.send_fds(a, [b"fd"], [r]); fds = socket.recv_fds(b, 10, 1)
try: fresh().sendto(b"x", ("127.0.0.1", 0)); err = 0
except OSError as x: err = x.errno
try: s.sendto(b"x" * 70000, ("127.0.0.1", PORT)); big = 0
except OSError as x: big = x.errno
result = [sent, [[x[0].decode(), x[1][1]] for x in back], unix.decode(), stream.decode(), len(fds[1]), err, big]
""")
    assert got == [[3, [1, 2, 3]], [["a", echo.port], ["bb", other.port], ["ccc", echo.port]], "unix", "stream", 1, 22,
                   90], got
    assert echo.seen == 11 and other.seen == 1, (echo.seen, other.seen)
    r.end()


def test_faults(run_dir):
    """Latency, loss, duplicates and a black hole; and all is as before when they end."""
    echo = Echo(socket.AF_INET6, "::")
    r = rig(run_dir, echo)
    f = r.fault("call/latency", {"delay": "150ms"})
    got = r.run('result = [to("127.0.0.1"), to("::1", how="sendmsg"), ask(dial())]')
    assert all(149 <= g["ms"] < 2000 and g["whole"] for g in got), got
    r.clear(f)
    f = r.fault("call/loss", {"loss": "30%"})
    n = 300
    got = r.run(f"result = burst({n})")
    assert 0.15 * n < got["none"] < 0.45 * n and got["more"] == 0, got
    r.clear(f)
    f = r.fault("call/blackhole")
    seen = echo.seen
    got = r.run("""
s, t = fresh(), fresh(socket.AF_INET6)
s.settimeout(0.3); t.settimeout(0.3)
result = [to("127.0.0.1", s), to("::1", t), ask(dial(), timeout=0.3)]
""")
    assert all(g["err"] for g in got) and echo.seen == seen, got
    r.clear(f)
    got = r.run('result = [to("127.0.0.1"), to("::1"), ask(dial())]')
    assert all(g["whole"] and g["ms"] < 1000 for g in got), got
    r.end()


def dns(run_dir, prefix, server):
    server.asked = []
    r = Under(run_dir, [f"{RESOLVER}:53"], prefix, protocol="dns")
    r.head = f"NS={RESOLVER!r}\n" + dns_lib.RAW + r"""
def name(host):
    try: return sorted({x[4][0] for x in socket.getaddrinfo(host, 80, 0, socket.SOCK_STREAM)})
    except socket.gaierror as x: return x.errno
"""
    for how in ("udp('a.test')", "udp('a.test', connected=False)", "tcp(['a.test'])[0]"):
        got = r.run(f"result = {how}")
        assert got["addr"] == [A4] and got.get("frm", [RESOLVER, 53]) == [RESOLVER, 53], (how, got)
    assert r.run("result = name('a.test')") == sorted([A4, A6])
    f = r.inj.post(f"runs/{r.id}/faults", {"uses": "call/dns", "target": {"edge": r.edge},
                                           "with": {"answer": "nxdomain", "names": ["db.test"]}})
    for how in ("udp('db.test')", "udp('db.test', connected=False)", "tcp(['db.test'])[0]"):
        got = r.run(f"result = {how}")
        assert got["rcode"] == 3 and got["id_ok"] and got.get("frm", [RESOLVER, 53]) == [RESOLVER, 53], (how, got)
    assert r.run("result = [name('db.test'), name('a.test')]") == [-2, sorted([A4, A6])]
    assert not [a for a in server.asked if a[0] == "db.test"], server.asked
    until("they are told", lambda: len([c for c in r.calls() if c[2] == FAILED and c[6] == f["fault"]]) >= 5, 15)
    r.clear(f)
    f = r.inj.post(f"runs/{r.id}/faults", {"uses": "call/dns", "target": {"edge": r.edge},
                                           "with": {"answer": "real", "delay": "300ms"}})
    got = r.run("t0 = time.monotonic()\nresult = [name('a.test'), time.monotonic() - t0]")
    assert got[0] == sorted([A4, A6]) and got[1] >= 0.29, got
    r.clear(f)
    assert r.run("result = name('db.test')") == sorted([A4, A6])
    r.end()


def test_dns(run_dir):
    """As root, and without any rights: the C library's resolver of the user's own service."""
    server = Server(RESOLVER)
    for who, prefix in (("root", NO_BPF), ("user", USER)):
        os.mkdir(os.path.join(run_dir, who))
        os.chmod(run_dir, 0o755)
        dns(os.path.join(run_dir, who), prefix, server)
    server.close()


def test_deaths(run_dir):
    """Whoever dies: nobody hangs, no ENOSYS, and datagrams go direct."""
    echo = Echo(socket.AF_INET6, "::")
    for who in ("squalld", "proxy"):
        d = os.path.join(run_dir, who)
        os.mkdir(d)
        r = rig(d, echo)
        r.fault("call/blackhole")
        assert r.run('s = fresh(); s.settimeout(0.3); result = to("127.0.0.1", s)')["err"]
        os.kill(r.inj.pid if who == "squalld" else r.proxy_pid(), signal.SIGKILL)
        until("direct", lambda: r.run('s = fresh(); s.settimeout(0.5); result = to("127.0.0.1", s)').get("whole"), 15)
        got = r.run('result = [to("::1", how="sendmsg"), ask(dial())]')
        assert all(g["whole"] for g in got), got
        r.inj.end()


class Attached(Under):
    """A program that ran before; its datagrams are said to be wanted when it is attached to, or not."""

    def __init__(self, run_dir, prog, echo, datagrams=True, injector=None):
        self.inj = injector or Without(run_dir, NO_BPF)
        if self.inj not in Rig.all:
            Rig.all.append(self.inj)
        self.id, self.edge, self.prog = self.inj.run(), "app->dep", prog
        self.head = f"PORT={echo.port}\n" + CALLER + WAYS
        self.taken = self.inj.call("POST", f"runs/{self.id}/services",
                                   {"name": "app", "select": {"pid": prog.pid}, "attach": "seccomp",
                                    "datagrams": datagrams})
        self.made = self.inj.call("POST", f"runs/{self.id}/edges", {"name": self.edge, "from": "app", "protocol": "udp",
                                                                    "to": [f"127.0.0.1:{echo.port}"]})

    def run(self, body):
        return self.prog.do(self.head + body, 60)


def test_attach(run_dir):
    """A running program's datagrams by an injected filter, which must be made for them from the beginning."""
    progs = [Program(run_dir), Program(run_dir, "other")]
    try:
        attach(run_dir, *progs)
    finally:
        for p in progs:
            p.end()


def attach(run_dir, prog, other):
    echo = Echo()
    r = Attached(run_dir, prog, echo)
    assert r.taken[0] == 201 and r.made[0] == 201 and r.made[1]["mode"] == "seccomp", (r.taken, r.made)
    for body in ('result = to("127.0.0.1")', 'result = to("127.0.0.1", how="sendmsg")', "result = ask(dial())"):
        assert r.run(body)["whole"], body
    until("they are counted", lambda: len(r.calls()) >= 3, 15)
    f = r.fault("call/blackhole")
    assert r.run('s = fresh(); s.settimeout(0.3); result = to("127.0.0.1", s)')["err"]
    r.clear(f)
    assert r.run('result = to("127.0.0.1")')["whole"]
    assert r.inj.delete(f"runs/{r.id}")["clean"]
    again = Attached(run_dir, prog, echo, injector=r.inj)
    assert again.taken[0] == 201 and again.made[0] == 201, (again.taken, again.made)
    assert again.run('result = to("127.0.0.1")')["whole"]
    until("it is counted", lambda: len(again.calls()) >= 1, 15)
    again.inj.delete(f"runs/{again.id}")
    without = Attached(run_dir, other, echo, False, r.inj)
    assert without.taken[0] == 201 and without.made[0] >= 400 and "without datagrams" in without.made[1]["error"]["message"]
    without.inj.delete(f"runs/{without.id}")
    late = Attached(run_dir, other, echo, True, r.inj)
    assert late.taken[0] == 409 and "earlier run" in late.taken[1]["error"]["message"], late.taken
    late.inj.delete(f"runs/{late.id}")
    r.inj.post("quit")
    until("squalld has left", lambda: not alive(r.inj.pid))
    assert prog.do(r.head + 'result = to("127.0.0.1")')["whole"]


# A child whose memory lets squalld wait (userfaultfd(2)) in the middle of a call, and one that gets its number (clone3(2),
# set_tid) when it was killed meanwhile. Both have a page at PAGE.
REUSED = r"""
import ctypes, mmap, signal
libc.mmap.restype = libc.syscall.restype = ctypes.c_long
libc.mmap.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
def page(): return libc.mmap(0, 4096, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
PAGE = page()
ctypes.memmove(PAGE + 1024, struct.pack("=I", 128), 4) # the length of a name at PAGE
def slow():
    # a page that is not there until somebody says so, and the descriptor to say it
    at, fd = page(), libc.syscall(323, os.O_CLOEXEC)
    api, reg = (ctypes.c_uint64 * 3)(0xaa, 0, 0), (ctypes.c_uint64 * 4)(at, 4096, 1, 0)
    assert fd >= 0 and libc.ioctl(fd, ctypes.c_ulong(0xc018aa3f), api) == 0
    assert libc.ioctl(fd, ctypes.c_ulong(0xc020aa00), reg) == 0
    return at, fd
def receiver(tell):
    s = fresh(); s.sendto(b"x" * 100, ("127.0.0.1", PORT)); select.select([s], [], [], 5)
    at, fd = slow()
    tell(fd)
    libc.syscall(45, s.fileno(), ctypes.c_long(at), ctypes.c_long(4096), 0, ctypes.c_long(PAGE), ctypes.c_long(PAGE + 1024))
def sender(tell):
    s = fresh(); at, fd = slow()
    name = ctypes.create_string_buffer(raw("127.0.0.1", PORT), 16)
    iov, vec = (Iovec * 2)(Iovec(at, 8), Iovec(PAGE, 8)), (Mmsghdr * 2)()
    for i in range(2):
        vec[i].hdr.name, vec[i].hdr.namelen = ctypes.addressof(name), len(name)
        vec[i].hdr.iov, vec[i].hdr.iovlen = ctypes.addressof(iov[i]), 1
    tell(fd)
    libc.sendmmsg(s.fileno(), vec, 2, 0)
def reused(what, begin):
    # what the second one has in its page when squalld goes on
    a, b = os.pipe(); g, h = os.pipe()
    pid = os.fork()
    if pid == 0:
        what(lambda fd: os.write(b, b"%9d" % fd) and os.read(g, 1))
        os._exit(0)
    fd = libc.syscall(438, os.pidfd_open(pid), int(os.read(a, 9)), 0)
    os.write(h, b"1")
    waited = bool(select.select([fd], [], [], 1)[0])
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
    ids = (ctypes.c_int * 1)(pid)
    args = (ctypes.c_uint64 * 11)(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(ids), 1, 0)
    c, d = os.pipe(); e, f = os.pipe()
    if libc.syscall(435, args, 88) == 0:
        os.close(fd)
        ctypes.memmove(PAGE, begin, len(begin))
        os.write(d, b"1"); os.read(e, 1)
        os.write(d, ctypes.string_at(PAGE, 64)); os._exit(0)
    os.read(c, 1)
    os.close(fd); time.sleep(0.3)
    os.write(f, b"1")
    return [waited, os.read(c, 64).hex()]
"""


def test_reused(run_dir):
    """A program that is killed while its call is looked at, and another one that gets its number: nobody else's memory
    is written, and nobody else's is sent."""
    echo = Echo()
    r = rig(run_dir, echo)
    r.head += REUSED
    waited, page = r.run('result = reused(receiver, b"mine")')
    assert bytes.fromhex(page) == b"mine".ljust(64, b"\0"), (waited, page)
    seen = echo.seen
    waited, page = r.run('result = reused(sender, b"secret")')
    assert waited and bytes.fromhex(page) == b"secret".ljust(64, b"\0"), (waited, page)
    assert echo.seen == seen, echo.seen
    assert r.run('result = to("127.0.0.1")')["whole"]
    r.end()


if __name__ == "__main__":
    alone(resolver=RESOLVER)
    main([test_pass_through, test_faults, test_dns, test_attach, test_deaths, test_reused])
