#!/usr/bin/env python3
"""A run is stopped by an SLO of its SLO files whose budget burns too fast, as our own probe sees it: by availability, and by
a latency that only slow users have; not by an SLO that is met, nor at too little load."""
import os

from run_lib import Place, check

SLO = """slos:
  fast: {target: 95%, below: 200ms, endpoint: ping}
  good: {target: 99%, endpoint: ping}
"""
STEPS = "[{id: pause, uses: process/pause, target: {service: payments}, duration: %s}]"


def watched(p, step, conditions):
    with open(os.path.join(p.dir, "slo.yaml"), "w") as f:
        f.write(SLO)
    return p.run("run", p.scenario(STEPS % step, safety=f", abort_when: [{conditions}]", edges="  slos: [slo.yaml]"))


for name, why in (("good", "availability"), ("fast", "latency")):
    with Place() as p:
        # What the probe waits for 500 ms is bad for both: the burn rate is 100 and 20 at most.
        rc, out, err = watched(p, "40s", f"{{slo: {name}, burn_rate: 10, for: 3s, min_requests: 50}}")
        check(rc == 4 and p.end()["reason"] == "aborted", f"{why}: exit {rc}\n{out}{err}")
        stop, begun = p.records("abort", by="condition")[0], p.records("fault", state="applied")[0]
        check(name in stop["why"] and 0 < stop["t"] - begun["t"] < 25, f"{why}: {stop}, the fault came at {begun['t']}")
        # The fault was taken back, and its records are there.
        check(p.records("fault", state="reverted")[0]["clean"] and p.end()["clean"], f"{why}: {p.end()}")

with Place() as p:
    # Met, and burnt, but by fewer requests than are wanted: the run goes on to its end.
    rc, out, err = watched(p, "1s", "{slo: good, burn_rate: 90, for: 5s, min_requests: 50}, "
                                    "{slo: good, burn_rate: 1, for: 3s, min_requests: 100000}")
    check(rc == 0 and not p.records("abort"), f"exit {rc}\n{out}{err}")
print("ok")
