#!/usr/bin/env python3
"""A program under our seccomp filter whose squalld, keeper and proxy were all killed at once gets ENOSYS from each
connect; `squalld rescue` ends that, for the program, its threads and its children, for as long as it runs."""
import os
import signal
import subprocess
import sys
import time

from injector_lib import SQUALLD, state, until
from intercept_lib import ASK_CHILD, CHILD, NEW_CHILD, NO_BPF, Dependency, Rig, Without, main

ENOSYS = 38
# Threads that were there before, each of which calls when it is told so.
HELPERS = """
import threading, queue
sys.modules['ask'] = [queue.Queue() for _ in range(3)]; sys.modules['told'] = queue.Queue()
def worker(q):
    while True: sys.modules['told'].put(attempt(q.get())['err'])
for q in sys.modules['ask']: threading.Thread(target=worker, args=(q,), daemon=True).start()
result = 1
"""
THREADS = """
for q in sys.modules['ask']: q.put(%d)
result = [sys.modules['told'].get(timeout=5) for _ in sys.modules['ask']]
"""


def orphan(run_dir, dep):
    rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="seccomp", injector=Without(run_dir, NO_BPF))
    assert rig.do(HELPERS) == 1 and rig.do(CHILD) == 1
    proxy = rig.proxy_pid()
    for sig in (signal.SIGSTOP, signal.SIGKILL):  # at once: none of them sees another one die
        for pid in (rig.inj.keeper, rig.inj.pid, proxy):
            os.kill(pid, sig)
    rig.inj.wait()
    until("nobody answers", lambda: rig.do(f"result = attempt({dep.port})['err']") == ENOSYS)
    return rig


def rescue(*args):
    return subprocess.run([SQUALLD, "rescue", *args], capture_output=True, text=True, timeout=10)


def rescues(run_dir):
    with Dependency() as dep:
        rig = orphan(run_dir, dep)
        try:
            assert rig.do(ASK_CHILD % dep.port) == ENOSYS
            r = subprocess.Popen([SQUALLD, "rescue", str(rig.pid)], stdout=subprocess.PIPE, text=True)
            line = r.stdout.readline()
            assert f"process {rig.pid} is rescued (5 threads)" in line, line
            assert rig.do(f"result = attempt({dep.port})")["body"] == "real"
            assert rig.do(THREADS % dep.port) == [0, 0, 0]
            assert rig.do(ASK_CHILD % dep.port) == 0
            assert rig.do(NEW_CHILD % dep.port) == 0  # and children that come later
            # Signals and job control are the program's own.
            assert rig.do("import signal; n = []; signal.signal(signal.SIGUSR1, lambda *a: n.append(1));"
                          " os.kill(os.getpid(), signal.SIGUSR1); result = len(n)") == 1
            os.kill(rig.pid, signal.SIGSTOP)
            time.sleep(0.1)
            os.kill(rig.pid, signal.SIGCONT)
            assert rig.do(f"result = attempt({dep.port})['err']") == 0
            again = rescue(str(rig.pid))
            assert again.returncode == 5 and "cannot trace" in again.stderr, again
            assert r.poll() is None
            # Without the rescuer the filter is there again.
            r.kill()
            r.wait()
            assert rig.do(f"result = attempt({dep.port})['err']") == ENOSYS
            r = subprocess.Popen([SQUALLD, "rescue", str(rig.pid)], stdout=subprocess.PIPE, text=True)
            until("it is rescued again", lambda: rig.do(f"result = attempt({dep.port})['err']") == 0)
        finally:
            os.kill(rig.pid, signal.SIGKILL)
        assert r.wait(10) == 0


FORKS = """
import threading
def forks():
    for _ in range(60):
        if os.fork() == 0:
            os.closerange(3, 256); time.sleep(60); os._exit(0)
        time.sleep(0.011)
    sys.modules['forked'] = True
sys.modules['forked'] = False
threading.Thread(target=forks, daemon=True).start(); result = 1
"""


def below(pid):
    """It, and all that it has forked, and they."""
    found = [pid]
    for p in found:
        for t in os.listdir(f"/proc/{p}/task"):
            with open(f"/proc/{p}/task/{t}/children") as f:
                found += [c for c in map(int, f.read().split()) if state(c) not in ("", "Z")]
    return found


def tracer(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(f.read().split("\nTracerPid:")[1].split()[0])


def forks(run_dir):
    """Children that are made while the program is looked at are not forgotten."""
    with Dependency() as dep:
        rig = orphan(run_dir, dep)
        try:
            for _ in range(6):
                assert rig.do(FORKS) == 1
                time.sleep(0.1)
                r = subprocess.Popen([SQUALLD, "rescue", str(rig.pid)], stdout=subprocess.PIPE, text=True)
                assert "is rescued" in r.stdout.readline()
                until("it has forked all", lambda: rig.do("result = sys.modules['forked']"), 20)
                who = {p: tracer(p) for p in below(rig.pid)}
                missed = [p for p, t in who.items() if t != r.pid]
                assert len(who) > 60 and not missed, (len(who), missed)
                for p in who:
                    if p != rig.pid:
                        os.kill(p, signal.SIGKILL)
                r.kill()
                r.wait()
        finally:
            for p in reversed(below(rig.pid)):
                os.kill(p, signal.SIGKILL)


def refuses(run_dir):
    def says(got, status, text):
        assert got.returncode == status and text in got.stdout + got.stderr, got
    says(rescue(), 2, "usage:")
    says(rescue("x"), 2, "usage:")
    says(rescue("--help"), 0, "CONFIG_CHECKPOINT_RESTORE")
    says(rescue("4194303"), 2, "no process 4194303")
    p = subprocess.Popen(["sleep", "60"])
    says(rescue(str(p.pid)), 2, "nothing to rescue")
    p.kill()
    p.wait()
    with Dependency() as dep:
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="seccomp", injector=Without(run_dir, NO_BPF))
        # A sandbox of its own would go, too.
        rig.do("import ctypes; b = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000));"
               " p = struct.pack('HxxxxxxP', 1, ctypes.addressof(b)); l = ctypes.CDLL(None); l.prctl(38, 1, 0, 0, 0);"
               " result = l.prctl(22, 2, p)")
        says(rescue(str(rig.pid)), 2, "under 2 seccomp filters")
        as_user = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", SQUALLD,
                                  "rescue", "--unconfined", str(rig.pid)], capture_output=True, text=True)
        says(as_user, 5, "needs root")
        rig.end()


if os.geteuid() != 0:
    print("skipped: it needs root")
    sys.exit(0)
main([rescues, forks, refuses])
