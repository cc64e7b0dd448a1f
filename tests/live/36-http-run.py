#!/usr/bin/env python3
"""A whole run: 503 for 30 % of the calls of an edge, then for those with a header that nobody sends."""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile

BUILD = os.path.abspath(os.environ.get("SQUALL_BUILD", "build"))
SCENARIO = """
apiVersion: squall/v1
kind: Scenario
metadata: {name: http-share}
spec:
  services:
    payments: {command: ["SHOP", payments, --port, "${port}"], port: PAYMENTS, ready: {http: /healthz}}
    checkout: {command: ["SHOP", checkout, --port, "${port}", --payments, "127.0.0.1:PAYMENTS"], port: CHECKOUT, ready: {http: /healthz}}
  edges:
    checkout->payments: {from: checkout, to: [service:payments], protocol: http}
  load:
    browse: {executor: constant-arrival-rate, rate: 60/s, request: {url: "http://127.0.0.1:CHECKOUT/cart"}}
  lateness: {over: 5ms, share: 100%}
  steps:
    - {id: share, uses: call/http_status, target: {edge: checkout->payments, percent: 30%}, with: {status: 503}, duration: 8s}
    - {id: nobody, uses: call/http_status, target: {edge: checkout->payments, match: {header: {x-squall: probe}}}, duration: 3s}
  verify:
    - {check: fault_felt, step: share, min_calls: 10}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def main():
    d = tempfile.mkdtemp()
    try:
        text = SCENARIO.replace("SHOP", os.path.join(BUILD, "shop"))
        for name in ("PAYMENTS", "CHECKOUT"):
            text = text.replace(name, str(free_port()))
        with open(os.path.join(d, "s.yaml"), "w") as f:
            f.write(text)
        out = os.path.join(d, "out")
        r = subprocess.run([os.path.join(BUILD, "squall"), "run", os.path.join(d, "s.yaml"), "--out", out], timeout=90,
                           capture_output=True, text=True, env=dict(os.environ, SQUALL_RUN_DIR=os.path.join(d, "run")))
        assert r.returncode == 0, r.stdout + r.stderr
        with open(os.path.join(out, "evidence.jsonl")) as f:
            log = [json.loads(line) for line in f]
        ends = {o["step"]: o for o in log if o["type"] == "fault" and o["state"] == "reverted"}
        begin = [o["t"] for o in log if o["type"] == "fault" and o["state"] == "applied" and o["step"] == "share"][0]
        calls = [c for o in log if o["type"] == "calls" for c in o["calls"]]
        hit = [c for c in calls if c[6]]
        assert all(c[3] == 503 and c[2] == 1 for c in hit) and len(hit) == ends["share"]["acts"], (len(hit), ends)
        assert all(c[3] == 200 for c in calls if not c[6]), calls[:3]
        n = sum(begin * 1000 <= c[0] < ends["share"]["t"] * 1000 for c in calls)
        assert abs(len(hit) - 0.3 * n) <= 5 * (0.3 * 0.7 * n) ** 0.5 + 2, (len(hit), n)
        assert ends["nobody"]["acts"] == 0 and ends["nobody"]["unjudged"] == 0, ends
    finally:
        shutil.rmtree(d, ignore_errors=True)


main()
sys.exit(0)
