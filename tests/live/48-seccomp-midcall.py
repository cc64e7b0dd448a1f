#!/usr/bin/env python3
"""squalld is killed at the very moment at which it begins the connect of a program that waits in it (under seccomp): the
program's socket still is a blocking one, and its connect says what a blocking one says."""
import os
import signal
import socket
import subprocess
import sys
import threading

from injector_lib import alive, until
from intercept_lib import NO_BPF, Dependency, Rig, Without, main

UNIX = """
c = socket.socket(socket.AF_UNIX)
try: c.connect(%r); e = 0
except OSError as x: e = x.errno
result = {"err": e, "blocking": os.get_blocking(c.fileno())}
c.close()
"""


def traced(pid):
    try:
        with open(f"/proc/{pid}/status") as f:
            return "TracerPid:\t0" not in f.read()
    except FileNotFoundError:
        return True


def strike(rig, code):
    """What the call gets when squalld is killed as it enters connect(2), or sendto(2), for it. None: it made such a
    call of its own before."""
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=connect,sendto",
                               "-e", "inject=connect,sendto:signal=SIGKILL", "-p", str(rig.inj.pid)])
    until("squalld is traced", lambda: traced(rig.inj.pid), 10)
    if not alive(rig.inj.pid):
        tracer.wait()
        return None
    got = []
    t = threading.Thread(target=lambda: got.append(rig.do(code)), daemon=True)
    t.start()
    until("squalld is dead", lambda: not alive(rig.inj.pid), 15)
    t.join(20)
    tracer.wait()
    assert got, "the call hangs"
    return got[0]


def one(run_dir, to, code, fault):
    for i in range(3):
        where = os.path.join(run_dir, str(i))
        os.mkdir(where)
        if struck(where, to, code, fault):
            return
    raise AssertionError("squalld never was struck at the moment that is meant")


def struck(run_dir, to, code, fault):
    rig = Rig(run_dir, to, mode="seccomp", injector=Without(run_dir, NO_BPF))
    assert rig.do(code)["err"] == 0
    if fault:
        rig.fault("call/latency", {"delay": "300ms"})
        assert rig.do(code).get("ms", 0) > 200
    got = strike(rig, code)
    # It may be cut off with the proxy, but it is not told to come back later.
    assert not got or (got["err"] in (0, 104, 111) and got["blocking"]), got
    assert rig.do(code)["blocking"]
    os.kill(rig.pid, signal.SIGKILL)
    rig.inj.proc.terminate()  # the keeper need not wait for the lease
    rig.inj.proc.wait(20)
    Rig.all.remove(rig.inj)
    return got is not None


def tcp(run_dir):
    with Dependency() as dep:
        one(run_dir, [f"127.0.0.1:{dep.port}"], f"result = blocking({dep.port})", True)


def unix(run_dir):
    path = os.path.join(run_dir, "dep.sock")
    with Dependency(socket.AF_UNIX, path=path):
        one(run_dir, [f"unix:{path}"], UNIX % path, False)


if os.geteuid() != 0:
    print("skipped: it needs root")
    sys.exit(0)
main([tcp, unix])
