#!/usr/bin/env python3
"""Callers by nftables (nft_lib.py): whoever is killed in the middle of a fault, calls go direct, and no table is left."""
import os
import signal
import threading
import time

from attach_lib import Program
from injector_lib import until
from intercept_lib import Dependency, Rig, main
from nft_lib import HERE, Attached, Cgroup, begin, tables


def deaths(run_dir):
    """Whoever is killed in the middle of a fault: calls go direct, no table is left."""
    with Dependency(host=HERE) as dep, Cgroup() as cg:
        with Program(run_dir, cgroup=cg) as prog:
            call = f"result = attempt({dep.port}, {HERE!r})"
            every = [("call/error", {"errno": "ECONNREFUSED"}), ("call/latency", {"delay": "1s"}), ("call/blackhole", {})]
            rounds = [(who, fault) for who in (["squalld"], ["proxy"], ["squalld", "proxy"]) for fault in every]
            rounds += [(who, every[2]) for who in [["squalld", "keeper"], ["keeper"]] + 3 * [["squalld", "proxy"]]]
            for who, (uses, with_) in rounds:
                rig = Attached(run_dir, {"cgroup": cg}, [f"{HERE}:{dep.port}"], prog=prog)
                rig.fault(uses, with_)
                under_way = []
                t = threading.Thread(target=lambda: under_way.append(prog.do(f"result = attempt({dep.port}, {HERE!r}, timeout=12)")))
                t.start()
                time.sleep(0.2)
                pids = {"squalld": rig.inj.pid, "keeper": rig.inj.keeper, "proxy": rig.proxy_pid()}
                for w in who:
                    os.kill(pids[w], signal.SIGKILL)
                t.join(30)
                # Its own timeout is nobody's answer: what dies says so.
                assert under_way and under_way[0]["err"] != 110, (who, uses, under_way)
                until("calls go direct", lambda: prog.do(call)["err"] == 0 and not [x for x in tables() if "-edges-" in x])
                for _ in range(10):
                    r = prog.do(call)
                    assert r["body"] == "real" and r["total_ms"] < 900, (who, uses, r)
                if "keeper" not in who and who != ["proxy"]:
                    rig.inj.proc.wait(15)
                rig.inj.end()
                Rig.all.remove(rig.inj)
                until("no table is left", lambda: not tables(), 15)


begin()
main([deaths])
