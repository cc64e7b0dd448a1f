#!/usr/bin/env python3
"""`attach: seccomp`: a program that runs already is taken by an injected filter, with its children, where cgroup-BPF is not
there or can't do it (Unix sockets). It can't be undone, so somebody always answers: squalld, after it the keeper and the
proxy, and the next squalld takes it back from them."""
import os
import signal
import socket
import sys

from attach_lib import Program
from injector_lib import Injector, alive, until
from intercept_lib import ASK_CHILD, CHILD, NAME, NEW_CHILD, NO_BPF, Dependency, Rig, Without, main

ASK_UNIX = """
c = socket.socket(socket.AF_UNIX); c.settimeout(2)
try:
    c.connect(%r); c.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    result = b"".join(iter(lambda: c.recv(4096), b"")).decode()[-4:]
except OSError as x: result = x.errno
"""


class Attached(Rig):
    def __init__(self, run_dir, prog, to, injector=None, lease="60s"):
        self.inj = injector or Injector(run_dir, NAME)
        if self.inj not in Rig.all:
            Rig.all.append(self.inj)
        self.run_dir = run_dir
        self.id = self.inj.run(lease=lease)
        self.edge = "app->dep"
        self.prog = prog
        self.plan = self.inj.post(f"runs/{self.id}/plan", {"select": {"pid": prog.pid}, "to": to, "attach": "seccomp"})
        self.taken = self.inj.post(f"runs/{self.id}/services",
                                   {"name": "app", "select": {"pid": prog.pid}, "attach": "seccomp"})
        self.answer = self.inj.post(f"runs/{self.id}/edges",
                                    {"name": self.edge, "from": "app", "to": to, "protocol": "auto"})
        assert self.taken["mode"] == "seccomp" and self.answer["mode"] == "seccomp", (self.taken, self.answer)

    def do(self, code, timeout=30):
        return self.prog.do(code, timeout)


def works(rig, port, child=True):
    """Faults come and go, for the program, and for its children of before and of now."""
    calls = [f"result = attempt({port})['err']", f"result = blocking({port})['err']", NEW_CHILD % port]
    calls += [ASK_CHILD % port] if child else []
    for code in calls:
        assert rig.do(code) == 0, code
    f = rig.fault("call/error", {"errno": "EHOSTUNREACH"})
    for code in calls:
        assert rig.do(code) == 113, code
    rig.clear(f)
    f = rig.fault("call/latency", {"delay": "200ms"})
    r = rig.do(f"result = attempt({port})")
    assert r["body"] == "real" and 190 < r["ms"] < 1000, r
    rig.clear(f)
    f = rig.fault("call/blackhole")
    assert rig.do(f"result = attempt({port}, timeout=0.2)")["err"] == 110
    rig.clear(f)
    for code in calls:
        assert rig.do(code) == 0, code
    # One failed each; answered: two with a request, the rest closed without one.
    until("they are counted", lambda: sum(c[1] == 1 and c[2] == 1 for c in rig.calls()) == len(calls))


def passes_on(prog, port):
    for _ in range(20):
        assert prog.do(f"result = attempt({port})['err']") == 0


def takes(run_dir):
    with Dependency() as dep:
        prog = Program(run_dir)
        assert prog.do(CHILD) == 1
        rig = Attached(run_dir, prog, [f"127.0.0.1:{dep.port}"], Without(run_dir, NO_BPF))
        assert any("can't be undone" in n for n in rig.plan["notes"]) and rig.plan["processes"] == 2, rig.plan
        assert rig.taken["instances"][0]["processes"] == 2, rig.taken
        works(rig, dep.port)
        status, got = rig.inj.call("POST", f"runs/{rig.inj.run()}/services",
                                   {"name": "app", "select": {"pid": prog.pid}, "attach": "seccomp"})
        assert status == 409 and "intercepted already" in got["error"]["message"], got
        # The run ends, and another one takes the same process again.
        rig.inj.delete(f"runs/{rig.id}")
        passes_on(prog, dep.port)
        again = Attached(run_dir, prog, [f"127.0.0.1:{dep.port}"], rig.inj)
        works(again, dep.port)
        inj = again.inj
        inj.post("quit")
        until("squalld ends", lambda: not alive(inj.pid))
        passes_on(prog, dep.port)
        assert alive(inj.keeper)  # it answers for as long as the program lives
        prog.end()
        inj.wait()


def many(run_dir):
    """More processes than are taken: that is said."""
    with Dependency() as dep:
        prog = Program(run_dir)
        prog.do("for _ in range(260):\n    if os.fork() == 0:\n        os.closerange(3, 256)\n        time.sleep(60)\n        os._exit(0)\nresult = 1")
        try:
            rig = Attached(run_dir, prog, [f"127.0.0.1:{dep.port}"])
            assert rig.plan["processes"] == 261, rig.plan["processes"]
            assert rig.taken["instances"][0]["processes"] == 256, rig.taken
            told = [e["text"] for e in rig.events("warning")]
            assert any("5 processes below app.0" in t and "more than 256" in t for t in told), told
            rig.inj.delete(f"runs/{rig.id}")
        finally:
            with open(f"/proc/{prog.pid}/task/{prog.pid}/children") as f:
                for child in f.read().split():
                    os.kill(int(child), signal.SIGKILL)
            prog.end()


def taken_back(run_dir):
    """Whoever of squalld, keeper and proxy was killed, the next squalld finds those who are left and takes it from them."""
    with Dependency() as dep:
        prog = Program(run_dir)
        for n, victims in enumerate([["squalld"], ["squalld", "keeper"], ["squalld", "proxy"], ["keeper", "proxy"], ["quit"]]):
            inj = Injector(run_dir, f"{NAME}-{n}")
            rig = Attached(run_dir, prog, [f"127.0.0.1:{dep.port}"], inj)
            pids = {"squalld": inj.pid, "keeper": inj.keeper, "proxy": rig.proxy_pid()}
            assert rig.do(f"result = attempt({dep.port})['err']") == 0
            f = rig.fault("call/error", {"errno": "EHOSTUNREACH"})
            assert rig.do(f"result = attempt({dep.port})['err']") == 113
            # One that lives needs it itself, but not when its run has ended.
            if n == 0:
                other = Injector(run_dir, NAME + "-x")
                Rig.all.append(other)
                status, got = other.call("POST", f"runs/{other.run()}/services",
                                         {"name": "app", "select": {"pid": prog.pid}, "attach": "seccomp"})
                assert status == 409 and "another injector" in got["error"]["message"], (status, got)
                rig.inj.delete(f"runs/{rig.id}")
                second = Attached(run_dir, prog, [f"127.0.0.1:{dep.port}"], other)
                works(second, dep.port, child=False)
                other.delete(f"runs/{second.id}")
                rig = Attached(run_dir, prog, [f"127.0.0.1:{dep.port}"], inj)
                works(rig, dep.port, child=False)
            if victims == ["quit"]:
                inj.delete(f"runs/{rig.id}")
                inj.post("quit")
            else:
                for who in victims:
                    os.kill(pids[who], signal.SIGKILL)
            until("squalld is gone", lambda: not alive(inj.pid), 15)
            # What a dead proxy had in hand may be reset; ENOSYS is never seen.
            def calls():
                err = prog.do(f"result = attempt({dep.port})['err']")
                assert err in (0, 104, 111, 113), err
                return err == 0
            until("its calls go", calls)
            passes_on(prog, dep.port)
            if inj.keeper in pids.values() and "keeper" not in victims:
                os.kill(inj.keeper, signal.SIGTERM)  # it need not wait for the lease
        last = Attached(run_dir, prog, [f"127.0.0.1:{dep.port}"], Injector(run_dir, NAME + "-last"))
        works(last, dep.port, child=False)
        for pid in pids.values():
            until("those of the last injector are gone", lambda: not alive(pid))
        prog.end()
        last.inj.end()


def unix_socket(run_dir):
    """What BPF can't do for a program that runs already."""
    path = os.path.join(run_dir, "dep.sock")
    with Dependency(socket.AF_UNIX, path=path) as dep:
        prog = Program(run_dir)
        rig = Attached(run_dir, prog, [f"unix:{path}"])
        assert rig.do(ASK_UNIX % path) == "real"
        until("it is counted", lambda: len(rig.calls()) == 1)
        f = rig.fault("call/error", {"errno": "ECONNREFUSED"})
        assert rig.do(ASK_UNIX % path) == 111
        rig.clear(f)
        assert rig.do(ASK_UNIX % path) == "real"
        rig.inj.delete(f"runs/{rig.id}")
        assert rig.do(ASK_UNIX % path) == "real"
        prog.end()


def refused(run_dir):
    inj = Injector(run_dir, NAME)
    Rig.all.append(inj)
    run = inj.run()

    def says(text, **body):
        status, got = inj.call("POST", f"runs/{run}/services", {"name": "app", **body})
        assert status >= 400 and text in got["error"]["message"], (status, got)
    says("not all that ever are in a cgroup", select={"cgroup": "/"}, attach="seccomp")
    says("auto or seccomp", select={"pid": 1}, attach="ptrace")


if os.geteuid() != 0 or os.uname().machine != "x86_64":
    print("skipped: it needs root, on x86_64")
    sys.exit(0)
main([takes, many, taken_back, unix_socket, refused])
