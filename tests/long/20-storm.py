#!/usr/bin/env python3
"""kill -9 and SIGSTOP of any part at random moments of a run with a lease of 1 s: within 2 s of the lease's end nothing is
left. STORM_ROUNDS (20) rounds; STORM_SEED repeats a storm. With squalld and keeper killed together, what no descriptor owns
ends at the next start of any Squall program."""
import os, random, sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from squall import *

ROUNDS = int(os.environ.get("STORM_ROUNDS", "20"))
SEED = int(os.environ.get("STORM_SEED", random.randrange(1 << 30)))
VICTIMS = [("squalld",), ("squall",), ("squall-proxy",), ("squall-keeper",), ("squalld", "squall"), ("squalld", "squall-keeper")]
SCENARIO = os.path.join(ROOT, "tests", "long", "storm.yaml")


def evidence_has(run, what):
    try:
        with open(os.path.join(run, "evidence.jsonl")) as f:
            return what in f.read()
    except FileNotFoundError:
        return False


def storm(number, rng):
    victims = rng.choice(VICTIMS)
    sig = rng.choice([signal.SIGKILL, signal.SIGSTOP]) if victims != ("squalld", "squall-keeper") else signal.SIGKILL
    uid = 0 if os.geteuid() != 0 or rng.random() < 0.6 else NOBODY
    moment = rng.uniform(0.05, 9.0)
    what = f"round {number}: {sig.name} to {'+'.join(victims)} at {moment:.2f} s, uid {uid}"
    host = Host(uid)
    run = host.start("run", SCENARIO, "--var", f"shop={BUILD}/shop", "--out", os.path.join(host.out, "run"),
                     stdout=subprocess.DEVNULL, stderr=open(os.path.join(host.dir, "stderr"), "w"))
    time.sleep(moment)
    hit = host.by_name(*victims)
    for pid in hit:
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            pass
    # The lease was renewed at most now: it ends within 1 s, and 2 s later nothing may be left.
    frozen = [run.pid] if sig == signal.SIGSTOP and "squall" in victims else []
    if victims == ("squalld", "squall-keeper"):
        time.sleep(3)
        host.run("doctor", timeout=30)
        left = wait_clean(host, 2)
    else:
        # A controller that lives has its reports to write, and in rounds that hit nothing the whole run to finish.
        finishing = [] if frozen or "squall" in victims else [run.pid]
        if finishing and (not hit):
            run.wait(60)
        # A proxy that drains holds no fault: it may take a moment longer (the last wait below is for it, too).
        # A private injector that was never given a run has no lease: it leaves 10 s after its start.
        newborn = "squall" in victims and moment < 1 and not evidence_has(os.path.join(host.out, "run"), '"type":"service"')
        left = wait_clean(host, 12.0 if newborn else 3.0, frozen + finishing + ["squall-proxy"])
        if finishing:
            try:
                run.wait(20)
            except subprocess.TimeoutExpired:
                left.append(f"squall {run.pid} does not end")
    run.kill()
    run.wait()
    left = left or wait_clean(host, 5)
    print(f"{what}: hit {len(hit)}: {'clean' if not left else left}", flush=True)
    if left:
        with open(os.path.join(host.dir, "stderr")) as f:
            print(f.read()[-2000:])
        host.close()
        die(f"storm {SEED}: {what}: left behind: {left}")
    host.close()


print(f"storm: seed {SEED}, {ROUNDS} rounds", flush=True)
rng = random.Random(SEED)
for i in range(ROUNDS):
    storm(i + 1, rng)
