#!/usr/bin/env python3
"""Connects of sockets that can speak IPv6 only are held as all others are: latency and black holes on the connect itself,
by cgroup-BPF and by seccomp, and what becomes of those that are held when anything dies."""
import os
import signal
import socket
import subprocess
import sys

from destinations_lib import both
from injector_lib import Injector, alive, until
from intercept_lib import NAME, NO_BPF, Dependency, Rig, Without, main

WAYS = ("c.setsockopt(41, 26, 1)", "c.bind(('::1', 0))", "(c.setsockopt(41, 26, 1), c.setsockopt(1, 25, b'lo'))")
GAVE_UP = 2
# For a caller: a connect that goes on while it is asked other things.
BEGIN = r"""
import builtins
def begin(port):
    c = socket.socket(socket.AF_INET6); c.setsockopt(41, 26, 1); c.setblocking(False)
    assert c.connect_ex(("::1", port)) == 115
    builtins.begun, builtins.begun_at = c, time.monotonic()
def over(timeout):
    c = builtins.begun
    done = bool(select.select([], [c], [], timeout)[1])
    return {"done": done, "err": c.getsockopt(1, 4), "ms": (time.monotonic() - builtins.begun_at) * 1000}
def ask():
    c = builtins.begun; c.setblocking(True); c.settimeout(3)
    c.sendall(b"GET / HTTP/1.0\r\n\r\n")
    return b"".join(iter(lambda: c.recv(4096), b"")).split(b"\r\n\r\n", 1)[-1].decode()
"""
MANY = """
import threading
result = []
ts = [threading.Thread(target=lambda: result.append(%s)) for i in range(60)]
[t.start() for t in ts]; [t.join() for t in ts]
"""
BLOCKING = """
c = socket.socket(socket.AF_INET6); c.setsockopt(41, 26, 1)
if %r: c.setsockopt(1, 21, struct.pack("ll", 0, 300000))
t0 = time.monotonic()
e = c.connect_ex(("::1", %d)); result = {"err": e, "ms": (time.monotonic() - t0) * 1000}
c.close()
"""


def attempt(port, way=WAYS[0], **kw):
    more = "".join(f", {k}={v}" for k, v in kw.items())
    return f"attempt({port}, host='::1', family=socket.AF_INET6, prepare=lambda c: {way}{more})"


def rig6(run_dir, mode, dep, name=NAME):
    return Rig(run_dir, [f"[::1]:{dep.port}"], mode=mode,
               injector=Injector(run_dir, name) if mode == "bpf" else Without(run_dir, NO_BPF))


def latency(run_dir, mode):
    with Dependency(socket.AF_INET6, "::1") as dep:
        rig = rig6(run_dir, mode, dep)
        assert rig.answer["delays_connect"], rig.answer
        f = rig.fault("call/latency", {"delay": "300ms"})
        for way in WAYS:
            r = rig.do("result = " + attempt(dep.port, way))
            assert r["body"] == "real" and 290 <= r["ms"] < 1500, (way, r)
            assert mode == "seccomp" or r["peer"] == ["::1", dep.port], r
        r = rig.do(BLOCKING % (False, dep.port))
        assert r["err"] == 0 and 290 <= r["ms"] < 1500, r
        until("all are told", lambda: len(rig.calls()) == 4)
        assert all(c[5] >= 290 * 10**6 and c[6] == f["fault"] for c in rig.calls()), rig.calls()
        # The caller's own timeout fires, and that is told, too.
        r = rig.do("result = " + attempt(dep.port, timeout=0.1))
        assert r["err"] == 110, r
        until("it is told that it gave up", lambda: [c[1:3] for c in rig.calls()[4:]] == [[1, GAVE_UP]])
        # Many at once, none waits for another.
        got = rig.do(MANY % attempt(dep.port, timeout=8))
        assert len(got) == 60 and all(g["body"] == "real" and 290 <= g["ms"] < 5000 for g in got), got
        rig.clear(f)
        until("these are told", lambda: len(rig.calls()) == 65)
        f = rig.fault("call/latency", {"delay": "1500ms"}, percent="50%")  # longer than the first retransmission
        got = rig.do(MANY % attempt(dep.port, timeout=8))
        held = sum(g["ms"] >= 1490 for g in got)
        assert all(g["body"] == "real" for g in got) and 8 <= held <= 52, got  # 5.7 standard deviations
        until("the rest is told", lambda: len(rig.calls()) == 125)
        # A connect and its first request share one draw.
        assert sum(c[6] == f["fault"] for c in rig.calls()) == held, (held, rig.calls()[65:])
        rig.clear(f)
        r = rig.do("result = " + attempt(dep.port))
        assert r["body"] == "real" and r["ms"] < 1490, r
        assert not rig.events("warning"), rig.events("warning")
        rig.end()


def black_hole(run_dir, mode):
    with Dependency(socket.AF_INET6, "::1") as dep:
        rig = rig6(run_dir, mode, dep)
        f = rig.fault("call/blackhole")
        for way in WAYS:
            r = rig.do("result = " + attempt(dep.port, way, timeout=0.3))
            assert r["err"] == 110 and r["ms"] >= 290, (way, r)
        r = rig.do(BLOCKING % (True, dep.port))
        assert r["err"] == 115 and r["ms"] >= 290, r
        assert dep.requests == 0
        until("all four gave up", lambda: [c[1:3] for c in rig.calls()] == [[1, GAVE_UP]] * 4)
        rig.do(BEGIN + f"result = begin({dep.port})")
        assert not rig.do(BEGIN + "result = over(0.5)")["done"]
        rig.clear(f)
        r = rig.do(BEGIN + "result = over(3)")
        assert r["done"] and r["err"] == 0, r
        assert rig.do(BEGIN + "result = ask()") == "real"
        assert rig.do("result = " + attempt(dep.port))["body"] == "real"
        assert not rig.events("warning"), rig.events("warning")
        rig.end()


def deaths(run_dir, mode):
    """kill -9 while a connect is held by a black hole. Of squalld, and of its keeper: it goes on at once. Of the proxy: what
    has nobody to go to is refused, as by IPv4, and what is new goes direct."""
    with Dependency(socket.AF_INET6, "::1") as dep:
        for who in ("squalld", "both", "proxy"):
            where = os.path.join(run_dir, who)
            os.mkdir(where)
            rig = rig6(where, mode, dep, f"{NAME}-{who[0]}")  # a killed one leaves cgroups
            rig.fault("call/blackhole")
            proxy = rig.proxy_pid()
            rig.do(BEGIN + f"result = begin({dep.port})")
            assert not rig.do(BEGIN + "result = over(0.3)")["done"]
            if who == "proxy":
                os.kill(proxy, signal.SIGKILL)
            else:
                for pid in [rig.inj.keeper] * (who == "both") + [rig.inj.pid]:
                    os.kill(pid, signal.SIGKILL)
            r = rig.do(BEGIN + "result = over(5)")
            assert r["done"] and r["err"] == (111 if who == "proxy" else 0), (who, r)
            if who != "proxy":
                assert rig.do(BEGIN + "result = ask()") == "real"
            until("calls go direct", lambda: rig.do("result = " + attempt(dep.port))["body"] == "real")
            if who == "proxy":
                rig.end()
                continue
            if who == "both":
                os.kill(rig.pid, signal.SIGKILL)
            rig.inj.end()
            subprocess.run([os.path.join(os.environ.get("SQUALL_BUILD", "build"), "squalld"), "sweep"],
                           env=dict(os.environ, SQUALL_RUN_DIR=where), check=False, capture_output=True)
            until("the proxy leaves", lambda: not alive(proxy))


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("needs root")
        sys.exit(77)
    main([t for test in (latency, black_hole, deaths) for t in both(test)])
