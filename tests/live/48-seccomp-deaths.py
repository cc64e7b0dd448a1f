#!/usr/bin/env python3
"""kill -9 of squalld, its keeper or the proxy (or two of them at once) in the middle of a fault on calls that seccomp takes:
a program that lives on never sees ENOSYS, a hang, or an answer to a blocking connect that only others get; and within
moments its calls go where they want to. SQUALL_ROUNDS (5) of each."""
import concurrent.futures
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from injector_lib import BUILD, SQUALLD, alive, child_named, until
from intercept_lib import NO_BPF, Dependency, Without

ROUNDS = int(os.environ.get("SQUALL_ROUNDS", "5"))
AT_ONCE = int(os.environ.get("SQUALL_AT_ONCE", "4"))
FAULTS = {
    "errno": ("call/error", {"errno": "ECONNREFUSED"}, "111"),
    "latency": ("call/latency", {"delay": "200ms"}, "0"),
    "blackhole": ("call/blackhole", {}, "62"),
    "bytes": ("call/slicer", {"size": 16, "delay": "20ms"}, "0"),
}
VICTIMS = {"squalld": ["squalld"], "proxy": ["proxy"], "keeper": ["keeper"]}
if os.environ.get("SQUALL_PAIRS"):
    VICTIMS = {"squalld+keeper": ["squalld", "keeper"], "squalld+proxy": ["squalld", "proxy"],
               "keeper+proxy": ["keeper", "proxy"]}
# What a call may get when the proxy that carried it dies: its connection is reset, and one not yet accepted refused.
CUT = {"104", "111", "32"}
OWN = "62"  # ETIME: the program's own timeout


class Caller:
    """A program under interception that does not end with its run (`squall exec`)."""

    def __init__(self, inj, run, port, nowait):
        got = inj.post(f"runs/{run}/exec", {"name": "app"})
        argv = [os.path.join(BUILD, "tests/live/deaths"), str(port)] + (["nowait"] if nowait else [])
        self.proc = subprocess.Popen([SQUALLD, "launch", "--connect", got["socket"], "--token", got["token"], "--", *argv],
                                     stdout=subprocess.PIPE, text=True)
        self.lines = []  # (when, errnos, oldest call)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.proc.stdout:
            got = json.loads(line)
            self.lines.append((time.monotonic(), got["got"], got["oldest_ms"]))

    def since(self, t):
        out = {}
        for _, got, _ in [x for x in self.lines if x[0] >= t]:
            for k, n in got.items():
                out[k] = out.get(k, 0) + n
        return out

    def oldest(self, t):
        return max((o for at, _, o in self.lines if at >= t), default=0)

    def end(self):
        self.proc.kill()
        self.proc.wait()


def one(victim, fault, rng):
    run_dir = tempfile.mkdtemp(prefix="squall-test-")
    inj = caller = None
    uses, params, felt = FAULTS[fault]
    try:
        with Dependency() as dep:
            inj = Without(run_dir, NO_BPF)
            run = inj.run(lease="60s")
            inj.post(f"runs/{run}/edges", {"name": "e", "from": "app", "to": [f"127.0.0.1:{dep.port}"]})
            caller = Caller(inj, run, dep.port, fault == "blackhole")
            until("it calls", lambda: caller.since(0).get("0", 0) > 20)
            inj.post(f"runs/{run}/faults", {"uses": uses, "target": {"edge": "e"}, "with": params})
            t0 = time.monotonic()
            time.sleep(0.06)
            until("the fault is felt", lambda: caller.since(t0 + 0.06).get(felt, 0) > 2)
            pids = {"squalld": inj.pid, "keeper": inj.keeper, "proxy": child_named(inj.pid, "squall-proxy")}
            time.sleep(rng.random() * 0.2)
            killed = time.monotonic()
            for who in VICTIMS[victim]:
                os.kill(pids[who], signal.SIGKILL)
            # Whatever was under way may still end by the program's own timeout (3 s at most); then all is as ever.
            def recovered():
                now = time.monotonic()
                got = caller.since(max(now - 0.3, killed + 0.1))
                return (now - killed > 0.4 and set(got) == {"0"} and got["0"] > 20
                        and caller.oldest(max(now - 0.2, killed + 0.1)) < 250)
            try:
                until("calls are answered again", recovered, 15)
            except AssertionError as e:
                raise AssertionError(f"{e}: {caller.since(time.monotonic() - 1)}, {caller.lines[-1][2]} ms") from e
            got, oldest = caller.since(killed), caller.oldest(killed)
            assert set(got) <= CUT | {"0", OWN}, f"{victim}, {fault}: {got}"
            assert oldest < 6000, f"{victim}, {fault}: a call took {oldest} ms"
            return time.monotonic() - killed
    finally:
        if caller:
            caller.end()
        if inj:
            inj.end()
            until("all are gone", lambda: not any(alive(p) for p in (inj.pid, inj.keeper)), 15)
        shutil.rmtree(run_dir, ignore_errors=True)


def main():
    if os.geteuid() != 0:
        print("skipped: it hides the cgroups")
        return 0
    bad, took = 0, {}
    only = sys.argv[1:]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = {}
        for n in range(ROUNDS):
            for v in VICTIMS:
                for f in FAULTS:
                    if not only or f"{v}/{f}" in only:
                        jobs[pool.submit(one, v, f, random.Random(n))] = (v, f)
        for job in concurrent.futures.as_completed(jobs):
            v, f = jobs[job]
            try:
                took.setdefault((v, f), [])
                took[v, f].append(job.result())
            except Exception as e:
                bad += 1
                print(f"FAIL {v}, {f}: {e}", flush=True)
    for (v, f), all_of in sorted(took.items()):
        print(f"ok   {v}, {f}: {len(all_of)} times; calls again within {max(all_of, default=0):.1f} s")
    return 1 if bad else 0


sys.exit(main())
