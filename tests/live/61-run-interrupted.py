#!/usr/bin/env python3
"""Ctrl-C, a terminal that goes away, somebody's halt, a limit: the faults are taken back first, and nothing stays."""
import os
import signal
import time

from run_lib import Place, check, state_of

LONG = "[{id: pause, uses: process/pause, target: {service: payments}, duration: 60s}]"


def paused(p):
    pid = p.wait_record("fault", state="applied")["hit"][0]["pid"]
    check(state_of(pid) == "T" or os.path.exists(f"/proc/{pid}"), "not paused")
    return pid


def aborted(p, proc, by, within):
    begin = time.monotonic()
    out, err = proc.communicate(timeout=30)
    took = time.monotonic() - begin
    check(proc.returncode == 4, f"{by}: exit {proc.returncode}\n{out}{err}")
    check(took < within, f"{by}: took {took:.1f} s")
    check(p.end()["reason"] == "aborted" and p.end()["clean"] is True, f"{by}: {p.end()}")
    check(p.records("abort")[0]["by"] == by, f"{by}: {p.records('abort')}")
    off = p.records("fault", state="reverted")
    check(len(off) == 1 and off[0]["clean"] is True, f"{by}: {off}")
    check(p.records("snapshot", when="after"), f"{by}: no snapshot after")
    check(os.path.exists(f"{p.dir}/squall-runs/{p.evidence()[0]['id']}/report.html"), f"{by}: no report")
    check(not p.leftovers(), f"{by}: {p.leftovers()}")


for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    with Place() as p:
        proc = p.start("run", p.scenario(LONG))
        paused(p)
        proc.send_signal(sig)
        aborted(p, proc, "signal", 8)

# A second one leaves at once; what is not known to be back is not called clean, and the injector takes it back.
with Place() as p:
    proc = p.start("run", p.scenario(LONG, lease="2s"))
    paused(p)
    worker, _ = p.injector_pids()
    os.kill(worker, signal.SIGSTOP)  # so that the first one can't be done at once
    proc.send_signal(signal.SIGINT)
    time.sleep(0.3)
    proc.send_signal(signal.SIGINT)
    begin = time.monotonic()
    proc.communicate(timeout=10)
    check(time.monotonic() - begin < 2, "the second signal did not leave at once")
    check(proc.returncode == 6 and p.end()["clean"] is False and p.end()["left"], f"{proc.returncode} {p.end()}")
    check(not p.gone(8), f"left: {p.leftovers()}")

with Place() as p:
    proc = p.start("run", p.scenario(LONG))
    pid = paused(p)
    rc, out, err = p.run("halt")
    check(rc == 0 and "1 fault taken back" in out, f"halt: {rc} {out}{err}")
    check(state_of(pid) != "T", "still stopped after halt")
    aborted(p, proc, "halt", 8)
    rc, out, err = p.run("halt")
    check(rc == 0 and "nothing" in out, f"halt of nothing: {rc} {out}{err}")

with Place() as p:  # while nothing is faulted, too
    proc = p.start("run", p.scenario(LONG.replace("[", "[{id: breathe, wait: 60s}, ")))
    p.wait_record("phase", phase="wait")
    rc, out, err = p.run("halt")
    check(rc == 0, f"halt: {rc} {out}{err}")
    out, err = proc.communicate(timeout=30)
    check(proc.returncode == 4 and p.records("abort")[0]["by"] == "halt", f"{proc.returncode} {p.records('abort')} {out}{err}")
    check(not p.leftovers(), p.leftovers())

with Place() as p:
    proc = p.start("run", p.scenario(LONG.replace("60s", "5s"), safety=", max_duration: 6s"))
    paused(p)
    aborted(p, proc, "max_duration", 10)

with Place() as p:
    proc = p.start("run", p.scenario(LONG, safety=", abort_when: [{metric: error_rate, over: 50%, for: 2s, min_requests: 20}]"))
    paused(p)
    aborted(p, proc, "condition", 15)
    check("error_rate" in p.records("abort")[0]["why"], "why")
