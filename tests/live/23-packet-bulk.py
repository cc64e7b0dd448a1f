#!/usr/bin/env python3
"""Much through the packet backend: TCP with each kind of harm arrives whole, loss alone is the share that was asked for."""
import struct
import time

from packet_lib import MIB, MODES, V4, V6, Rig, Stream, end_fault, main, rtt, sh, takes, transfer, udp, until


def tcp(run_dir):
    cases = [({"delay": "0", "limit": 100000}, 48), ({"delay": "2ms"}, 48), ({"delay": "50ms"}, 32),
             ({"delay": "2ms", "duplicate": "5%"}, 16), ({"delay": "5ms", "reorder": "10%"}, 8),
             ({"delay": "2ms", "jitter": "500us"}, 8), ({"delay": "1ms", "corrupt": "0.5%"}, 4)]
    for env in MODES:
        with Rig(run_dir, env) as r:
            speeds = []
            for i, (with_, mib) in enumerate(cases):
                if with_["delay"] == "0":
                    with_ = {"duplicate": "0.001%"}
                f = r.fault(with_, "both" if i % 2 else "egress")
                speeds.append((with_, round(transfer(r.w.a, r.w.b, (V4 if i % 3 else V6)[1], mib * MIB))))
                end_fault(r.inj, r.run, f)
            print("tcp MB/s", "clsact" if env else "tcx", speeds)


def unanswered(ns, to, n):
    """How many of N datagrams to the echo, a millisecond apart, have no answer half a second after the last."""
    s, came = udp(ns), set()
    for i in range(n):
        s.sendto(struct.pack("!I", i), (to, 7))
        time.sleep(0.001)
    s.settimeout(0.5)
    while True:
        try:
            came.add(s.recv(100))
        except OSError:
            s.close()
            return n - len(came)


def loss(run_dir):
    """Loss alone needs no detour: no packet reaches the TAP, and TCP on this host does not hear of it."""
    for env in MODES:
        with Rig(run_dir, env) as r:
            for direction in ("egress", "ingress"):
                rtt(r.w.a, V4[1])  # the neighbours know each other: its packets would be lost, too
                f = r.fault({"loss": "20%"}, direction)
                tap = f"sqt{r.w.ifindex()}{direction[0]}"
                stream = Stream(r.w, 2000) if direction == "egress" else None
                n, lost = 2000, 0
                if stream:
                    until("datagrams are sent", lambda: len(stream.sent) > 3000)
                    missing = stream.end()
                    n, lost = len(stream.sent), len(missing)
                else:
                    lost = unanswered(r.w.a, V4[1], n)
                share, slack = lost / n, 5 * (0.2 * 0.8 / n) ** 0.5
                assert abs(share - 0.2) < slack, (direction, lost, n)
                text = sh("ip", "-n", r.w.a, "-s", "link", "show", tap)
                assert text.split("TX:")[1].split("\n")[1].split()[1] == "0", text
                end_fault(r.inj, r.run, f)
            takes(r.w.a, V4[1], 0)


if __name__ == "__main__":
    main([tcp, loss])
