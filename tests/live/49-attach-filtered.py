#!/usr/bin/env python3
"""`attach: seccomp` to processes that are under seccomp filters already, as those of containers are: taken when their filters
let through what that needs, else refused before anything of them is changed, and they go on as before."""
import atexit
import json
import os
import socket
import sys

import attach_lib
from injector_lib import Injector, until
from intercept_lib import ASK_CHILD, CHILD, NAME, NEW_CHILD, Dependency, Rig, Without, main

# What a program can be told to be under. As a container: everything but these is allowed, the rest fails.
FILTER = """
import ctypes
S = ctypes.CDLL("libseccomp.so.2"); S.seccomp_init.restype = ctypes.c_void_p
ALLOW, LOG, KILL, TRACE, TRAP = 0x7fff0000, 0x7ffc0000, 0x80000000, 0x7ff00001, 0x30000
class Cmp(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]
def errno(n): return 0x50000 | n
def under(default, rules, flags=()):
    ctx = ctypes.c_void_p(S.seccomp_init(ctypes.c_uint32(default)))
    for attr, v in flags: assert S.seccomp_attr_set(ctx, attr, v) == 0
    for nr, action, *arg in rules:  # arg: (which, 5: >=, than)
        cmp = (Cmp * 1)(Cmp(*arg[0], 0) if arg else Cmp())
        assert S.seccomp_rule_add_array(ctx, ctypes.c_uint32(action), nr, len(arg), cmp) == 0, nr
    r = S.seccomp_load(ctx); S.seccomp_release(ctx)
    return r
"""
# Those that Docker's default profile refuses, without CAP_SYS_ADMIN (some of them; the list is long).
CONTAINER = FILTER + """
no = {101, 103, 134, 135, 136, 139, 155, 156, 159, 161, 163, 165, 166, 167, 168, 169, 170, 172, 173, 174, 175, 176, 177, 178,
      180, 212, 237, 238, 246, 248, 249, 250, 256, 272, 278, 279, 298, 303, 304, 308, 310, 311, 312, 313, 320, 321, 323, 425,
      426, 427, 428, 429, 430, 431, 432, 433, 442}
result = under(errno(1), [(n, ALLOW) for n in range(450) if n not in no])
"""


class Program(attach_lib.Program):
    def __init__(self, *args):
        super().__init__(*args)
        atexit.register(self.proc.kill)


def filters(pid):
    """Of each thread."""
    return [int(open(f"/proc/{pid}/task/{t}/status").read().split("\nSeccomp_filters:")[1].split()[0])
            for t in sorted(os.listdir(f"/proc/{pid}/task"), key=int)]


class Attached(Rig):
    def __init__(self, inj, run_dir, prog, to):
        self.inj, self.run_dir, self.prog, self.edge = inj, run_dir, prog, "app->dep"
        if inj not in Rig.all:
            Rig.all.append(inj)
        self.id = inj.run(lease="60s")
        self.plan = inj.post(f"runs/{self.id}/plan", {"select": {"pid": prog.pid}, "to": to, "attach": "seccomp"})
        self.taken = inj.post(f"runs/{self.id}/services",
                              {"name": "app", "select": {"pid": prog.pid}, "attach": "seccomp"})
        inj.post(f"runs/{self.id}/edges", {"name": self.edge, "from": "app", "to": to, "protocol": "auto"})

    def do(self, code, timeout=30):
        return self.prog.do(code, timeout)


def works(rig, port, calls):
    for code in calls:
        assert rig.do(code) == 0, code
    f = rig.fault("call/error", {"errno": "EHOSTUNREACH"})
    for code in calls:
        assert rig.do(code) == 113, code
    rig.clear(f)
    for code in calls:
        assert rig.do(code) == 0, code
    until("they are counted", lambda: len(rig.calls()) >= 3 * len(calls))


def container(run_dir):
    """A process with two filters of its own and children, of before and of now; then again by another run."""
    with Dependency() as dep:
        prog = Program(run_dir)
        assert prog.do(CONTAINER) == 0
        # The second one logs what a container logs, and has the threads that are there.
        assert prog.do(FILTER + "result = under(ALLOW, [(10, LOG), (3, LOG)])") == 0
        assert prog.do("import errno\ntry: os.unshare\nexcept AttributeError: pass\n"
                       "import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"
                       "result = [l.unshare(0x20000), ctypes.get_errno()]") in ([0, 0], [-1, 1])
        assert prog.do(CHILD) == 1
        inj = Injector(run_dir, NAME)
        calls = [f"result = attempt({dep.port})['err']", ASK_CHILD % dep.port, NEW_CHILD % dep.port]
        rig = Attached(inj, run_dir, prog, [f"127.0.0.1:{dep.port}"])
        assert any("under seccomp filters already" in n for n in rig.plan["notes"]), rig.plan
        assert rig.taken["instances"][0]["processes"] == 2, rig.taken
        assert filters(prog.pid) == [3], filters(prog.pid)
        works(rig, dep.port, calls)
        inj.delete(f"runs/{rig.id}")
        assert [rig.do(c) for c in calls] == [0, 0, 0]
        # A child that it has forked since is under the filter, with its parent's listener.
        assert prog.do(CHILD) == 1
        again = Attached(inj, run_dir, prog, [f"127.0.0.1:{dep.port}"])
        assert again.taken["instances"][0]["processes"] == 3, again.taken
        assert not again.events("warning"), again.events("warning")
        works(again, dep.port, calls)
        inj.delete(f"runs/{again.id}")
        # Alone, that child has no listener of its own: its parent is who can be attached to.
        kids = open(f"/proc/{prog.pid}/task/{prog.pid}/children").read().split()
        status, got = inj.call("POST", f"runs/{inj.run()}/services",
                               {"name": "app", "select": {"pid": int(kids[-1])}, "attach": "seccomp"})
        assert status == 409 and "Squall's seccomp filter already" in got["error"]["message"], got
        prog.end()


BAD = {
    # What the process would be made to do.
    "kills it for seccomp(2)": "under(ALLOW, [(317, KILL)])",
    "refuses it seccomp(2)": "under(ALLOW, [(317, errno(1))])",
    "refuses it mmap(2)": "under(ALLOW, [(9, errno(12), (1, 5, 1 << 40))])",
    "sends it SIGSYS for munmap(2)": "under(ALLOW, [(11, TRAP)])",
    "refuses it close(2)": "under(ALLOW, [(3, errno(9), (0, 5, 500))])",
    # Ours would be heard instead of it.
    "asks a tracer about connect(2)": "under(ALLOW, [(42, TRACE)])",
    "asks a tracer about sendmmsg(2)": "under(ALLOW, [(307, TRACE)])",
}


def refused(run_dir):
    with Dependency() as dep:
        inj = Injector(run_dir, NAME)
        Rig.all.append(inj)
        run = inj.run()

        def says(pid, text, **more):
            status, got = inj.call("POST", f"runs/{run}/services",
                                   {"name": "app", "select": {"pid": pid}, "attach": "seccomp", **more})
            assert status == 409 and text in got["error"]["message"], (text, status, got)

        for n, (text, code) in enumerate(BAD.items()):
            prog = Program(run_dir, f"bad{n}")
            assert prog.do(FILTER + "result = " + code) == 0
            was = filters(prog.pid)
            says(prog.pid, text)
            assert filters(prog.pid) == was, text
            assert prog.do("result = os.getpid()") == prog.pid, text
            if "connect" not in text:
                assert prog.do(f"result = attempt({dep.port}, ask=False)['err']") == 0, text
            prog.end()
        # What ours asks about only when it takes datagrams.
        prog = Program(run_dir, "receives")
        assert prog.do(FILTER + "result = under(ALLOW, [(47, TRACE)])") == 0
        says(prog.pid, "asks a tracer about recvmsg(2)", datagrams=True)
        assert filters(prog.pid) == [1]
        status, got = inj.call("POST", f"runs/{inj.run()}/services",
                               {"name": "app", "select": {"pid": prog.pid}, "attach": "seccomp"})
        assert status < 400, got
        prog.end()
        # One that may set no_new_privs only by its filters' leave: it has not got it, and is not root.
        prog = Program(run_dir, "nnp")
        assert prog.do(FILTER + "result = under(ALLOW, [(157, errno(1))], [(3, 0)])") == 0  # CTL_NNP off
        prog.do("os.setgid(65534); os.setuid(65534); import ctypes; result = ctypes.CDLL(None).prctl(4, 1)")
        says(prog.pid, "refuses it prctl(2)")
        assert filters(prog.pid) == [1]
        prog.end()
        # A supervisor of its own: there can be one only.
        prog = Program(run_dir, "own")
        own = ("import ctypes, struct; b = ctypes.create_string_buffer(struct.pack('HBBIHBBIHBBIHBBI', 0x20, 0, 0, 0,"
               " 0x15, 0, 1, 39, 6, 0, 0, 0x7fc00000, 6, 0, 0, 0x7fff0000)); l = ctypes.CDLL(None); l.prctl(38, 1, 0, 0, 0);"
               " p = struct.pack('HxxxxxxP', 4, ctypes.addressof(b)); result = l.syscall(317, 1, 8, p)")
        assert prog.do(own) > 2
        says(prog.pid, "by another seccomp supervisor already")
        assert filters(prog.pid) == [1]
        assert prog.do("result = 1") == 1
        prog.end()


def threads(run_dir):
    """A filter that one thread alone is under must not come to the others by ours."""
    inj = Injector(run_dir, NAME)
    Rig.all.append(inj)
    # "main": the first thread has it, which is the one that would be made to load ours for all.
    for who, code in (("main", "e.set(); threading.Thread(target=lambda: time.sleep(99), daemon=True).start()\n"
                               "under(ALLOW, [(101, errno(1))])"),
                      ("worker", "threading.Thread(target=t, daemon=True).start(); e.wait()")):
        prog = Program(run_dir, who)
        prog.do(FILTER + "import threading; e = threading.Event()\n"
                "def t(): under(ALLOW, [(101, errno(1))]); e.set(); time.sleep(99)\n" + code + "\nresult = 1")
        was = filters(prog.pid)
        assert sorted(was) == [0, 1], was
        status, got = inj.call("POST", f"runs/{inj.run()}/services",
                               {"name": "app", "select": {"pid": prog.pid}, "attach": "seccomp"})
        assert status == 409 and "not all under the same seccomp filters" in got["error"]["message"], (who, got)
        assert filters(prog.pid) == was
        prog.end()


def unread(run_dir):
    """A squalld that may not read them, for it is under one itself: refused with that reason, by the plan too."""
    code = (FILTER + "import os, sys; assert under(ALLOW, [(101 + 400, errno(1))]) == 0; os.execvp(sys.argv[1], sys.argv[1:])")
    prog = Program(run_dir)
    assert prog.do(FILTER + "result = under(ALLOW, [(103, errno(1))])") == 0
    inj = Without(run_dir, [sys.executable, "-c", code])
    Rig.all.append(inj)
    run = inj.run()
    for path in "plan", "services":
        body = {"select": {"pid": prog.pid}, "attach": "seccomp", **({"name": "app"} if path == "services" else {})}
        status, got = inj.call("POST", f"runs/{run}/{path}", body)
        assert status >= 400 and "under no seccomp filter itself" in got["error"]["message"], (status, got)
    assert filters(prog.pid) == [1]
    prog.end()


def sleeps(run_dir):
    """A filter without restart_syscall(2), which the kernel needs to go on with a sleep that was interrupted: the sleep
    begins anew, and is not cut short."""
    inj = Injector(run_dir, NAME)
    Rig.all.append(inj)
    control = ("import threading\n" + FILTER +
               "assert under(ALLOW, [(219, %s), (157, errno(1))]) == 0\n"
               "t = time.monotonic(); import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"
               "class TS(ctypes.Structure): _fields_ = [('s', ctypes.c_long), ('n', ctypes.c_long)]\n"
               "r = l.nanosleep(ctypes.byref(TS(2, 0)), None)\n"
               "result = [r, ctypes.get_errno() if r else 0, time.monotonic() - t]")
    for action in "errno(38)", "KILL":
        prog = Program(run_dir, "s" + action[:1])
        c = socket.socket(socket.AF_UNIX)
        c.connect(prog.control)
        c.sendall((control % action).encode() + b"\0")
        until("it sleeps", lambda: open(f"/proc/{prog.pid}/syscall").read().startswith("230 "))
        # In its way out is a refusal: it is stopped, looked at, and goes on.
        status, got = inj.call("POST", f"runs/{inj.run()}/services",
                               {"name": "app", "select": {"pid": prog.pid}, "attach": "seccomp"})
        assert status < 400, got
        c.settimeout(20)
        out = b""
        while b := c.recv(65536):
            out += b
        r, err, took = json.loads(out)["ok"]
        assert r == 0 and err == 0 and 1.99 <= took < 15, (action, r, err, took)
        prog.end()


if os.geteuid() != 0 or os.uname().machine != "x86_64":
    print("skipped: it needs root, on x86_64")
    sys.exit(0)
main([container, refused, threads, unread, sleeps])
