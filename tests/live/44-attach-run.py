#!/usr/bin/env python3
"""A whole run on a system that Squall did not start: its breaker is proven, and it lives on as if nothing had been."""
import json
import os
import subprocess
import sys
import time
import urllib.request

from run_lib import SHOP, Place, check

SCENARIO = """apiVersion: squall/v1
kind: Scenario
metadata: {{name: running}}
spec:
  services:
    checkout: {{select: {{port: {checkout}}}}}
  edges:
    checkout->payments: {{from: checkout, to: ["127.0.0.1:{payments}"], existing: reset}}
  load:
    cart:
      executor: constant-arrival-rate
      rate: 60/s
      connections: 200
      request: {{method: GET, url: "http://127.0.0.1:{checkout}/cart", timeout: 3s}}
      expect: {{status: [200]}}
  lateness: {{over: 2s, share: 50%}}   # a busy machine is not what is tested here
  steady_state: {{for: 4s, thresholds: ["error_rate<20%"]}}
  steps:
    - id: slow
      uses: call/latency
      target: {{edge: checkout->payments}}
      with: {{delay: 2s, jitter: 100ms}}
      duration: 13s
      settle: 9s
    - {{id: hang, uses: process/pause, target: {{service: checkout}}, duration: 1s, settle: 1s}}
  verify:
    - {{check: fault_felt, step: slow, min_calls: 10}}
    - {{check: fault_felt, step: hang}}
    - {{check: timeout, step: slow, edge: checkout->payments, max: 200ms, grace: 150ms}}
    - check: circuit_breaker
      step: slow
      edge: checkout->payments
      expect: {{opens_within: 6s, open_for: 2s, probes: 4, closes_within: 8s, tolerance: 20%}}
    - {{check: clean}}
"""


def answers(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=3) as r:
            return r.read().decode()
    except OSError:
        return None


if os.geteuid() != 0:
    print("skipped: the calls of programs that run already are for root")
    sys.exit(0)
with Place() as p:
    plain = {k: v for k, v in p.env.items() if k != "SQUALL_RUN_DIR"}
    payments = subprocess.Popen([SHOP, "payments", "--port", str(p.port)], env=plain)
    checkout = subprocess.Popen([SHOP, "checkout", "--port", str(p.port + 1), "--payments", f"127.0.0.1:{p.port}"], env=plain)
    p.children += [payments, checkout]
    end = time.monotonic() + 10
    while time.monotonic() < end and not (answers(p.port + 1, "/cart") and answers(p.port, "/healthz")):
        time.sleep(0.1)
    path = os.path.join(p.dir, "s.yaml")
    with open(path, "w") as f:
        f.write(SCENARIO.format(checkout=p.port + 1, payments=p.port))
    rc, out, err = p.run("plan", path)
    check(rc == 0 and f"pid {checkout.pid}" in out and "1 process now" in out, f"plan: {rc}\n{out}{err}")
    check("which would be reset" in out, f"plan does not tell of open connections:\n{out}")
    check(not p.records("run"), "plan made a run")
    rc, out, err = p.run("run", path)
    check(rc == 0, f"exit {rc}\n{out}{err}")
    edge = p.records("edge")[0]
    check(edge["mode"] == "bpf" and edge["existing"]["policy"] == "reset" and edge["existing"]["found"] >= 1 and
          edge["existing"]["left"] == 0, f"edge: {edge}")
    states = [(r["state"], r["instance"], r["pid"]) for r in p.records("service")]
    check(states == [("attached", "checkout.0", checkout.pid)], f"service: {states}")
    check({r["instance"] for r in p.records("calls")} == {"checkout.0"}, "whose calls")
    applied = p.records("fault", state="applied")
    check(applied[0]["readback"]["mode"] == "bpf" and applied[1]["hit"][0]["pid"] == checkout.pid, f"faults: {applied}")
    verdict = json.loads(p.run("verify", os.path.join(p.dir, "squall-runs", p.evidence()[0]["id"]), "--json")[1])
    check([c["verdict"] for c in verdict["checks"]] == ["pass"] * 5, f"{verdict}")
    check(payments.poll() is None and checkout.poll() is None, "a program that was there before has ended")
    check(answers(p.port + 1, "/cart"), "it does not answer any more")

    # One that is not there is said before anything is touched; so is one that nobody may take.
    with open(path, "w") as f:
        f.write(SCENARIO.format(checkout=1, payments=p.port))
    rc, out, err = p.run("plan", path)
    check(rc == 2 and "nobody listens on TCP port 1" in out, f"plan: {rc}\n{out}{err}")
    rc, out, err = p.run("run", path)
    check(rc != 0 and "nobody listens on TCP port 1" in out + err, f"run: {rc}\n{out}{err}")
    check(not p.records("fault"), "a fault was applied")
print("all right")
