#!/usr/bin/env python3
"""Control steps: with a dose of 0 everything is done but the harm, and fault_felt says so."""
import json

from run_lib import SHOP, Place, check

STEPS = """
    - {id: slow, uses: call/latency, target: {edge: checkout->payments}, with: {delay: 2s, dose: 0}, duration: 3s}
    - {id: kill, uses: process/kill, target: {service: payments}, with: {dose: 0%}, duration: 1s}
    - {id: pause, uses: process/pause, target: {service: payments}, with: {dose: 0}, duration: 2s}
    - {id: stop, uses: process/pause, target: {service: payments}, with: {dose: 0, method: signal}, duration: 2s}
    - {id: half, uses: call/latency, target: {edge: checkout->payments, percent: 50%}, with: {delay: 20ms, dose: 50%},
       duration: 4s}"""

with Place() as p:
    caller = f"""    checkout:
      command: [{json.dumps(SHOP)}, checkout, --port, "{p.port + 1}", --payments, "127.0.0.1:{p.port}"]
      port: {p.port + 1}
      ready: {{http: /healthz, within: 10s}}"""
    path = p.scenario(STEPS, more=caller, load=False, verify="""
    - {check: fault_felt, step: "*", min_calls: 20}
    - {check: slo, step: slow, thresholds: ["p(90)<1s"]}""", edges=f"""  edges: {{checkout->payments: {{from: checkout, to: [service:payments]}}}}
  load:
    cart:
      executor: constant-arrival-rate
      rate: 50/s
      request: {{url: "http://127.0.0.1:{p.port + 1}/cart", timeout: 3s}}
  lateness: {{over: 2s, share: 50%}}
  steady_state: {{for: 1s, thresholds: ["error_rate<50%"]}}""")
    rc, out, err = p.run("run", path)
    check(rc == 0, f"exit {rc}\n{out}{err}")
    for step in ("slow", "kill", "pause", "stop"):
        check(p.records("fault", state="applied", step=step)[0]["with"]["dose"] == 0, f"{step}: dose")
        check(p.records("fault", state="reverted", step=step)[0]["clean"], f"{step}: not clean")
    for step in ("kill", "pause", "stop"):
        done = p.records("fault", state="applied", step=step)[0]["readback"]["processes"]
        check([x["state"] for x in done] == ["spared"], f"{step}: {done}")
    check(p.records("fault", state="applied", step="slow")[0]["readback"]["percent"] == 0, "the share in force")
    check(not p.records("service", state="exited", instance="payments.0")
          or p.records("service", state="exited")[0]["t"] > p.records("fault", state="reverted", step="half")[0]["t"],
          "the kill killed")
    calls = [c for r in p.records("calls") for c in r["calls"]]
    faults = {p.records("fault", state="applied", step=s)[0]["fault"]: s for s in ("slow", "half")}
    hit = [c for c in calls if faults.get(c[6]) == "half"]
    check(not [c for c in calls if faults.get(c[6]) == "slow"], "the control step was felt")
    check(0.1 < len(hit) / 200 < 0.45, f"half of a half of about 200 calls: {len(hit)}")
    rc, out, err = p.run("verify", "--json", p.dir + "/squall-runs/" + p.evidence()[0]["id"])
    felt = [c for c in json.loads(out)["checks"] if c["check"] == "fault_felt"]
    check(len(felt) == 5 and all("a control step" in c["why"] for c in felt[:4]), f"{felt}")

    for bad, word in (("[{id: k, uses: process/kill, target: {service: payments}, with: {dose: 50%}, duration: 1s}]",
                       "half"),
                      ("[{id: n, uses: network/latency, target: {interface: lo}, with: {delay: 1ms, dose: 0}, "
                       "duration: 1s}]", "dose")):
        rc, out, err = p.run("check", p.scenario(bad))
        check(rc == 2 and word in out + err, f"{rc} {out}{err}")
