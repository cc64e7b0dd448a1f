#!/usr/bin/env python3
"""The kill matrix: the verifier against a service that is broken in one way at a time (scenarios/shop/defects.def).

    tests/mutants/run.py [DEFECT...]

- Sound, the service passes each scenario, MUTANT_HEALTHY times (10) in all.
- Each defect of `matrix` is failed by its check, and by no check but those that may fail because of it.
- At a twentieth of the load each scenario is inconclusive, and so is every check that depends on load; a defect is not
  passed by the check that is meant for it (FACTS says which checks may speak all the same: what they say is counted, not sampled).
- A service that stopped calling its dependency (`cached`) proves nothing: no check of a breaker, fuse or storm passes.

MATRIX=FILE writes the table as Markdown. MUTANT_JOBS (3) runs go on at once; MUTANT_LOW=all runs each defect at the
low load, too, not just one for each check. A run that the host disturbed (the probe missed its own schedule) is no
result: it is done again, at most twice, and counted.
"""
import concurrent.futures, queue, re

import os, sys
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from squall import *

HEALTHY = int(os.environ.get("MUTANT_HEALTHY", "10"))
JOBS = int(os.environ.get("MUTANT_JOBS", "3"))
LOW_ALL = os.environ.get("MUTANT_LOW") == "all"
FACTS = {"clean", "fault_felt", "alert"}
CHECKS = ["fault_felt", "slo", "timeout", "retries", "circuit_breaker", "fallback", "recovered", "clean", "budget",
          "retry_storm", "fuse", "fail_fast", "bulkhead", "failover", "alert", "canary"]
BLIND = {"circuit_breaker", "fuse", "retry_storm", "retries", "timeout", "fail_fast"}  # what no calls can't prove
BASE = 2100  # ports BASE0 to BASE9, and so on for each job


def read_matrix():
    rows = []
    with open(os.path.join(HERE, "matrix")) as f:
        for line in f:
            fields = line.split("#")[0].split()
            if fields:
                rows.append((fields[0], fields[1], fields[2], set(fields[3:])))
    return rows


def scenario_vars(scenario):
    with open(os.path.join(HERE, scenario + ".yaml")) as f:
        line = next(l for l in f if l.startswith("vars:"))
    return {k: float(v) for k, v in re.findall(r"(rate|other): ([0-9.]+)/s", line)}


slots = queue.Queue()
for slot in range(JOBS):
    slots.put(BASE + slot)


class Run:
    """One run of a scenario: marks is {check: worst verdict}, whys what the failed and undecided say."""

    def __init__(self, scenario, broken, low=False):
        self.scenario, self.broken, self.low, self.voided = scenario, broken, low, 0
        args = ["run", f"tests/mutants/{scenario}.yaml", "--var", f"broken={broken}", "--var", "shop=" + os.path.join(BUILD, "shop")]
        if low:
            for k, v in scenario_vars(scenario).items():
                args += ["--var", f"{k}={v / 20:g}/s"]
        ports = slots.get()
        try:
            while not self.once(args + ["--var", f"ports={ports}"]) and self.voided < 2:
                self.voided += 1
        finally:
            slots.put(ports)

    def once(self, args):
        host = Host()
        out = os.path.join(host.out, "run")
        got = host.run(*args, "--out", out)
        self.code, self.text = got.returncode, got.stdout + got.stderr
        v = verdict(out) if os.path.exists(os.path.join(out, "verdict.json")) else {"checks": []}
        self.left = wait_clean(host, 10)
        host.close()
        self.results = v["checks"]
        order = ["pass", "inconclusive", "fail"]
        self.marks = {}
        for c in self.results:
            self.marks[c["check"]] = max(self.marks.get(c["check"], "pass"), c["verdict"], key=order.index)
        return not any("missed its own schedule" in c["why"] for c in self.results)

    def failed(self):
        return {c for c, m in self.marks.items() if m == "fail"}

    def passed_parts(self):
        return {c["check"] for c in self.results if c["verdict"] == "pass"}

    def name(self):
        return f"{self.scenario} {self.broken}{' at a twentieth of the load' if self.low else ''}"

    def explain(self):
        return "".join(f"    {c['verdict']:12} {c['check']:15} {c.get('step', ''):7} {c['why']}\n" for c in self.results) + (self.text if self.code == 5 or not self.results else "")


def judge(run, check, allowed):
    """What is wrong with a run; empty: nothing."""
    wrong = [f"left behind: {run.left}"] if run.left else []
    failed = run.failed()
    if run.low:
        if run.code != 3:
            wrong.append(f"exit {run.code}, not 3")
        said = {c for c in run.passed_parts() | failed if c not in FACTS}
        wrong += [f"{c} decided" for c in sorted(said)] if run.broken == "none" else []
        if check and run.marks.get(check) == "pass" and check not in FACTS:
            wrong.append(f"{check} passed")
    elif run.broken == "none":
        if run.code != 0:
            wrong.append(f"exit {run.code}, not 0")
    elif run.broken == "cached":
        wrong += [f"{c} passed" for c in sorted(run.passed_parts() & BLIND)]
        if run.code == 0:
            wrong.append("exit 0")
    else:
        if check not in failed:
            wrong.append(f"{check} did not fail")
        wrong += [f"{c} failed, too" for c in sorted(failed - {check} - allowed)]
    return wrong


MARK = {"pass": "·", "inconclusive": "?", "fail": "**F**", None: ""}


def table(rows, healthy, low, f):
    used = [c for c in CHECKS if any(c in r.marks for r, *_ in rows + healthy + low)]
    f.write("# The kill matrix\n\nWritten by `make check-mutants MATRIX=MATRIX.md`. **F** fails, ? is inconclusive, · passes; "
            "an empty field: the scenario does not have that check. In *italics*: the check that is meant for the defect.\n\n")
    f.write("| scenario | what is broken | meant for it | " + " | ".join(used) + " |\n|" + " --- |" * (len(used) + 3) + "\n")

    def line(run, name, meant):
        f.write(f"| {run.scenario} | {name} | {f'*{meant}*' if meant else ''} | " +
                " | ".join(MARK[run.marks.get(c)] for c in used) + " |\n")
    seen = set()
    for run, *_ in healthy:
        if run.scenario not in seen:
            n = [r for r, *_ in healthy if r.scenario == run.scenario]
            line(run, f"nothing ({sum(r.code == 0 for r in n)} of {len(n)} runs pass)", "")
        seen.add(run.scenario)
    for run, check, _ in rows:
        line(run, run.broken, check)
    for run, check, _ in low:
        line(run, ("nothing" if run.broken == "none" else run.broken) + ", a twentieth of the load", check)


def main():
    begin = time.monotonic()
    rows = read_matrix()
    only = sys.argv[1:]
    scenarios = sorted({r[1] for r in rows})
    jobs = []  # (kind, scenario, broken, low, check, allowed)
    if not only:
        jobs += [("healthy", scenarios[i % len(scenarios)], "none", False, None, set()) for i in range(max(HEALTHY, len(scenarios)))]
        jobs += [("low", s, "none", True, None, set()) for s in scenarios]
        first = {}
        for d, s, check, _ in rows:
            first.setdefault(check, d)
        jobs += [("low", s, d, True, check, set()) for d, s, check, _ in rows if LOW_ALL or first[check] == d]
        jobs += [("mutant", s, "cached", False, None, set()) for s in ("slow", "refuse")]
    jobs += [("mutant", s, d, False, check, allowed) for d, s, check, allowed in rows if not only or d in only]

    done, bad = {"healthy": [], "low": [], "mutant": []}, 0
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        for (kind, _, _, _, check, allowed), run in zip(jobs, pool.map(lambda j: Run(j[1], j[2], j[3]), jobs)):
            wrong = judge(run, check, allowed)
            done[kind].append((run, check, allowed))
            again = f" (again {run.voided} times: the host disturbed the probe)" if run.voided else ""
            print(f"{'WRONG' if wrong else 'ok':5}  {run.name():40} failed: {' '.join(sorted(run.failed())) or '-'}"
                  f"{'; ' + ', '.join(wrong) if wrong else ''}{again}", flush=True)
            if wrong:
                bad += 1
                print(run.explain(), flush=True)
    if os.environ.get("MATRIX"):
        with open(os.environ["MATRIX"], "w") as f:
            table(done["mutant"], done["healthy"], done["low"], f)
    print(f"{len(jobs)} runs, {bad} wrong, {sum(r.voided for k in done.values() for r, *_ in k)} done again, {time.monotonic() - begin:.0f} s")
    sys.exit(bad > 0)


main()
