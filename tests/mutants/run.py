#!/usr/bin/env python3
"""The kill matrix: the verifier against a service that is broken in one way at a time (scenarios/shop/defects.def).

    tests/mutants/run.py [DEFECT...]        "none": the sound ones

- Sound, the service passes each scenario, MUTANT_HEALTHY times (10) in all.
- Each defect of `matrix` is failed by its check, and by no check but those that may fail because of it.
- At a twentieth of the load each scenario is inconclusive, and so is every check but FACTS, whose facts are counted and
  not sampled. A defect is passed by no check; the one that is meant for it may fail it where so few requests prove it.
- A service that stopped calling its dependency (`cached`) proves nothing: no check of a breaker, fuse or storm passes.

MATRIX=FILE writes the table as Markdown. MUTANT_JOBS (5) runs go on at once; MUTANT_LOW=all runs each defect at the
low load, too, not just one for each check.

The shop's timeouts are 200 ms, so a host that stands still for half of that fails calls that nobody harmed. A watch
beside the runs notes such stalls. A run that is not as expected, and that the host disturbed (it stalled, the steady
state was not met, the probe missed its own schedule, squalld's keeper took it for hanging), is no result: it is done
again when the host is quiet, at most MUTANT_AGAIN (4) times, and counted. What is wrong on a quiet host is wrong.
"""
import concurrent.futures, queue, random, re

import os, sys
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from squall import *

HEALTHY = int(os.environ.get("MUTANT_HEALTHY", "10"))
JOBS = int(os.environ.get("MUTANT_JOBS", "5"))
AGAIN = int(os.environ.get("MUTANT_AGAIN", "4"))
STALL = 0.1  # seconds
LOW_ALL = os.environ.get("MUTANT_LOW") == "all"
FACTS = {"clean", "fault_felt", "alert"}
CHECKS = ["fault_felt", "slo", "timeout", "retries", "circuit_breaker", "fallback", "recovered", "clean", "budget",
          "retry_storm", "fuse", "fail_fast", "bulkhead", "failover", "alert", "canary"]
BLIND = {"circuit_breaker", "fuse", "retry_storm", "retries", "timeout", "fail_fast"}  # what no calls can't prove


def read_matrix():
    rows = []
    with open(os.path.join(HERE, "matrix")) as f:
        for line in f:
            fields = line.split("#")[0].split()
            if fields:
                rows.append((fields[0], fields[1], fields[2], set(fields[3:])))
    return rows


def seconds_of(scenario):
    """How long a run takes, about: the longest ones begin first."""
    with open(os.path.join(HERE, scenario + ".yaml")) as f:
        return sum(int(n) for n in re.findall(r"(?:for|duration|settle|wait): ([0-9]+)s$", f.read(), re.M))


def scenario_vars(scenario):
    with open(os.path.join(HERE, scenario + ".yaml")) as f:
        line = next(l for l in f if l.startswith("vars:"))
    return {k: float(v) for k, v in re.findall(r"(rate|other): ([0-9.]+)/s", line)}


slots = queue.Queue()  # of ports but for their last digit, below those that the kernel gives to whoever connects
for ports in random.sample(range(2000, 3200), 1200):
    if slots.qsize() < JOBS and all(port_is_free(10 * ports + i) for i in range(10)):
        slots.put(ports)


watch = Stalls(STALL)


class Run:
    """One run of a scenario: marks is {check: worst verdict}, wrong what is not as expected."""

    def __init__(self, scenario, broken, low, check, allowed):
        self.scenario, self.broken, self.low, self.disturbed = scenario, broken, low, []
        args = ["run", f"tests/mutants/{scenario}.yaml", "--var", f"broken={broken}", "--var", "shop=" + os.path.join(BUILD, "shop")]
        if low:
            for k, v in scenario_vars(scenario).items():
                args += ["--var", f"{k}={v / 20:g}/s"]
        ports = slots.get()
        try:
            while True:
                disturbed = self.once(args + ["--var", f"ports={ports}"])
                self.wrong = judge(self, check, allowed)
                if not self.wrong or not disturbed or len(self.disturbed) == AGAIN:
                    break
                self.disturbed.append(disturbed)
                watch.wait_quiet(30)
        finally:
            slots.put(ports)

    def once(self, args):
        """The run; returns how the host disturbed it, or ""."""
        host, begin = Host(), time.monotonic()
        out = os.path.join(host.out, "run")
        got = host.run(*args, "--out", out)
        self.code, self.text = got.returncode, got.stdout + got.stderr
        v = verdict(out) if os.path.exists(os.path.join(out, "verdict.json")) else {"checks": []}
        self.took = time.monotonic() - begin
        self.left = wait_clean(host, 10)
        host.close()
        self.results = v["checks"]
        order = ["pass", "inconclusive", "fail"]
        self.marks = {}
        for c in self.results:
            self.marks[c["check"]] = max(self.marks.get(c["check"], "pass"), c["verdict"], key=order.index)
        stall = watch.since(begin)
        if stall:
            return f"the host stood still for {stall * 1000:.0f} ms"
        for text in ("missed its own schedule", "steady state was not met", "keeper takes everything back"):
            if text in " ".join(self.text.split()):
                return text
        return ""

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
    if "steady state was not met" in " ".join(run.text.split()):
        wrong.append("nothing was injected")
    failed = run.failed()
    if run.low and run.broken == "none":
        if run.code != 3:
            wrong.append(f"exit {run.code}, not 3")
        wrong += [f"{c} decided" for c in sorted((run.passed_parts() | failed) - FACTS)]
    elif run.low:
        if run.code not in (1, 3):
            wrong.append(f"exit {run.code}, not 1 or 3")
        if run.marks.get(check) == "pass":
            wrong.append(f"{check} passed")
        wrong += [f"{c} passed" for c in sorted(run.passed_parts() - FACTS - {check})]
        wrong += [f"{c} failed, too" for c in sorted(failed - {check} - allowed)]
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


def described():
    with open(os.path.join(ROOT, "scenarios", "shop", "defects.def")) as f:
        return dict(re.findall(r'^DEFECT\(\w+, "([^"]+)", "([^"]+)"\)', f.read(), re.M))


HEAD = """# The kill matrix

Which check catches what: the demo shop, broken in one way at a time (`scenarios/shop/defects.def`), runs the scenarios
of `tests/mutants`. Written by `make check-mutants MATRIX=MATRIX.md`.

**F** fails, ? is inconclusive, · passes; an empty field: the scenario has no such check. The check that is *meant for
it* must fail; another one may only where `tests/mutants/matrix` says why. At a twentieth of the load the sound shop is
inconclusive in every check but those that count facts (`fault_felt`, `alert`, `clean`), and a defect is passed by none;
where so few requests prove it, it fails.

"""


def table(rows, healthy, low, f):
    used = [c for c in CHECKS if any(c in r.marks for r, *_ in rows + healthy + low)]
    what = described()
    f.write(HEAD)
    f.write("| scenario | what is broken | meant for it | " + " | ".join(used) + " |\n|" + " --- |" * (len(used) + 3) + "\n")

    def line(run, name, meant):
        f.write(f"| {run.scenario} | {name} | {meant} | " + " | ".join(MARK[run.marks.get(c)] for c in used) + " |\n")
    seen = set()
    for run, *_ in healthy:
        if run.scenario not in seen:
            n = [r for r, *_ in healthy if r.scenario == run.scenario]
            line(run, f"nothing ({sum(r.code == 0 for r in n)} of {len(n)} runs pass)", "")
        seen.add(run.scenario)
    for run, check, _ in rows:
        line(run, f"`{run.broken}`: {what[run.broken]}", check or "none may pass what needs calls")
    for run, check, _ in low:
        line(run, ("nothing" if run.broken == "none" else f"`{run.broken}`") + ", a twentieth of the load", check or "")


def main():
    begin = time.monotonic()
    rows = read_matrix()
    only = sys.argv[1:]
    scenarios = sorted({r[1] for r in rows})
    jobs = []  # (kind, scenario, broken, low, check, allowed)
    if not only or "none" in only:
        jobs += [("healthy", scenarios[i % len(scenarios)], "none", False, None, set()) for i in range(max(HEALTHY, len(scenarios)))]
    if not only:
        jobs += [("low", s, "none", True, None, set()) for s in scenarios]
        first = {}
        for d, s, check, _ in rows:
            first.setdefault(check, d)
        jobs += [("low", s, d, True, check, set()) for d, s, check, _ in rows if LOW_ALL or first[check] == d]
        jobs += [("mutant", s, "cached", False, None, set()) for s in ("slow", "refuse")]
    jobs += [("mutant", s, d, False, check, allowed) for d, s, check, allowed in rows if not only or d in only]

    jobs.sort(key=lambda j: -seconds_of(j[1]))
    done, bad = {"healthy": [], "low": [], "mutant": []}, 0
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        for (kind, _, _, _, check, allowed), run in zip(jobs, pool.map(lambda j: Run(*j[1:]), jobs)):
            done[kind].append((run, check, allowed))
            again = "".join(f" (again: {why})" for why in run.disturbed)
            print(f"{'WRONG' if run.wrong else 'ok':5}  {run.name():40} {run.took:3.0f} s, failed: {' '.join(sorted(run.failed())) or '-'}"
                  f"{'; ' + ', '.join(run.wrong) if run.wrong else ''}{again}", flush=True)
            if run.wrong:
                bad += 1
                print(run.explain(), flush=True)
    if os.environ.get("MATRIX"):
        with open(os.environ["MATRIX"], "w") as f:
            table(done["mutant"], done["healthy"], done["low"], f)
    again = sum(len(r.disturbed) for k in done.values() for r, *_ in k)
    print(f"{len(jobs)} runs, {bad} wrong, {again} done again, {time.monotonic() - begin:.0f} s; "
          f"the host stood still {len(watch.seen)} times, for {watch.since(0) * 1000:.0f} ms at most")
    sys.exit(bad > 0)


main()
