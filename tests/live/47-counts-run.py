#!/usr/bin/env python3
"""A whole run with faults that count: a caller that tries twice hides the one call that fails, and the verdict says that
exactly as many were hit as were to be."""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from run_lib import SHOP, Place, check

# Answers a request with one of its own to the dependency; a second attempt when the first one fails.
CALLER = """
import http.client, http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        status = 503
        for _ in range(1 if self.path == "/ready" else 2):
            try:
                c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[2]), timeout=5)
                c.request("GET", "/healthz")
                status = c.getresponse().status
                c.close()
                break
            except OSError:
                pass
        self.send_response(status); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *unused): pass
http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""

with Place() as p:
    with open(p.dir + "/caller.py", "w") as f:
        f.write(CALLER)
    with open(p.dir + "/s.yaml", "w") as f:
        f.write(f"""apiVersion: squall/v1
kind: Scenario
metadata: {{name: counts}}
spec:
  services:
    payments: {{command: [{json.dumps(SHOP)}, payments, --port, "${{port}}"], port: {p.port}, ready: {{http: /healthz, within: 10s}}}}
    checkout: {{command: [/usr/bin/python3, {p.dir}/caller.py, "${{port}}", "{p.port}"], port: {p.port + 1},
      ready: {{http: /ready, within: 10s}}}}
  edges: {{checkout->payments: {{from: checkout, to: [service:payments]}}}}
  load:
    buy: {{executor: constant-arrival-rate, rate: 30/s, request: {{method: GET, url: "http://127.0.0.1:{p.port + 1}/", timeout: 5s}}}}
  lateness: {{over: 2s, share: 50%}}
  steady_state: {{for: 2s, thresholds: ["error_rate<1%"]}}
  steps:
    - {{id: once, uses: call/error, target: {{edge: checkout->payments, first: 1}}, duration: 3s, settle: 500ms}}
    - {{id: some, uses: call/error, target: {{edge: checkout->payments, after: 5, every: 2, first: 12}}, duration: 4s}}
  verify:
    - {{check: fault_felt, step: "*"}}
    - {{check: slo, step: once, endpoint: buy, thresholds: ["error_rate<10%"]}}
    - {{check: clean}}
  safety: {{lease: 5s}}
""")
    rc, out, err = p.run("plan", p.dir + "/s.yaml")
    check(rc == 0 and "hits the first 12 of every 2nd call after 5, of each instance" in out, f"plan: {rc}\n{out}{err}")
    rc, out, err = p.run("run", p.dir + "/s.yaml", timeout=90)
    found = {r["step"]: r for r in p.records("fault", state="reverted")}
    on = {r["step"]: r["fault"] for r in p.records("fault", state="applied")}
    calls = [c for r in p.records("calls") for c in r["calls"]]
    for step, want in (("once", 1), ("some", 12)):
        hit = [c for c in calls if c[6] == on[step]]
        check(len(hit) == want and all(c[2] == 1 for c in hit), f"{step}: {hit}")
        check(found[step]["hits"] == want and found[step]["seen"] > want, f"{step}: {found[step]}")
    bad = sum(sum(s["bad"].values()) for s in p.records("sample") if s["sec"] < found["once"]["t"])
    check(bad == 0, f"{bad} users felt the one call that failed")
    check("the first 1 of the calls" in err, f"progress: {err}")
    verdicts = [v for v in json.load(open(p.dir + "/squall-runs/" + p.evidence()[0]["id"] + "/verdict.json"))["checks"]]
    felt = [v for v in verdicts if v["check"] == "fault_felt"]
    check(len(felt) == 2 and all(v["verdict"] == "pass" for v in felt), f"{felt}")
    check(rc == 0, f"exit {rc}\n{out}{err}")
