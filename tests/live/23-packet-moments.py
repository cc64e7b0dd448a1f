#!/usr/bin/env python3
"""The packet backend killed at random moments of apply, hold and revert: squalld, squalld and keeper, or its process.
Traffic flows within 100 ms, and nothing is left. SQUALL_DEATHS says how many moments (20), SQUALL_SEED which."""
import os
import random
import signal
import threading
import time

from packet_lib import Injector, Stream, Wire, configured, end_fault, faults, flows_after, main, packet_processes, same, sweep, until

CLSACT = {"SQUALL_PACKET_ATTACH": "clsact"}
KINDS = (({"delay": "30ms"}, "egress"), ({"loss": "5%"}, "both"), ({"delay": "1ms", "duplicate": "5%"}, "ingress"))


class Work(threading.Thread):
    """Faults come, stay for a while and go, until squalld is dead or says that its process is."""

    def __init__(self, inj, ns, rng):
        super().__init__()
        self.inj, self.ns, self.rng, self.going, self.count = inj, ns, rng, True, 0
        self.start()

    def run(self):
        try:
            run = self.inj.run(lease="60s")
            while self.going:
                mine = []
                for with_, direction in KINDS:
                    mine.append(faults(self.inj, run, self.ns, with_, direction))
                    self.count += 1
                time.sleep(self.rng.uniform(0, 0.1))
                for f in mine:
                    end_fault(self.inj, run, f)
                    self.count += 1
        except (OSError, AssertionError, ValueError):  # its squalld is dead, or its process
            pass


def death(w, run_dir, i, rng):
    inj = Injector(run_dir, name=f"p-{i}", env=CLSACT if i % 2 else {})
    stream, work = Stream(w, 1000), Work(inj, w.a, random.Random(rng.random()))
    who = ("squalld", "both", "process")[i % 3]
    time.sleep(rng.uniform(0.02, 0.9))
    killed = time.monotonic()
    for pid in {"squalld": [inj.pid], "both": [inj.keeper, inj.pid], "process": packet_processes(run_dir)}[who]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    # squalld goes on without its process: a new fault may get a new one, and delay again.
    took = flows_after(stream, killed, straight=who != "process")
    work.going = False
    if who == "process":
        inj.proc.terminate()
    stream.end()
    inj.proc.wait(30)
    work.join(30)
    until("packet processes are gone", lambda: not packet_processes(run_dir))
    sweep(run_dir, inj)
    return took, work.count


def random_moments(run_dir):
    n = int(os.environ.get("SQUALL_DEATHS", "20"))
    seed = int(os.environ.get("SQUALL_SEED", "23"))
    rng, worst, done = random.Random(seed), 0, 0
    with Wire("rnd") as w:
        before = configured(w.a, w.b)
        for i in range(n):
            try:
                took, count = death(w, run_dir, i, rng)
                worst, done = max(worst, took), done + count
                same(before, configured(w.a, w.b))
                assert os.listdir(run_dir) == [], os.listdir(run_dir)
            except BaseException:
                print(f"death {i} of seed {seed}", flush=True)
                raise
    print(f"{n} deaths among {done} applies and reverts, traffic flowed after {worst * 1e3:.1f} ms at most")


if __name__ == "__main__":
    main([random_moments])
