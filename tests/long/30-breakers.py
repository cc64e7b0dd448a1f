#!/usr/bin/env python3
"""Breakers that nobody here wrote: opossum and cockatiel on Node.js, HAProxy (its checks try again, not its users), nginx (passive, by
the second), and the package circuitbreaker of Python. With the breaker the scenario passes; without it it fails on
exactly the breaker check; with too little load that check is inconclusive.

    tests/long/30-breakers.py [opossum|cockatiel|haproxy|nginx|python]"""
import concurrent.futures, os, sys, threading

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from squall import *

NODE = os.path.join(ROOT, "tests", "node")
HERE = os.path.join(ROOT, "tests", "breakers")
BREAKERS = {
    # what it takes to start it, what its configuration says with and without a breaker, what is promised of it
    "opossum": {
        "command": ["node", NODE + "/opossum.js", "@FRONT@", "@DEPENDENCY@"],
        "on": "", "off": "",
        "expect": {"probes": "2", "open_for": "2s"},
    },
    # open for 1 s, 2 s, 4 s, 4 s
    "cockatiel": {
        "command": ["node", NODE + "/cockatiel.js", "@FRONT@", "@DEPENDENCY@"],
        "on": "", "off": "",
        "expect": {"probes": "2", "open_for": "1s"},
    },
    "haproxy": {
        "command": ["haproxy", "-db", "-f", "@DIR@/haproxy.cfg"],
        "on": "check inter 2s fall 1 rise 1 observe layer7 error-limit 5 on-error mark-down",
        "off": "",
        "expect": {"probes": "2", "open_for": "2s"},
    },
    "nginx": {
        "command": ["nginx", "-c", "@DIR@/nginx.conf", "-gdaemon off;"],
        "on": "max_fails=5 fail_timeout=2s",
        "off": "max_fails=0",
        "expect": {"probes": "2", "open_for": "2s"},
    },
    # its half-open lets everybody through until the first one fails: those of 300 ms
    "python": {
        "command": ["/usr/bin/python3", HERE + "/service.py", "@FRONT@", "@DEPENDENCY@"],
        "on": "", "off": "",
        "expect": {"probes": "30", "open_for": "2s"},
    },
}


given, lock = set(), threading.Lock()


def free_ports(n):
    ports = []
    with lock:
        while len(ports) < n:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
            if port not in given:
                given.add(port)
                ports.append(port)
    return ports


def once(name, breaker, rate):
    b, host = BREAKERS[name], Host()
    front, dependency, backup = free_ports(3)
    words = {"DIR": host.dir, "FRONT": front, "DEPENDENCY": dependency, "BACKUP": backup, "BREAKER": b[breaker]}

    def fill(text):
        for word, value in words.items():
            text = text.replace(f"@{word}@", str(value))
        return text

    for f in ("dependency.conf", "haproxy.cfg", "nginx.conf", "stale.http"):
        with open(os.path.join(HERE, f), newline="") as source, open(os.path.join(host.dir, f), "w", newline="") as copy:
            copy.write(fill(source.read()))
    program, a, b_, c = (fill(w) for w in b["command"])
    variables = {"dir": host.dir, "front": front, "dependency": dependency, "program": program, "a": a, "b": b_, "c": c,
                 "breaker": breaker, "rate": rate, **b["expect"]}
    args = [x for k, v in variables.items() for x in ("--var", f"{k}={v}")]
    path = os.path.join(host.out, "run")
    got = host.run("run", "tests/breakers/breaker.yaml", *args, "--out", path)
    v = verdict(path) if os.path.exists(os.path.join(path, "verdict.json")) else {"checks": []}
    left = wait_clean(host, 5)
    host.close()
    return got, v, left


def judge(name, what, breaker, rate, code, failed):
    for attempt in range(5):
        begin = time.monotonic()
        got, v, left = once(name, breaker, rate)
        said = {c["check"]: c["verdict"] for c in v["checks"]}
        wrong = got.returncode != code or failed_checks(v) != failed or left
        if code == 3 and said.get("circuit_breaker") != "inconclusive" or "steady state was not met" in got.stdout:
            wrong = True
        # Timeouts are 300 ms here: a host that stood still, or was not well before any fault, says nothing of a breaker.
        disturbed = stalls.since(begin) or "missed its own schedule" in got.stdout or "steady state was not met" in got.stdout
        if not wrong or not disturbed:
            break
        print(f"{name} {what}: again, the host disturbed the run", flush=True)
        stalls.wait_quiet(30)
    if wrong:
        die(f"{name} {what}: exit {got.returncode} not {code}, failed {failed_checks(v)} not {failed}, left {left}\n"
            f"{got.stdout}{got.stderr}")
    why = next(c["why"] for c in v["checks"] if c["check"] == "circuit_breaker")
    print(f"{name} {what}: exit {code}, failed {failed}: {why}", flush=True)


stalls = Stalls()


def judge_all(name):
    judge(name, "with its breaker", "on", "40/s", 0, [])
    judge(name, "without it", "off", "40/s", 1, ["circuit_breaker"])
    judge(name, "at too little load", "on", "1/s", 3, [])


names = sys.argv[1:] or list(BREAKERS)
if any(BREAKERS[name]["command"][0] == "node" for name in names):
    install(NODE)
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for done in [pool.submit(judge_all, name) for name in names]:
        done.result()
