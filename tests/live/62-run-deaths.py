#!/usr/bin/env python3
"""squalld, its keeper, both, squall itself: killed or stopped while a fault is on. Nothing of the run stays."""
import json
import os
import signal
import time

from run_lib import SHOP, Place, check, state_of

LONG = "[{id: pause, uses: process/pause, target: {service: payments}, duration: 60s}]"


def begin(p, lease="2s"):
    proc = p.start("run", p.scenario(LONG, lease=lease))
    pid = p.wait_record("fault", state="applied")["hit"][0]["pid"]
    return proc, pid, *p.injector_pids()


def infrastructure(p, proc, what, within):
    start = time.monotonic()
    out, err = proc.communicate(timeout=30)
    took = time.monotonic() - start
    check(proc.returncode == 5, f"{what}: exit {proc.returncode}\n{out}{err}")
    check(took < within, f"{what}: took {took:.1f} s")
    check(p.end()["reason"] == "infrastructure" and p.end()["clean"] is True, f"{what}: {p.end()}")
    check(not p.leftovers(), f"{what}: {p.leftovers()}")


for what, pick, sig in (("squalld killed", lambda w, k: [w], signal.SIGKILL),
                        ("squalld stopped", lambda w, k: [w], signal.SIGSTOP),
                        ("keeper killed", lambda w, k: [k], signal.SIGKILL),
                        ("both killed", lambda w, k: [k, w], signal.SIGKILL)):
    with Place() as p:
        proc, pid, worker, keeper = begin(p, "10s")  # longer than it may take: nobody waits for it
        for v in pick(worker, keeper):
            os.kill(v, sig)
        infrastructure(p, proc, what, 12)
        check(state_of(pid) in (None, "Z"), f"{what}: the service lives ({state_of(pid)})")

# The proxy killed: calls go direct, and a run without its instrument is no run.
with Place() as p:
    caller = f"""    checkout:
      command: [{json.dumps(SHOP)}, checkout, --port, "${{port}}", --payments, "127.0.0.1:{p.port}"]
      port: {p.port + 1}
      ready: {{http: /healthz, within: 10s}}"""
    proc = p.start("run", p.scenario("[{id: slow, uses: call/latency, target: {edge: checkout->payments}, with: {delay: 1s}, "
                                     "duration: 60s}]", more=caller,
                                     edges="  edges: {checkout->payments: {from: checkout, to: [service:payments]}}"))
    p.wait_record("fault", state="applied")
    proxies = [pid for pid, cmd in p.processes().items() if "proxy" in cmd]
    check(len(proxies) == 1, f"proxies: {p.processes()}")
    os.kill(proxies[0], signal.SIGKILL)
    infrastructure(p, proc, "proxy killed", 12)
    check("proxy" in p.end()["why"], p.end()["why"])

# The keeper stops so late that squalld sees it only after everything is taken back.
with Place() as p:
    proc = p.start("run", p.scenario("[{id: pause, uses: process/pause, target: {service: payments}, duration: 1s}]"))
    p.wait_record("fault", state="applied")
    keeper = p.injector_pids()[1]
    os.kill(keeper, signal.SIGSTOP)
    out, err = proc.communicate(timeout=30)
    check(proc.returncode in (0, 3), f"keeper stopped late: exit {proc.returncode}\n{out}{err}")
    check(p.end()["clean"] is True and not p.leftovers(), f"keeper stopped late: {p.end()} {p.leftovers()}")

# squall killed: at the lease's end and 2 s at most everything is gone.
with Place() as p:
    proc, pid, worker, keeper = begin(p)
    proc.kill()
    proc.wait()
    check(p.leftovers(), "it was all gone before the lease ended")
    check(not p.gone(2 + 2), f"squall killed: {p.leftovers()}")
    check(not p.records("end"), "an end record of a killed run")

# squall stopped for longer than the lease: the same, and when it goes on it says what happened.
with Place() as p:
    proc, pid, worker, keeper = begin(p)
    proc.send_signal(signal.SIGSTOP)
    left = p.gone(2 + 2)
    check(not left, f"squall stopped: {left}")
    proc.send_signal(signal.SIGCONT)
    out, err = proc.communicate(timeout=20)
    check(proc.returncode == 4, f"squall stopped: exit {proc.returncode}\n{out}{err}")
    check(p.records("abort")[0]["by"] == "lease", f"{p.records('abort')}")
    check(p.end()["clean"] is True, f"{p.end()}")

# squalld and squall together.
with Place() as p:
    proc, pid, worker, keeper = begin(p)
    os.kill(worker, signal.SIGKILL)
    proc.kill()
    proc.wait()
    check(not p.gone(4), f"squalld and squall killed: {p.leftovers()}")
