#!/usr/bin/env python3
"""Real runtimes as callers while squalld, its proxy, or squalld and one of proxy and keeper are killed in the middle of a
fault: no call ever hangs or sees what only a dead supervisor causes (ENOSYS), and the next ones go direct.

    tests/long/50-caller-deaths.py [ROUNDS [RUNTIME...]]     rounds for each runtime and way (5); java, go, node, python"""
import os, random, re, shutil, signal, sys, tempfile, threading, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "live"))
import runtimes_lib
from injector_lib import alive, child_named, until
from intercept_lib import Dependency

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
NAMES = sys.argv[2:] or ["python", "node", "java", "go"]
FAULTS = {
    "errno": ("call/error", {"errno": "ECONNREFUSED"}),
    "connect latency": ("call/latency", {"delay": "400ms"}),
    "black hole": ("call/blackhole", {}),
    "reset": ("call/reset", {"after": "200ms"}),
    "byte rate": ("call/bandwidth", {"rate": "2kbit"}),
}
TIMEOUT = 1500  # ms of the caller's own
SEEN = {"", "refused", "timeout", "reset"}


def harmless(error, victims):
    """What a network can do to a call. A proxy takes its connections with it, and each runtime has its own words for an
    answer that breaks off; none may say that there is no such system call."""
    return error in SEEN or "proxy" in victims and not re.search("ENOSYS|not implemented|errno", error)


def kill(pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def one(dir, name, command, how, fault, victims, rng):
    run_dir = tempfile.mkdtemp(dir=dir)
    with Dependency() as dep:
        c = runtimes_lib.Caller(run_dir, dep, name, command, how)
        app = c.inj.get(f"runs/{c.run}/services")["instances"][0]["pid"]
        pids = {"squalld": c.inj.pid, "keeper": c.inj.keeper, "proxy": child_named(c.inj.pid, "squall-proxy")}
        try:
            uses, with_ = FAULTS[fault]
            c.fault(uses, with_)
            got = []
            t = threading.Thread(target=lambda: got.append(c.call(timeout=TIMEOUT)))
            t.start()
            time.sleep(rng.uniform(0, 0.3))
            kill(pids[v] for v in victims)
            t.join(TIMEOUT / 1000 + 10)
            assert not t.is_alive() and got, "the call hangs"
            assert harmless(got[0]["error"], victims) and got[0]["ms"] < TIMEOUT + 2000, got[0]
            end = time.monotonic() + 10  # until the keeper or the proxy has seen it
            while (got := c.call(timeout=TIMEOUT))["status"] != 200:
                assert time.monotonic() < end, f"calls do not go direct: {got}"
            for _ in range(3):
                again = c.call(timeout=TIMEOUT)
                assert again["status"] == 200 and again["ms"] < TIMEOUT, again
        finally:
            # A squalld that lives ends its services with it; of a dead one they last until their lease ends.
            for pid in (pids["squalld"], pids["keeper"], app):
                try:
                    os.kill(pid, signal.SIGKILL if pid == app else signal.SIGTERM)
                except ProcessLookupError:
                    pass
            c.inj.proc.wait(20)
            until("all of it has ended", lambda: not any(alive(p) for p in (*pids.values(), app)), 20)


def main():
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    rng = random.Random(seed)
    print(f"seed {seed}", flush=True)
    # (The keeper alone is no way: squalld then ends, and its services with it.)
    ways = [["squalld"], ["proxy"], ["squalld", "keeper"], ["squalld", "proxy"]]
    dir = tempfile.mkdtemp(prefix="squall-test-")
    os.chmod(dir, 0o755)
    bad, done = 0, {}
    try:
        made = runtimes_lib.commands(dir)
        for name in NAMES:
            command = made[name]()
            for how in ("bpf", "seccomp"):
                for i in range(ROUNDS):
                    fault, victims = list(FAULTS)[i % len(FAULTS)], rng.choice(ways)
                    try:
                        one(dir, name, command, how, fault, victims, rng)
                    except (AssertionError, OSError) as e:
                        bad += 1
                        print(f"FAIL {name} {how} {fault}, killed {' and '.join(victims)}: {e}", flush=True)
                    key = (name, how)
                    done[key] = done.get(key, 0) + 1
                print(f"{name} {how}: {done[name, how]} rounds, {bad} bad so far", flush=True)
    finally:
        shutil.rmtree(dir, ignore_errors=True)
    sys.exit(1 if bad else 0)


main()
