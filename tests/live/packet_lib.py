"""Two hosts on one wire for the tests of the packet backend: network namespaces A and B with a veth pair between them,
sockets of this process in both, and what is configured there."""
import contextlib
import ctypes
import difflib
import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import injector_lib
from injector_lib import Injector  # noqa: F401  (tests take it from here)

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
V4 = ("10.77.0.1", "10.77.0.2")
V6 = ("fd77::1", "fd77::2")
MODES = ({}, {"SQUALL_PACKET_ATTACH": "clsact"})  # of attaching


def until(what, cond, limit=20.0):
    """Patient: the machine may be busy. How long it took."""
    return injector_lib.until(what, cond, limit)


def exact():
    """Who measures must not be late itself: the calling thread in real time, if it may."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(2))


def sh(*args, check=True, **kw):
    r = subprocess.run(args, capture_output=True, text=True, **kw)
    assert not check or r.returncode == 0, (args, r.stdout, r.stderr)
    return r.stdout


@contextlib.contextmanager
def inside(ns):
    """The calling thread in the namespace NS."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{ns}", os.O_RDONLY)
    try:
        assert libc.setns(there, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        yield
        assert libc.setns(home, CLONE_NEWNET) == 0
    finally:
        os.close(there)
        os.close(home)


def udp(ns, address=None, port=0, size=1 << 22):
    v6 = address is not None and ":" in address
    with inside(ns):
        s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, 33, size)  # SO_RCVBUFFORCE
        s.setsockopt(socket.SOL_SOCKET, 32, size)  # SO_SNDBUFFORCE
        s.bind((address or "0.0.0.0", port))
    return s


class Wire:
    """A's and B's interface is called v0 on both sides."""

    def __init__(self, name, mtu=1500):
        self.a, self.b = (f"sqt-pk-{name}-{os.getpid()}-{end}" for end in "ab")
        self.delete()
        for n in (self.a, self.b):
            sh("ip", "netns", "add", n)
            sh("ip", "-n", n, "link", "set", "lo", "up")
        self.connect(mtu)

    def connect(self, mtu=1500):
        sh("ip", "-n", self.a, "link", "add", "v0", "mtu", str(mtu), "type", "veth", "peer", "name", "v0", "mtu", str(mtu),
           "netns", self.b)
        for n, v4, v6 in ((self.a, V4[0], V6[0]), (self.b, V4[1], V6[1])):
            sh("ip", "-n", n, "addr", "add", v4 + "/24", "dev", "v0")
            sh("ip", "-n", n, "addr", "add", v6 + "/64", "dev", "v0", "nodad")
            sh("ip", "-n", n, "link", "set", "v0", "up")
        for n in (self.a, self.b):
            until("the wire has its carrier", lambda n=n: "state UP" in sh("ip", "-n", n, "link", "show", "v0"))

    def delete(self):
        for n in (self.a, self.b):
            subprocess.run(["ip", "netns", "del", n], capture_output=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.delete()

    def ifindex(self, dev="v0"):
        return json.loads(sh("ip", "-n", self.a, "-j", "link", "show", dev))[0]["ifindex"]


class Echo:
    """Answers datagrams in NS until closed."""

    def __init__(self, ns, address, port=7):
        self.s = udp(ns, address, port)
        threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        exact()
        with contextlib.suppress(OSError, TypeError):  # closed meanwhile
            while True:
                data, who = self.s.recvfrom(70000)
                self.s.sendto(data, who)

    def close(self):
        with contextlib.suppress(OSError):
            self.s.shutdown(socket.SHUT_RDWR)
        self.s.close()


def rtt(ns, to, size=64, port=7, wait=2.0, local=None):
    """Round trip of one datagram in ms; None: it did not come back as it was."""
    s = udp(ns, local or ("::" if ":" in to else None))
    s.settimeout(wait)
    data = os.urandom(size)
    try:
        t = time.monotonic()
        s.sendto(data, (to, port))
        got, _ = s.recvfrom(70000)
        return (time.monotonic() - t) * 1e3 if got == data else None
    except OSError:
        return None
    finally:
        s.close()


def rtts(ns, to, n=10, **kw):
    """Of N datagrams, without those that were lost."""
    rtt(ns, to, wait=5)  # the neighbour is known then
    return sorted(x for x in (rtt(ns, to, **kw) for _ in range(n)) if x is not None)


def takes(ns, to, ms, n=5, slack=5, tries=100, **kw):
    """Each of N round trips takes MS at least, none is lost, and one of up to TRIES takes at most SLACK longer: the
    machine may be busy, but not all the time. The times."""
    got = rtts(ns, to, n, **kw)
    assert len(got) == n and got[0] >= ms, (ms, got)
    while got[0] > ms + slack and tries > 0:
        got = sorted(got + rtts(ns, to, 1, **kw))
        tries -= 1
    assert ms <= got[0] <= ms + slack, (ms, got)
    return got


class Stream:
    """Numbered datagrams from A to B at a pace, in threads; what arrived when."""

    def __init__(self, wire, pps=1000, port=9):
        self.sink, self.source = udp(wire.b, V4[1], port), udp(wire.a)
        self.pps, self.port, self.sent, self.got, self.going = pps, port, [], {}, True
        self.threads = [threading.Thread(target=f, daemon=True) for f in (self.receive, self.send)]
        for t in self.threads:
            t.start()

    def send(self):
        exact()
        start, n = time.monotonic(), 0
        while self.going:
            left = start + n / self.pps - time.monotonic()
            if left > 0:
                time.sleep(left)
            self.sent.append(time.monotonic())
            with contextlib.suppress(OSError):
                self.source.sendto(struct.pack("!I", n) + bytes(60), (V4[1], self.port))
            n += 1

    def receive(self):
        exact()
        self.sink.settimeout(0.1)
        quiet = 0
        while self.going or quiet < 3:
            try:
                data = self.sink.recv(2000)
                self.got.setdefault(struct.unpack("!I", data[:4])[0], time.monotonic())
                quiet = 0
            except OSError:
                quiet += 0 if self.going else 1

    def end(self):
        """The numbers that never arrived."""
        self.going = False
        for t in self.threads[::-1]:
            t.join(10)
        self.sink.close()
        self.source.close()
        return [n for n in range(len(self.sent)) if n not in self.got]


def flows_after(stream, killed, limit=0.1, straight=True):
    """What is sent so long after KILLED (s) comes through; STRAIGHT: and was not held. When the first one was sent."""
    def through(n):
        return n in stream.got and (not straight or stream.got[n] - stream.sent[n] < 0.02)

    def first():
        return next((stream.sent[n] - killed for n in range(len(stream.sent)) if stream.sent[n] > killed and through(n)), None)
    until("traffic flows again", lambda: first() is not None, 10)
    # Most of it, that is: one may have been lucky.
    until("it goes on", lambda: stream.sent[-1] > killed + limit + 0.3)
    time.sleep(0.1)
    later = [n for n in range(len(stream.sent)) if killed + limit < stream.sent[n] < killed + limit + 0.3]
    came = [n for n in later if n in stream.got]
    assert first() < limit, first()
    assert later and len(came) > 0.8 * len(later), (len(came), len(later))  # taking clsact away drops, too
    return first()


def sweep(run_dir, inj):
    """The next start of any Squall program, when INJ is dead: a process that was killed takes its time to end."""
    until("squalld is gone", lambda: not injector_lib.alive(inj.pid))
    r = subprocess.run([injector_lib.SQUALLD, "sweep"], env=dict(os.environ, SQUALL_RUN_DIR=run_dir), capture_output=True,
                       text=True, timeout=60)
    assert r.returncode == 0, r


def gone_clean(w, before, inj):
    until("squalld is gone", lambda: not injector_lib.alive(inj.pid))
    until("packet processes are gone", lambda: not packet_processes(inj.run_dir))
    same(before, configured(w.a, w.b))


def faults(inj, run, ns, with_, direction="egress", uses="network/impair", dev="v0", **target):
    t = dict({"interface": dev, "direction": direction}, **target)
    if ns:
        t["namespace"] = ns
    got = inj.post(f"runs/{run}/faults", {"uses": uses, "target": t, "with": dict({"backend": "packet"}, **with_)})
    return got["fault"]


def end_fault(inj, run, fault):
    got = inj.delete(f"runs/{run}/faults/{fault}")
    assert got["clean"] and got["left"] == [], got


class Rig:
    """A wire with echoes at its end, and a squalld with a run; nothing of that may be left."""

    def __init__(self, run_dir, env=None, mtu=1500):
        self.run_dir, self.env, self.mtu = run_dir, env, mtu

    def __enter__(self):
        self.w = Wire("path", self.mtu)
        self.echo = [Echo(self.w.b, V4[1]), Echo(self.w.b, V6[1])]
        self.before = configured(self.w.a, self.w.b)
        self.inj = Injector(self.run_dir, env=self.env)
        self.run = self.inj.run(lease="60s")
        return self

    def fault(self, with_, direction="egress", **kw):
        return faults(self.inj, self.run, kw.pop("ns", self.w.a), with_, direction, **kw)

    def __exit__(self, kind, value, tb):
        for e in self.echo:
            e.close()
        try:
            if kind is None:
                self.inj.post("quit")
                assert self.inj.proc.wait(30) == 0
                same(self.before, configured(self.w.a, self.w.b))
        finally:
            self.inj.proc.kill()
            self.w.delete()


MIB = 1 << 20


def transfer(ns_from, ns_to, to, size):
    """SIZE random bytes by TCP: what arrived must be what was sent. MB/s."""
    with inside(ns_to):
        srv = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET)
        srv.bind((to, 0))
        srv.listen(1)
    with inside(ns_from):
        c = socket.socket(srv.family)
    block, sums = os.urandom(MIB), [hashlib.sha256(), hashlib.sha256()]

    def receive():
        conn, _ = srv.accept()
        with conn:
            while data := conn.recv(MIB):
                sums[1].update(data)
    t = threading.Thread(target=receive)
    t.start()
    c.settimeout(60)
    t0 = time.monotonic()
    c.connect(srv.getsockname()[:2])
    for i in range(size // MIB):
        part = struct.pack("!Q", i) + block[8:]
        sums[0].update(part)
        c.sendall(part)
    c.close()
    t.join(60)
    took = time.monotonic() - t0
    srv.close()
    assert sums[0].digest() == sums[1].digest(), "what arrived is not what was sent"
    return size / 1e6 / took


def configured(*namespaces):
    """What is configured there, without what counts or ages."""
    out = []
    for ns in namespaces:
        x = ["-n", ns] if ns else []
        out.append(sh("ip", *x, "-d", "link", "show"))
        out.append(sh("tc", *x, "qdisc", "show"))
        for dev in re.findall(r"^\d+: ([^:@]+)", out[-2], re.M):
            for hook in ("egress", "ingress"):
                out.append(sh("tc", *x, "filter", "show", "dev", dev, hook, check=False))
        out.append(sh(*(["ip", "netns", "exec", ns] if ns else []), "nft", "list", "ruleset", check=False))
        out.append(sh(*(["ip", "netns", "exec", ns] if ns else []), "sysctl", "net.ipv4.conf.lo", check=False))
    return "\n".join(out)


def same(before, now):
    diff = [x for x in difflib.unified_diff(before.split("\n"), now.split("\n"), "before", "now", n=0)]
    assert not diff, "\n".join(diff[:30])


def packet_processes(run_dir):
    mark, found = f"SQUALL_RUN_DIR={run_dir}".encode(), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as f:
                if f.read().strip() != "squall-packet":
                    continue
            with open(f"/proc/{pid}/environ", "rb") as f:
                if mark in f.read().split(b"\0"):
                    found.append(int(pid))
        except OSError:
            pass
    return found


def main(tests):
    only = sys.argv[1:]
    if os.geteuid() != 0:
        print("skipped: needs root")
        return
    for t in tests:
        if only and t.__name__ not in only:
            continue
        exact()
        run_dir, t0 = tempfile.mkdtemp(prefix="squall-pk-"), time.monotonic()
        try:
            t(run_dir)
            end = time.monotonic() + 15
            while (left := packet_processes(run_dir)) and time.monotonic() < end:
                time.sleep(0.05)
            assert not left, f"packet processes are left: {left}"
            print(f"ok {t.__name__} ({time.monotonic() - t0:.1f} s)", flush=True)
        finally:
            for pid in packet_processes(run_dir):
                with contextlib.suppress(OSError):
                    os.kill(pid, 9)
            shutil.rmtree(run_dir, ignore_errors=True)
