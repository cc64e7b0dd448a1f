#!/usr/bin/env python3
"""The healthy demo passes every time (5 times here, DEMO_RUNS for more), and so do its second half, a bad network, and 503s; a broken
breaker is caught by its own check (tests/mutants has all the other ways to be broken)."""
import os, sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from squall import *

RUNS = int(os.environ.get("DEMO_RUNS", "5"))
NETWORK_RUNS = min(RUNS, 2) if RUNS <= 5 else RUNS
NAMESPACE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "demo"]


def demo(scenario, broken="none", inside=()):
    host = Host()
    out = os.path.join(host.out, "run")
    got = subprocess.run([*inside, SQUALL, "run", f"scenarios/{scenario}.yaml", "--var", f"broken={broken}", "--var",
                          "shop=" + os.path.join(BUILD, "shop"), "--out", out],
                         cwd=ROOT, env=host.env, timeout=240, capture_output=True, text=True)
    v = verdict(out) if os.path.exists(os.path.join(out, "verdict.json")) else None
    left = wait_clean(host, 5)
    host.close()
    if left:
        die(f"{scenario} {broken}: left behind: {left}\n{got.stdout}{got.stderr}")
    return got, v


def healthy(scenario, runs, inside=()):
    for i in range(runs):
        got, v = demo(scenario, inside=inside)
        if got.returncode != 0:
            die(f"{scenario}, run {i + 1}: exit {got.returncode}\n{got.stdout}{got.stderr}")
        print(f"{scenario}, run {i + 1}: pass", flush=True)


healthy("demo", RUNS)
healthy("demo-network", NETWORK_RUNS, NAMESPACE)
healthy("http-errors", 1)
for scenario, inside in (("demo", ()), ("demo-network", NAMESPACE), ("http-errors", ())):
    got, v = demo(scenario, "no-breaker", inside)
    if got.returncode != 1 or "circuit_breaker" not in failed_checks(v):
        die(f"{scenario} no-breaker: exit {got.returncode}, failed {v and failed_checks(v)}\n{got.stdout}{got.stderr}")
    print(f"{scenario} no-breaker: caught (failed: {failed_checks(v)})", flush=True)
