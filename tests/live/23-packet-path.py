#!/usr/bin/env python3
"""The way through the packet backend: what is delayed, lost, duplicated or corrupted arrives whole or not at all, in both
directions, over IPv4 and IPv6, in VLANs, fragments and jumbo frames; and nothing of it is left."""
import os

from packet_lib import V4, V6, Echo, Injector, Wire, configured, end_fault, faults, main, rtts, same

MODES = ({}, {"SQUALL_PACKET_ATTACH": "clsact"})


def delay(run_dir):
    for env in MODES:
        with Wire("path") as w:
            echo = [Echo(w.b, V4[1]), Echo(w.b, V6[1])]
            before = configured(w.a, w.b)
            inj = Injector(run_dir, env=env)
            run = inj.run(lease="60s")
            plain = rtts(w.a, V4[1])
            fault = faults(inj, run, w.a, {"delay": "20ms"})
            for to in (V4[1], V6[1]):
                for size in (1, 1400, 9000, 60000):
                    got = rtts(w.a, to, 5, size=size)
                    assert len(got) == 5 and 20 <= got[0] < 25 and got[2] < 40, (env, to, size, got)
            end_fault(inj, run, fault)
            after = rtts(w.a, V4[1])
            assert after[5] < 10, (plain, after)
            inj.post("quit")
            assert inj.wait() == 0
            same(before, configured(w.a, w.b))
            for e in echo:
                e.close()


if __name__ == "__main__":
    main([delay])
