#!/usr/bin/env python3
"""What is left of callers in another network namespace when anything dies: nothing, and no call of theirs hangs."""
import os
import signal
import subprocess
import sys
import time

from attach_lib import Attached, Program, hooks_of
from injector_lib import Injector, alive, until
from intercept_lib import NAME, Dependency, main
from netns_lib import Net, ip, makers, there

TIMES = int(os.environ.get("TIMES", "1"))
# Calls without end, each of them over within its own timeout; what they came to, and how long the longest one took.
STORM = r"""
import threading
def storm():
    global most
    while not over:
        t0 = time.monotonic()
        r = attempt(PORT, timeout=3)
        most = max(most, time.monotonic() - t0)
        ends.append((r["err"], r["body"], t0))
"""


def program(run_dir, ns):
    return there(ns, lambda: Program(run_dir))


def call(port):
    return f"result = attempt({port})"


def deaths(run_dir):
    """kill -9 in the middle of a fault while calls go on: what is new goes direct, nobody waits, and all leave."""
    cases = [["squalld"], ["proxy"], ["maker"], ["keeper", "squalld"], ["squalld", "maker"]]
    for i in range(TIMES):
        for n, names in enumerate(cases):
            with Net() as net, there(net.c, Dependency) as dep:
                where = os.path.join(run_dir, f"{i}-{n}")
                os.mkdir(where)
                with program(where, net.c) as prog:
                    one(where, names, dep, prog)


def one(where, names, dep, prog):
    rig = Attached(where, {"pid": prog.pid}, [f"127.0.0.1:{dep.port}"])
    rig.fault("call/latency", {"delay": "300ms"})
    assert prog.do(call(dep.port))["ms"] >= 290
    until("sockets are made there", lambda: makers(rig.inj.pid))
    mine = {"squalld": rig.inj.pid, "proxy": rig.proxy_pid(), "keeper": rig.inj.keeper, "maker": makers(rig.inj.pid)[0]}
    prog.do("import builtins\n" + STORM + f"g = globals(); g['PORT'] = {dep.port}; g['over'] = False; g['most'] = 0.0\n"
            "g['ends'] = []; g['t'] = threading.Thread(target=storm); builtins.g = g; g['t'].start(); result = 0")
    time.sleep(0.4)
    for name in names:
        os.kill(mine[name], signal.SIGKILL)
    until(f"{names}: calls go direct", lambda: prog.do(call(dep.port))["ms"] < 250, 5)
    most, ends = prog.do("import builtins; g = builtins.g; g['over'] = True; g['t'].join(); result = [g['most'], g['ends']]")
    assert most < 2, (names, most)
    # Who was on the way to what died may be reset or refused; nobody waits, nobody gets half an answer.
    assert {(err, body) for err, body, _ in ends} <= {(0, "real"), (0, ""), (104, ""), (111, "")}, (names, ends[:100])
    # The kernel takes a moment to take the hooks of a dead process away; while it lives nobody's call is lost.
    failed = [t for _, body, t in ends if not body]
    assert not failed or (names == ["proxy"] and failed[-1] - failed[0] < 3), (names, failed)
    if names == ["maker"]:
        until("it is told", lambda: any("go past the proxy" in e["text"] for e in rig.events("warning")))
    if names in (["proxy"], ["maker"]):
        rig.end()
    until(f"{names}: all leave", lambda: not any(alive(p) for p in mine.values()), 10)
    assert not hooks_of(rig)
    if names not in (["proxy"], ["maker"]):
        rig.gone()


def hangs(run_dir):
    """A process that makes no sockets any more: the proxy does not wait for it, calls go direct."""
    with Net() as net, there(net.c, Dependency) as dep, program(run_dir, net.c) as prog:
        rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{dep.port}"])
        until("sockets are made there", lambda: makers(rig.inj.pid))
        os.kill(makers(rig.inj.pid)[0], signal.SIGSTOP)
        f = rig.fault("call/latency", {"delay": "300ms"})
        r = prog.do(call(dep.port))
        assert r["err"] in (0, 104), r
        until("it is told", lambda: any("go past the proxy" in e["text"] for e in rig.events("warning")))
        r = prog.do(call(dep.port))
        assert r["body"] == "real" and r["ms"] < 250, r
        rig.clear(f)
        os.kill(makers(rig.inj.pid)[0], signal.SIGCONT)
        rig.end()


def namespace_ends(run_dir):
    """It is kept for no longer than the edge: then its devices are gone."""
    with Net() as net:
        with there(net.c, Dependency) as dep, program(run_dir, net.c) as prog:
            rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{dep.port}"])
            assert prog.do(call(dep.port))["body"] == "real"
        ip("netns", "del", net.c)
        assert rig.inj.delete(f"runs/{rig.id}")["clean"]
        # The other end of its veth ends with it.
        until("the namespace is gone", lambda: not has_link(net.d), 10)
        rig.inj.post("quit")
        assert rig.inj.wait() == 0


def emptied(run_dir):
    """Nor for much longer than its last process lives; and it is taken again when somebody comes back to it."""
    with Net() as net, Net() as second, there(net.c, Dependency) as dep, program(run_dir, second.c) as first:
        with there(net.c, lambda: Program(run_dir, "other")) as prog:
            os.makedirs(os.path.join(run_dir, "x"))
            rig = Attached(os.path.join(run_dir, "x"), {"pattern": run_dir}, [f"127.0.0.1:{dep.port}"])
            until("sockets are made there", lambda: len(makers(rig.inj.pid)) == 2)
            assert prog.do(call(dep.port))["body"] == "real"
        until("the one that nobody lives in is left", lambda: len(makers(rig.inj.pid)) == 1, 15)
        assert first.do("result = 1") == 1
        rig.end()


def planned(run_dir):
    with Net() as net, Net(lo=False) as dark, program(run_dir, net.c) as prog,             there(dark.c, lambda: Program(run_dir, "dark")) as other:
        inj = Injector(run_dir, NAME)
        try:
            run = inj.run()
            notes = [inj.post(f"runs/{run}/plan", {"select": {"pid": p.pid}, "to": ["10.99.0.2:1"]})["notes"]
                     for p in (prog, other)]
            assert any("taken there" in n for n in notes[0]), notes
            assert any("loopback device is down" in n for n in notes[1]), notes
        finally:
            inj.end()


def has_link(ns):
    return "eth0" in subprocess.run(["ip", "-n", ns, "-o", "link"], capture_output=True, text=True).stdout


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("needs root")
        sys.exit(77)
    main([deaths, hangs, namespace_ends, emptied, planned])
