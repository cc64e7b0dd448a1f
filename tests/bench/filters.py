#!/usr/bin/env python3
"""FAULTS (100) faults of FILTERS (1,000) addresses each on one interface, by the API: applied one after the other, and
taken back newest first. Each stands beside its predecessors; were the rules built anew for each, the later ones would
take longer. Backends: those that this kernel has.

    filters.py [FAULTS FILTERS [BACKEND...]]"""
import os, shutil, sys, tempfile, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "live"))
import injector_lib  # noqa: E402
from packet_lib import Wire  # noqa: E402


def measure(inj, ns, backend, faults, filters):
    run, took, back, ids = inj.run(lease="600s"), [], [], []
    for i in range(faults):
        hosts = [f"10.{i}.{k >> 8}.{k & 255}" for k in range(filters)]
        body = {"uses": "network/latency", "with": {"delay": "1ms", "backend": backend},
                "target": {"interface": "v0", "namespace": ns, "match": {"host": hosts}, "spare_control": False}}
        begin = time.monotonic()
        ids.append(inj.post(f"runs/{run}/faults", body)["fault"])
        took.append(time.monotonic() - begin)
    for f in reversed(ids):
        begin = time.monotonic()
        assert inj.delete(f"runs/{run}/faults/{f}")["clean"]
        back.append(time.monotonic() - begin)
    inj.delete(f"runs/{run}")
    half, ms = faults // 2, 1000
    print(f"| {backend} | {sum(took):.2f} | {took[0] * ms:.0f} | {sum(took[1:half]) / (half - 1) * ms:.1f} | "
          f"{sum(took[half:]) / (faults - half) * ms:.1f} | {sum(back):.2f} |", flush=True)


def main():
    faults, filters = [int(x) for x in sys.argv[1:3]] if len(sys.argv) > 2 else (100, 1000)
    wire, run_dir = Wire("filters"), tempfile.mkdtemp(prefix="squall-bench-")
    inj = injector_lib.Injector(run_dir)
    print("| backend | applied, s | the first, ms | first half, ms each | second half | taken back, s |\n"
          "| --- | ---: | ---: | ---: | ---: | ---: |")
    try:
        for b in sys.argv[3:] or ("netem", "packet"):
            body = {"uses": "network/latency", "with": {"delay": "1ms", "backend": b},
                    "target": {"interface": "v0", "namespace": wire.a}}
            run = inj.run()
            able = inj.call("POST", f"runs/{run}/plan", body)[0] == 200
            inj.delete(f"runs/{run}")
            assert able or b not in sys.argv, f"this kernel has no {b}"
            if able:
                measure(inj, wire.a, b, faults, filters)
    finally:
        inj.proc.terminate()
        inj.proc.wait(20)
        wire.delete()
        shutil.rmtree(run_dir, ignore_errors=True)


main()
