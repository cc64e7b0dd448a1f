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

stalls = Stalls()


def once(var):
    host = Host()
    path = os.path.join(host.out, "run")
    got = host.run("run", "tests/node/opossum.yaml", "--var", var, "--out", path)
    v = verdict(path) if os.path.exists(os.path.join(path, "verdict.json")) else {"checks": []}
    left = wait_clean(host, 5)
    host.close()
    return got, v, left


for var, code, failed in (("breaker=on", 0, []), ("breaker=off", 1, ["circuit_breaker"]), ("rate=1/s", 3, [])):
    for attempt in range(5):
        begin = time.monotonic()
        got, v, left = once(var)
        breaker = [c["verdict"] for c in v["checks"] if c["check"] == "circuit_breaker"]
        unwell = "steady state was not met" in got.stdout
        wrong = got.returncode != code or failed_checks(v) != failed or left or unwell
        # Its timeout is 300 ms: a host that stood still, or was not well before any fault, says nothing of a breaker.
        if not wrong or not (stalls.since(begin) or unwell or "missed its own schedule" in got.stdout):
            break
        print(f"{var}: again, the host disturbed the run", flush=True)
        stalls.wait_quiet(30)
    if wrong:
        die(f"{var}: exit {got.returncode} not {code}, failed {failed_checks(v)} not {failed}, left {left}\n{got.stdout}{got.stderr}")
    if code == 3 and "inconclusive" not in breaker:
        die(f"{var}: the breaker check decided on too little load\n{got.stdout}")
    print(f"{var}: exit {code}, failed {failed}", flush=True)
