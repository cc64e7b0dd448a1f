#!/usr/bin/env python3
"""Faults on bytes in a whole run: fault_felt passes when they acted, is inconclusive when no byte gave them cause."""
import json

from run_lib import SHOP, Place, check

STEPS = """
    - {id: thin, uses: call/bandwidth, target: {edge: checkout->payments}, with: {rate: 80kbit}, duration: 3s}
    - {id: sliced, uses: call/slicer, target: {edge: checkout->payments}, with: {size: 20, delay: 1ms, stream: upstream},
       duration: 3s}
    - {id: far, uses: call/limit_data, target: {edge: checkout->payments}, with: {bytes: 1000000000}, duration: 3s}
    - {id: control, uses: call/reset, target: {edge: checkout->payments}, with: {dose: 0%}, duration: 3s}"""
WANT = {"thin": "pass", "sliced": "pass", "far": "inconclusive", "control": "pass"}

with Place() as p:
    caller = f"""    checkout:
      command: [{json.dumps(SHOP)}, checkout, --port, "{p.port + 1}", --payments, "127.0.0.1:{p.port}"]
      port: {p.port + 1}
      ready: {{http: /healthz, within: 10s}}"""
    path = p.scenario(STEPS, more=caller, load=False, verify="""
    - {check: fault_felt, step: "*", min_calls: 10}
    - {check: clean}""", edges=f"""  edges: {{checkout->payments: {{from: checkout, to: [service:payments]}}}}
  load:
    cart:
      executor: constant-arrival-rate
      rate: 30/s
      request: {{url: "http://127.0.0.1:{p.port + 1}/cart", timeout: 3s}}
  lateness: {{over: 2s, share: 50%}}
  steady_state: {{for: 1s, thresholds: ["error_rate<50%"]}}""")
    rc, out, err = p.run("run", path)
    check(rc == 3, f"exit {rc}\n{out}{err}")
    ends = {s: p.records("fault", state="reverted", step=s)[0] for s in WANT}
    check(ends["thin"]["acts"] > 10 and ends["thin"]["bytes"] > 100, f"{ends['thin']}")
    check(ends["sliced"]["acts"] > 10, f"{ends['sliced']}")
    check(ends["far"]["acts"] == 0 and ends["control"]["acts"] == 0, f"{ends}")
    check(all(e["clean"] for e in ends.values()), f"{ends}")
    rc, out, err = p.run("verify", "--json", p.dir + "/squall-runs/" + p.evidence()[0]["id"])
    felt = {c["step"]: c for c in json.loads(out)["checks"] if c["check"] == "fault_felt"}
    check({s: c["verdict"] for s, c in felt.items()} == WANT, f"{felt}")
    check("none of their bytes gave it cause" in felt["far"]["why"], f"{felt['far']}")
    check([c["verdict"] for c in json.loads(out)["checks"] if c["check"] == "clean"] == ["pass"], out)
