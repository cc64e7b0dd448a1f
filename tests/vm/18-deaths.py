#!/usr/bin/env python3
"""kill -9 of squalld, and of squalld and keeper together, at random moments of apply, hold and revert of netem faults in both
directions: taken back by the keeper within lease + 2 s, or by the next start of a Squall program. VM_KILLS says how many
(20), VM_SEED which moments."""
import http.client
import os
import random
import signal
import threading

import vm

vm.boot(__file__)
from rig import *  # noqa: E402,F403
from rig import Host, SQUALLD, Squall, configured, difference, die, echo, least, subprocess, time, want, wire  # noqa: E402

KILLS = int(os.environ.get("VM_KILLS", "20"))
SEED = int(os.environ.get("VM_SEED", "0")) or random.randrange(1 << 30)


class Cycle(threading.Thread):
    """Applies faults in these directions, holds them, takes them back; what it was doing is in .phase."""

    def __init__(self, s, directions):
        super().__init__(daemon=True)
        self.s, self.directions, self.phase, self.began = s, directions, "before", time.monotonic()
        self.written = os.stat(os.path.join(s.inj.dir, "journal")).st_mtime_ns

    def run(self):
        try:
            self.phase = "apply"
            on = [self.s.on({"delay": "5ms"}, direction=d) for d in self.directions]
            self.phase = "hold"
            time.sleep(0.3)
            self.phase = "revert"
            for f in on:
                self.s.off(f)
            self.phase = "after"
        except (OSError, ValueError, http.client.HTTPException, SystemExit):
            pass  # squalld was killed


def look():
    return configured(routes=False)


def moment(rng, s, c, seconds):
    """Any; or soon after the undo record was written, which is when the kernel is touched first; or in the revert."""
    journal = os.path.join(s.inj.dir, "journal")
    how, written = rng.randrange(3), c.written
    end = time.monotonic() + 3 * seconds
    if how == 0:
        time.sleep(rng.uniform(0, seconds))
    elif how == 1:
        while os.stat(journal).st_mtime_ns == written and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.04))
    else:
        while c.phase in ("before", "apply", "hold") and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.04))


def one(host, before, rng, both, cycle):
    lease = 4 + 3 * int(cycle)
    s = Squall(host, lease=f"{lease}s")
    pids = host.by_name("squalld", "squall-keeper") if both else host.by_name("squalld")
    if len(pids) != 1 + both:
        die(f"squalld and keeper: {pids}")
    directions = rng.choice((("egress",), ("ingress",), ("ingress", "egress")))
    c = Cycle(s, directions)
    c.start()
    moment(rng, s, c, cycle * len(directions) / 2)
    phase = c.phase
    for sig in (signal.SIGSTOP, signal.SIGKILL) if both else (signal.SIGKILL,):  # stopped first: neither sees the other die
        for pid in pids:
            os.kill(pid, sig)
    killed = time.monotonic()
    if both:
        s.inj.proc.wait(10)
        got = subprocess.run([SQUALLD, "sweep"], env=host.env, timeout=30, capture_output=True, text=True)
        if got.returncode:
            die(f"sweep: {got.returncode} {got.stdout}{got.stderr}")
    while True:
        began = time.monotonic()  # looking takes its time, too
        now = look()
        if now == before:
            break
        if both or began > killed + lease + 2:
            die(f"{phase}, {'both' if both else 'squalld'} killed: {difference(before, now)}")
    took = began - killed
    s.inj.proc.wait(15)
    c.join(25)
    return phase, took


def main():
    rng = random.Random(SEED)
    wire()
    other = echo("sq-n")
    host = Host()
    least()
    before = look()
    s = Squall(host)  # how long a cycle takes here
    c = Cycle(s, ("ingress", "egress"))
    c.start()
    c.join(60)
    seconds = time.monotonic() - c.began
    want(f"an undisturbed cycle takes {seconds:.2f} s and leaves nothing", c.phase == "after" and look() == before, c.phase)
    s.quit()
    phases, worst = {}, [0, 0]
    for i in range(KILLS):
        both = i % 2
        phase, took = one(host, before, rng, both, seconds)
        phases[phase] = phases.get(phase, 0) + 1
        worst[both] = max(worst[both], took)
        print(f"{i + 1}: {'squalld and keeper' if both else 'squalld'} killed in {phase}: as before after {took:.2f} s", flush=True)
    want("traffic flows", 0 < least() < 10)
    left = [x for x in host.left() if "process" in x]
    want("no process is left", not left, left)
    print(f"seed {SEED}: {KILLS} kills, by phase {phases}; at most {worst[0]:.2f} s by the keeper, {worst[1]:.2f} s with the sweep")
    host.close()
    other.kill()


main()
