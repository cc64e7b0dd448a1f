#!/usr/bin/env python3
"""A breaker nobody here wrote (opossum on Node.js) before a dependency nobody here wrote (nginx): with the breaker the
scenario passes, without it it fails on exactly the breaker check, with too little load it is inconclusive."""
import os, sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from squall import *

got = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=os.path.join(ROOT, "tests", "node"),
                     capture_output=True, text=True)
if got.returncode:
    die(f"npm ci: {got.stdout}{got.stderr}")

for var, code, failed in (("breaker=on", 0, []), ("breaker=off", 1, ["circuit_breaker"]), ("rate=1/s", 3, [])):
    host = Host()
    got = host.run("run", "tests/node/opossum.yaml", "--var", var, "--out", os.path.join(host.out, "run"))
    path = os.path.join(host.out, "run")
    v = verdict(path) if os.path.exists(os.path.join(path, "verdict.json")) else {"checks": []}
    left = wait_clean(host, 5)
    host.close()
    if got.returncode != code or failed_checks(v) != failed or left:
        die(f"{var}: exit {got.returncode} not {code}, failed {failed_checks(v)} not {failed}, left {left}\n{got.stdout}{got.stderr}")
    if code == 3 and "inconclusive" not in [c["verdict"] for c in v["checks"] if c["check"] == "circuit_breaker"]:
        die(f"{var}: the breaker check decided on too little load\n{got.stdout}")
    print(f"{var}: exit {code}, failed {failed}", flush=True)
