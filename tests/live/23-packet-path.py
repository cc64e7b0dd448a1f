#!/usr/bin/env python3
"""The way through the packet backend: what is delayed, lost, duplicated or corrupted arrives whole or not at all, in both
directions, over IPv4 and IPv6, in VLANs, fragments and jumbo frames; and nothing of it is left."""
import hashlib
import os
import socket
import struct
import threading
import time

from packet_lib import (V4, V6, Echo, Injector, Stream, Wire, configured, end_fault, faults, inside, main, rtt, rtts, same, sh,
                        until)

MODES = ({}, {"SQUALL_PACKET_ATTACH": "clsact"})


class Rig:
    """A wire with echoes at its end, and a squalld with a run; nothing of that may be left."""

    def __init__(self, run_dir, env=None, mtu=1500):
        self.run_dir, self.env, self.mtu = run_dir, env, mtu

    def __enter__(self):
        self.w = Wire("path", self.mtu)
        self.echo = [Echo(self.w.b, V4[1]), Echo(self.w.b, V6[1])]
        self.before = configured(self.w.a, self.w.b)
        self.inj = Injector(self.run_dir, env=self.env)
        self.run = self.inj.run(lease="60s")
        return self

    def fault(self, with_, direction="egress", **kw):
        return faults(self.inj, self.run, kw.pop("ns", self.w.a), with_, direction, **kw)

    def __exit__(self, kind, value, tb):
        for e in self.echo:
            e.close()
        try:
            if kind is None:
                self.inj.post("quit")
                assert self.inj.proc.wait(15) == 0
                same(self.before, configured(self.w.a, self.w.b))
        finally:
            self.inj.proc.kill()
            self.w.delete()


def delay(run_dir):
    for env in MODES:
        with Rig(run_dir, env) as r:
            fault = r.fault({"delay": "20ms"})
            for to in (V4[1], V6[1]):
                for size in (1, 1400, 9000, 60000):  # the larger ones in fragments
                    got = rtts(r.w.a, to, 5, size=size)
                    assert len(got) == 5 and 20 <= got[0] < 25 and got[2] < 40, (env, to, size, got)
            end_fault(r.inj, r.run, fault)
            after = rtts(r.w.a, V4[1])
            assert after[5] < 10, after


def directions(run_dir):
    for env in MODES:
        with Rig(run_dir, env) as r:
            fault = r.fault({"delay": "15ms"}, "ingress")
            got = rtts(r.w.a, V4[1])
            assert 15 <= got[0] < 25, got
            both = r.fault({"delay": "10ms"}, "both")
            got = rtts(r.w.a, V6[1])
            assert 35 <= got[0] < 45, got
            end_fault(r.inj, r.run, fault)
            got = rtts(r.w.a, V4[1])
            assert 20 <= got[0] < 30, got
            end_fault(r.inj, r.run, both)
            assert rtts(r.w.a, V4[1])[5] < 10


def jumbo(run_dir):
    for mtu in (9000, 65535):
        with Rig(run_dir, mtu=mtu) as r:
            r.fault({"delay": "5ms"}, "both")
            for to in (V4[1], V6[1]):
                for size in (8900, 15900, 16100, 30000, 65400):
                    got = rtts(r.w.a, to, 3, size=size)
                    assert len(got) == 3 and got[0] >= 10, (mtu, to, size, got)


def ping(ns, to, n=5):
    """Times of ICMP echoes, ms."""
    with inside(ns):
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    s.settimeout(2)
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
        got = ping(r.w.a, V4[1])
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
                s.settimeout(1)
                ends.append(s)
        for tx, rx in (ends, ends[::-1]):
            frame = b"\xff" * 6 + b"\x02\0\0\0\0\x09" + b"\x81\x00\x60\x07" + b"\x88\xb5" + os.urandom(300)
            t = time.monotonic()
            tx.send(frame)
            seen = []  # a socket sees what comes in before and after the detour
            while not seen or (seen[-1] < 0.02 and time.monotonic() < t + 1):
                data, ancillary, _, who = rx.recvmsg(2000, 256)
                if data[12:14] == b"\x88\xb5" and who[2] != 4:  # not what we sent
                    tci = struct.unpack("=IIIHHHH", ancillary[0][2][:20])[5]
                    assert tci == 0x6007 and data[14:] == frame[18:], (hex(tci), data)
                    seen.append(time.monotonic() - t)
            assert 0.02 <= seen[-1] < 0.05, seen
        for s in ends:
            s.close()


MIB = 1 << 20


def transfer(ns_from, ns_to, to, size):
    """SIZE random bytes by TCP: what arrived must be what was sent. MB/s."""
    with inside(ns_to):
        srv = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET)
        srv.bind((to, 0))
        srv.listen(1)
    with inside(ns_from):
        c = socket.socket(srv.family)
    block, sums = os.urandom(MIB), [hashlib.sha256(), hashlib.sha256()]

    def receive():
        conn, _ = srv.accept()
        with conn:
            while data := conn.recv(MIB):
                sums[1].update(data)
    t = threading.Thread(target=receive)
    t.start()
    c.settimeout(40)
    t0 = time.monotonic()
    c.connect(srv.getsockname()[:2])
    for i in range(size // MIB):
        part = struct.pack("!Q", i) + block[8:]
        sums[0].update(part)
        c.sendall(part)
    c.close()
    t.join(40)
    took = time.monotonic() - t0
    srv.close()
    assert sums[0].digest() == sums[1].digest(), "what arrived is not what was sent"
    return size / 1e6 / took


def tcp(run_dir):
    cases = [({"delay": "0", "limit": 100000}, 64), ({"delay": "2ms"}, 64), ({"delay": "50ms"}, 64),
             ({"delay": "2ms", "duplicate": "5%"}, 32), ({"delay": "5ms", "reorder": "10%"}, 16),
             ({"delay": "2ms", "jitter": "500us"}, 16), ({"delay": "1ms", "corrupt": "0.5%"}, 4)]
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


def counts(inj, run, fault):
    for f in inj.get(f"runs/{run}/snapshot")["faults"]:
        if f["fault"] == fault:
            return f
    return None


def loss(run_dir):
    """Loss alone needs no detour: no packet reaches the TAP, and TCP on this host does not hear of it."""
    for env in MODES:
        with Rig(run_dir, env) as r:
            for direction in ("egress", "ingress"):
                rtt(r.w.a, V4[1])  # the neighbours know each other: its packets would be lost, too
                f = r.fault({"loss": "20%"}, direction)
                tap = f"sqt{r.w.ifindex()}{direction[0]}"
                stream = Stream(r.w, 2000) if direction == "egress" else None
                n, lost = 400, 0
                if stream:
                    until("datagrams are sent", lambda: len(stream.sent) > 3000, 10)
                    missing = stream.end()
                    n, lost = len(stream.sent), len(missing)
                else:
                    lost = sum(rtt(r.w.a, V4[1], wait=0.02) is None for _ in range(n))
                share, slack = lost / n, 5 * (0.2 * 0.8 / n) ** 0.5
                assert abs(share - 0.2) < slack + 0.02, (direction, lost, n)
                text = sh("ip", "-n", r.w.a, "-s", "link", "show", tap)
                assert text.split("TX:")[1].split("\n")[1].split()[1] == "0", text
                end_fault(r.inj, r.run, f)
            assert rtt(r.w.a, V4[1]) is not None


def loopback(run_dir):
    """lo itself: each packet passes twice; the sysctls that it takes come back."""
    with Rig(run_dir) as r:
        echo = [Echo(r.w.a, "127.0.0.1"), Echo(r.w.a, "::1"), Echo(r.w.a, V4[0])]
        plain = configured(r.w.a)
        f = r.fault({"delay": "10ms"}, "egress", dev="lo")
        for to in ("127.0.0.1", "::1", V4[0]):
            for size in (64, 30000):
                got = rtts(r.w.a, to, 5, size=size)
                assert len(got) == 5 and 20 <= got[0] < 30, (to, size, got)
        assert transfer(r.w.a, r.w.a, "127.0.0.1", 8 * MIB) > 1
        end_fault(r.inj, r.run, f)
        until("the sysctls are as they were", lambda: configured(r.w.a) == plain)
        for e in echo:
            e.close()


if __name__ == "__main__":
    main([delay, directions, jumbo, icmp, vlan, tcp, loss, loopback])
