#!/usr/bin/env python3
"""The way through the packet backend: what is delayed arrives whole, in both directions, over IPv4 and IPv6, in VLANs, fragments
and jumbo frames, and on loopback; and nothing of it is left."""
import os
import socket
import struct
import time

from packet_lib import MIB, MODES, V4, V6, Echo, Rig, configured, end_fault, inside, main, takes, transfer, until


def delay(run_dir):
    for env in MODES:
        with Rig(run_dir, env) as r:
            fault = r.fault({"delay": "20ms"})
            for to in (V4[1], V6[1]):
                for size in (1, 1400, 9000, 60000):  # the larger ones in fragments
                    takes(r.w.a, to, 20, size=size)
            end_fault(r.inj, r.run, fault)
            takes(r.w.a, V4[1], 0)


def directions(run_dir):
    for env in MODES:
        with Rig(run_dir, env) as r:
            fault = r.fault({"delay": "15ms"}, "ingress")
            takes(r.w.a, V4[1], 15)
            both = r.fault({"delay": "10ms"}, "both")
            takes(r.w.a, V6[1], 35)
            end_fault(r.inj, r.run, fault)
            takes(r.w.a, V4[1], 20)
            end_fault(r.inj, r.run, both)
            takes(r.w.a, V4[1], 0)


def jumbo(run_dir):
    for mtu in (9000, 65535):
        with Rig(run_dir, mtu=mtu) as r:
            r.fault({"delay": "5ms"}, "both")
            for to in (V4[1], V6[1]):
                for size in (8900, 15900, 16100, 30000, 65400):
                    takes(r.w.a, to, 10, 3, size=size)


def ping(ns, to, n=5):
    """Times of ICMP echoes, ms."""
    with inside(ns):
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    s.settimeout(5)
    times = []
    for i in range(n):
        body = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xffff, i) + bytes(32)
        total = sum(struct.unpack("!20H", body))
        body = body[:2] + struct.pack("!H", ~((total & 0xffff) + (total >> 16)) & 0xffff) + body[4:]
        t = time.monotonic()
        s.sendto(body, (to, 0))
        while True:
            got = s.recv(2000)[20:]
            if got[0] == 0 and got[4:8] == body[4:8]:
                break
        times.append((time.monotonic() - t) * 1e3)
    s.close()
    return sorted(times)


def icmp(run_dir):
    with Rig(run_dir) as r:
        r.fault({"delay": "10ms"}, "both")
        ping(r.w.a, V4[1], 1)
        got = ping(r.w.a, V4[1], 20)
        assert 20 <= got[0] < 30, got


def vlan(run_dir):
    """Frames with a VLAN tag, both ways: they arrive delayed, with the tag, and as they were. The kernel keeps the tag of
    what comes in beside the packet, and that of what a packet socket sends in it."""
    with Rig(run_dir) as r:
        r.fault({"delay": "20ms"}, "both")
        ends = []
        for ns in (r.w.a, r.w.b):
            with inside(ns):
                s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                s.bind(("v0", 0))
                s.setsockopt(263, 8, 1)  # PACKET_AUXDATA
                s.settimeout(5)
                ends.append(s)
        for tx, rx in (ends, ends[::-1]):
            frame = b"\xff" * 6 + b"\x02\0\0\0\0\x09" + b"\x81\x00\x60\x07" + b"\x88\xb5" + os.urandom(300)
            t = time.monotonic()
            tx.send(frame)
            seen = []  # a socket sees what comes in before and after the detour
            while not seen or (seen[-1] < 0.02 and time.monotonic() < t + 5):
                data, ancillary, _, who = rx.recvmsg(2000, 256)
                if data[12:14] == b"\x88\xb5" and who[2] != 4:  # not what we sent
                    tci = struct.unpack("=IIIHHHH", ancillary[0][2][:20])[5]
                    assert tci == 0x6007 and data[14:] == frame[18:], (hex(tci), data)
                    seen.append(time.monotonic() - t)
            assert 0.02 <= seen[-1] < 0.5, seen
        for s in ends:
            s.close()


def loopback(run_dir):
    """lo itself: each packet passes twice; the sysctls that it takes come back."""
    with Rig(run_dir) as r:
        echo = [Echo(r.w.a, "127.0.0.1"), Echo(r.w.a, "::1"), Echo(r.w.a, V4[0])]
        plain = configured(r.w.a)
        f = r.fault({"delay": "10ms"}, "egress", dev="lo")
        for to in ("127.0.0.1", "::1", V4[0]):
            for size in (64, 30000):
                takes(r.w.a, to, 20, size=size, slack=10)
        assert transfer(r.w.a, r.w.a, "127.0.0.1", 8 * MIB) > 1
        end_fault(r.inj, r.run, f)
        until("the sysctls are as they were", lambda: configured(r.w.a) == plain)
        for e in echo:
            e.close()


if __name__ == "__main__":
    main([delay, directions, jumbo, icmp, vlan, loopback])
