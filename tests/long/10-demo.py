#!/usr/bin/env python3
"""The healthy demo passes every time (5 times here, DEMO_RUNS for more); each way to break it is caught by its own check."""
import os, sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from squall import *

RUNS = int(os.environ.get("DEMO_RUNS", "5"))
# what is broken: the check that is meant for it
BROKEN = {
    "no-breaker": "circuit_breaker",
    "never-opens": "circuit_breaker",
    "never-closes": "circuit_breaker",
    "no-timeout": "timeout",
    "retry-storm": "retries",
    "empty-fallback": "fallback",
}
HEALTHY_CHECKS = {"timeout", "retries", "fallback", "circuit_breaker"}


def demo(broken):
    host = Host()
    shop = os.path.join(BUILD, "shop")
    got = host.run("run", "scenarios/demo.yaml", "--var", f"broken={broken}", "--var", f"shop={shop}", "--out",
                   os.path.join(host.out, "run"))
    v = verdict(os.path.join(host.out, "run")) if os.path.exists(os.path.join(host.out, "run", "verdict.json")) else None
    left = wait_clean(host, 5)
    host.close()
    if left:
        die(f"demo {broken}: left behind: {left}\n{got.stdout}{got.stderr}")
    return got, v


for i in range(RUNS):
    got, v = demo("none")
    if got.returncode != 0:
        die(f"healthy run {i + 1}: exit {got.returncode}\n{got.stdout}{got.stderr}")
    print(f"healthy run {i + 1}: pass", flush=True)
for broken, check in BROKEN.items():
    got, v = demo(broken)
    if got.returncode != 1 or check not in failed_checks(v):
        die(f"{broken}: exit {got.returncode}, failed {v and failed_checks(v)}, wanted {check}\n{got.stdout}{got.stderr}")
    print(f"{broken}: caught by {check} (failed: {failed_checks(v)})", flush=True)
