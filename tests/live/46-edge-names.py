#!/usr/bin/env python3
"""Host names as destinations of an edge, whose addresses change while the run goes on; by BPF and by seccomp alike."""
import os
import subprocess
import sys
import time

from destinations_lib import both, errs, free_port, rig_for, say
from injector_lib import Injector, until
from intercept_lib import NAME, PYTHON, Dependency, main


def names(run_dir, mode):
    """A name's addresses change: the new one is taken within seconds, the old one stays; no call is lost or counted twice."""
    old, new, other = "127.46.0.1", "127.46.0.2", "127.46.0.3"
    port = free_port(old, new, other)
    with Dependency(host=old, port=port), Dependency(host=new, port=port), Dependency(host=other, port=port):
        rig = rig_for(run_dir, mode, [f"db.sqt:{port}"], f"{old} db.sqt\n")
        assert rig.answer["names"] == {"db.sqt": [old]}, rig.answer
        f = rig.fault("call/error")
        assert errs(rig, (old, port), (new, port), (other, port)) == [111, 0, 0]
        say(rig, f"{new} db.sqt\n")
        until("the change is told", lambda: rig.events("hosts"), 15)
        told = rig.events("hosts")[0]
        assert told["edge"] == "app->dep" and told["names"] == {"db.sqt": [new]} and told["addresses"] == 2, told
        assert errs(rig, (old, port), (new, port), (other, port)) == [111, 111, 0]
        rig.clear(f)
        n = 60
        say(rig, f"{other} db.sqt\n")
        got = rig.do(f"result = []\n"
                     f"for i in range({n}): result.append(attempt({port}, host='{old}')['body']); time.sleep(0.1)")
        assert got == ["real"] * n, got
        until("the second change is told", lambda: len(rig.events("hosts")) == 2, 10)
        until("every call is counted once", lambda: len([c for c in rig.calls() if c[1] == 0]) == n)
        time.sleep(0.3)
        assert len([c for c in rig.calls() if c[1] == 0]) == n
        assert len([c for c in rig.calls() if c[1:3] == [1, 1]]) == 3, rig.calls()  # those that the fault failed
        say(rig, "")
        until("a name without address is told", lambda: any("db.sqt" in e["text"] for e in rig.events("warning")), 15)
        f = rig.fault("call/error")
        assert errs(rig, (old, port), (new, port), (other, port)) == [111, 111, 111]
        rig.end()


def as_the_caller(run_dir):
    """Of a caller that runs already, in mounts of its own: its /etc/hosts says what a name means, not squalld's."""
    hosts = os.path.join(run_dir, "theirs")
    addr = "127.46.2.1"
    port = free_port(addr)
    with open(hosts, "w") as f:
        f.write(f"{addr} theirs.sqt\n")
    call = "import socket, time\nwhile 1:\n c = socket.socket(); print(c.connect_ex(('%s', %d)), flush=True); c.close(); time.sleep(0.1)"
    with Dependency(host=addr, port=port):
        app = subprocess.Popen(["unshare", "-m", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh", PYTHON, "-c",
                                call % (addr, port)], stdout=subprocess.PIPE, text=True)
        inj = None
        try:
            assert app.stdout.readline() == "0\n"
            inj = Injector(run_dir, NAME)
            run = inj.run(lease="60s")
            inj.post(f"runs/{run}/services", {"name": "app", "select": {"pid": app.pid}})
            got = inj.post(f"runs/{run}/edges", {"name": "app->theirs", "from": "app", "to": [f"theirs.sqt:{port}"]})
            assert got["names"] == {"theirs.sqt": [addr]}, got
            inj.post(f"runs/{run}/faults", {"uses": "call/error", "target": {"edge": "app->theirs"}})
            until("its call is hit", lambda: app.stdout.readline() == "111\n")
            assert inj.delete(f"runs/{run}")["clean"]
        finally:
            app.kill()
            app.wait()
            if inj:
                inj.end()


if os.geteuid() != 0:
    print("skipped: it needs root for a mount namespace")
    sys.exit(0)
main(both(names) + [as_the_caller])
