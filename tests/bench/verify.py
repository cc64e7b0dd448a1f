#!/usr/bin/env python3
"""What judging costs: an hour of evidence of a load of 20,000/s, as the probe would have written it (log-normal latencies with a slow
second mode, one stretch of a fault), and the time and memory of `squall verify` on it. Limit: 2 s of processor time.
  verify.py [SECONDS] [RATE]"""
import json
import math
import os
import random
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("SQUALL_BUILD", os.path.join(ROOT, "build"))
SQUALL = os.path.join(BUILD, "squall")
LIMIT = 2.0


def index(v):
    """The cell of a value, as injector/core/hist.c has it: 2048 cells for the first 2048 ns, 1024 for each doubling."""
    if v < 2048:
        return v
    shift = v.bit_length() - 11
    return shift * 1024 + (v >> shift)


class Law:
    """Cells of so many requests drawn from a law by its quantiles, with a little noise: no sampling of 20,000 each second."""

    def __init__(self, rng, n, median_ns, sigma, slow=0.0, slow_ns=0):
        self.rng, self.n = rng, n
        weights = {}
        inv = [self.normal((i + 0.5) / 4000) for i in range(4000)]
        for z in inv:
            weights[index(int(median_ns * math.exp(sigma * z)))] = weights.get(index(int(median_ns * math.exp(sigma * z))), 0) + 1 - slow
            if slow:
                k = index(int(slow_ns * math.exp(0.1 * z)))
                weights[k] = weights.get(k, 0) + slow
        total = sum(weights.values())
        self.cells = sorted((k, w / total) for k, w in weights.items())

    @staticmethod
    def normal(p):
        """Inverse of the normal distribution, by bisection."""
        lo, hi = -8.0, 8.0
        for _ in range(40):
            mid = (lo + hi) / 2
            lo, hi = (mid, hi) if 0.5 * math.erfc(-mid / math.sqrt(2)) < p else (lo, mid)
        return lo

    def second(self):
        out, left = [], self.n
        for k, w in self.cells:
            mean = self.n * w
            c = int(mean + self.rng.gauss(0, math.sqrt(mean)) + 0.5) if mean > 0.05 else 0
            if c > 0 and left > 0:
                c = min(c, left)
                out += [k, c]
                left -= c
        if left and out:
            out[-1] += left
        return out, self.n


def scenario(seconds, rate):
    th = [{"metric": "p", "p": 95.0, "op": "<", "value": 500000000, "text": "p(95)<500ms"},
          {"metric": "p", "p": 99.9, "op": "<", "value": 900000000, "text": "p(99.9)<900ms"},
          {"metric": "error_rate", "op": "<", "value": 1.0, "text": "error_rate<1%"}]
    return {"metadata": {"name": "hour", "tags": []}, "spec": {
        "services": {}, "edges": {}, "load": {"browse": {"executor": "constant-arrival-rate", "rate": float(rate), "request": {"url": "http://x/"}}},
        "steps": [{"id": "hour", "name": "hour", "wait": seconds * 10**9}],
        "verify": [{"check": "slo", "step": "hour", "endpoint": "browse", "thresholds": th, "confidence": 95.0}]}}


def write(path, seconds, rate):
    rng = random.Random(7)
    well, sick = Law(rng, rate, 900e3, 0.5), Law(rng, rate, 1100e3, 0.6, 0.02, 400e6)
    service = Law(rng, rate, 850e3, 0.45)
    with open(path, "w") as f:
        def put(o):
            f.write(json.dumps(o, separators=(",", ":")) + "\n")
        put({"t": 0, "type": "run", "v": 1, "id": "hour", "name": "hour", "start": "2026-11-21T00:00:00.000Z", "start_mono_ns": 0,
             "squall": "bench", "host": "bench", "seed": 1, "file": "", "scenario": scenario(seconds, rate)})
        put({"t": 0, "type": "phase", "phase": "wait", "state": "begin", "step": "hour"})
        for sec in range(seconds):
            law = sick if seconds // 3 <= sec < seconds // 3 + seconds // 10 else well
            h, n = law.second()
            hs, _ = service.second()
            hok, _ = law.second()
            put({"t": sec + 1.0, "type": "sample", "sec": sec, "endpoint": "browse", "planned": n, "sent": n, "ok": n - 2,
                 "bad": {"status": 2}, "status": {"200": n - 2, "503": 2}, "late": 0, "lag_late": 0, "reconnects": 0, "bytes": 13 * n,
                 "h": h, "hs": hs, "hok": hok, "m": {}})
        put({"t": seconds, "type": "phase", "phase": "wait", "state": "end", "step": "hour"})
        put({"t": seconds, "type": "probe", "endpoint": "browse", "planned": rate * seconds, "sent": rate * seconds, "done": rate * seconds,
             "lag_late": 0, "lag_share": 0.0, "void": False, "why": "", "max_lag_ns": 90000})
        put({"t": seconds, "type": "end", "reason": "completed", "why": "", "clean": True, "left": []})


def main():
    seconds, rate = (int(x) for x in (sys.argv[1:] + ["3600", "20000"][len(sys.argv) - 1:]))
    with tempfile.TemporaryDirectory(prefix="squall-bench-") as d:
        path = os.path.join(d, "evidence.jsonl")
        write(path, seconds, rate)
        times, peak = [], 0
        for _ in range(3):
            p = subprocess.Popen([SQUALL, "verify", "--json", d], stdout=subprocess.PIPE, text=True)
            out = p.stdout.read()
            _, status, usage = os.wait4(p.pid, 0)
            p.returncode = os.waitstatus_to_exitcode(status)
            verdict = json.loads(out)
            if verdict["verdict"] != "pass" or verdict["checks"][0]["n"] != seconds * rate:
                sys.exit("the verdict is wrong: %s" % out)
            times.append(usage.ru_utime + usage.ru_stime)
            peak = max(peak, usage.ru_maxrss)
        cost = sorted(times)[1]
        print("verify of %d s at %d/s: %.1f MB of evidence, %.2f s of processor time (limit %.1f), %.0f MB resident"
              % (seconds, rate, os.path.getsize(path) / 1e6, cost, LIMIT, peak / 1024))
        if seconds == 3600 and cost > LIMIT:
            sys.exit("FAIL: too slow")


main()
