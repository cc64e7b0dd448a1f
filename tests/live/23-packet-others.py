#!/usr/bin/env python3
"""The packet backend beside others: several faults on one device, somebody else's configuration, another injector, devices
and namespaces that go. Nobody else's traffic or configuration is touched."""
import ctypes
import fcntl
import re
import socket
import struct

from packet_lib import (V4, Echo, Injector, Stream, Wire, configured, end_fault, faults, inside, main, packet_processes, rtt,
                        rtts, same, sh, until)

AWAY = ("action", "mirred", "egress", "redirect", "dev", "lo")
CLSACT = {"SQUALL_PACKET_ATTACH": "clsact"}


def quit_clean(inj, before, w):
    inj.post("quit")
    assert inj.proc.wait(15) == 0
    same(before, configured(w.a, w.b))


def composed(run_dir):
    """Faults of three runs on one device: one process, each adds its own delay, in any order of coming and going."""
    with Wire("comp") as w:
        echo = Echo(w.b, V4[1])
        before = configured(w.a, w.b)
        inj = Injector(run_dir)
        runs = [inj.run(lease="60s") for _ in range(3)]
        on = {}
        for i, ms in ((0, 5), (1, 10), (2, 20)):
            on[ms] = (runs[i], faults(inj, runs[i], w.a, {"delay": f"{ms}ms"}))
            assert len(packet_processes(run_dir)) == 1
            got = rtts(w.a, V4[1], 5)
            assert sum(on) <= got[0] < sum(on) + 6, (on, got)
        for ms in (10, 5, 20):
            end_fault(inj, *on.pop(ms))
            got = rtts(w.a, V4[1], 5)
            assert sum(on) <= got[0] < sum(on) + 6, (on, got)
        until("its process leaves with the last", lambda: not packet_processes(run_dir))
        echo.close()
        quit_clean(inj, before, w)


def only_named(run_dir):
    """Traffic that was not named is neither delayed nor lost, through apply, hold and revert."""
    with Wire("named") as w:
        echo = [Echo(w.b, V4[1], 7), Echo(w.b, V4[1], 8)]
        before = configured(w.a, w.b)
        inj = Injector(run_dir)
        run = inj.run(lease="60s")
        stream = Stream(w, 1000)
        until("datagrams arrive", lambda: len(stream.got) > 100)
        for with_ in ({"delay": "20ms"}, {"loss": "50%"}, {"delay": "1ms", "duplicate": "10%"}):
            f = faults(inj, run, w.a, with_, "both", match=[{"protocol": "udp", "port": ["8"]}])
            plain, hit = rtts(w.a, V4[1], 5, port=7), [rtt(w.a, V4[1], port=8, wait=0.2) for _ in range(10)]
            assert len(plain) == 5 and plain[2] < 10, plain
            assert with_.get("loss") or hit[0] is None or hit[0] >= (40 if with_["delay"] == "20ms" else 2), (with_, hit)
            assert not with_.get("loss") or None in hit, hit
            end_fault(inj, run, f)
        lost = stream.end()
        late = [n for n, t in stream.got.items() if t - stream.sent[n] > 0.3]
        assert not lost and len(late) < 20, (len(stream.sent), lost, late)
        for e in echo:
            e.close()
        quit_clean(inj, before, w)


def foreign(run_dir):
    """A classful root, an ingress qdisc, clsact with filters, and nftables rules of somebody else's keep working."""
    for what in ("htb", "ingress", "clsact", "nft", "fq_codel"):
        for env in ({}, CLSACT):
            with Wire("for") as w:
                echo = Echo(w.b, V4[1])
                tc = lambda *args, **kw: sh("tc", "-n", w.a, *args, **kw)  # noqa: E731
                if what == "htb":
                    tc("qdisc", "add", "dev", "v0", "root", "handle", "1:", "htb", "default", "10")
                    tc("class", "add", "dev", "v0", "parent", "1:", "classid", "1:10", "htb", "rate", "100mbit")
                elif what == "fq_codel":
                    sh("tc", "-n", w.a, "qdisc", "add", "dev", "v0", "root", "fq_codel", check=False)
                elif what == "ingress":
                    tc("qdisc", "add", "dev", "v0", "handle", "ffff:", "ingress")
                    tc("filter", "add", "dev", "v0", "parent", "ffff:", "protocol", "ip", "u32", "match", "ip", "dport", "99",
                       "0xffff", *AWAY)
                elif what == "clsact":
                    tc("qdisc", "add", "dev", "v0", "clsact")
                    tc("filter", "add", "dev", "v0", "egress", "protocol", "ip", "pref", "60000", "u32", "match", "ip",
                       "dport", "99", "0xffff", *AWAY)
                else:
                    sh("ip", "netns", "exec", w.a, "nft", "add table inet theirs; add chain inet theirs out { type filter "
                       "hook output priority 0; }; add rule inet theirs out udp dport 99 counter drop")
                dropped = Echo(w.b, V4[1], 99)
                before = configured(w.a, w.b)
                counted = [x for x in before.split("\n") if "counter" not in x]
                inj = Injector(run_dir, env=env)
                run = inj.run(lease="60s")
                if what == "ingress" and env:  # the one that can't be
                    status, body = inj.call("POST", f"runs/{run}/faults", {
                        "uses": "network/impair", "with": {"delay": "10ms", "backend": "packet"},
                        "target": {"interface": "v0", "namespace": w.a, "direction": "egress"}})
                    assert status == 409 and "ingress qdisc" in body["error"]["message"], (status, body)
                else:
                    f = faults(inj, run, w.a, {"delay": "10ms"}, "both")
                    got = rtts(w.a, V4[1], 5)
                    assert got and 20 <= got[0] < 40, (what, env, got)
                    if what in ("clsact", "nft"):
                        assert rtt(w.a, V4[1], port=99, wait=0.2) is None, what
                    end_fault(inj, run, f)
                assert rtt(w.a, V4[1]) < 15
                inj.post("quit")
                assert inj.proc.wait(15) == 0
                now = [x for x in configured(w.a, w.b).split("\n") if "counter" not in x]
                same("\n".join(counted), "\n".join(now))
                echo.close()
                dropped.close()


def two_injectors(run_dir):
    with Wire("two") as w:
        echo = Echo(w.b, V4[1])
        before = configured(w.a, w.b)
        one, two = Injector(run_dir, "p-one"), Injector(run_dir, "p-two")
        run1, run2 = one.run(lease="60s"), two.run(lease="60s")
        faults(one, run1, w.a, {"delay": "10ms"})
        status, body = two.call("POST", f"runs/{run2}/faults", {
            "uses": "network/impair", "with": {"delay": "10ms", "backend": "packet"},
            "target": {"interface": "v0", "namespace": w.a, "direction": "egress"}})
        assert status == 409 and "another injector" in body["error"]["message"], (status, body)
        faults(two, run2, w.b, {"delay": "10ms"})  # the other end of the wire is another device
        got = rtts(w.a, V4[1], 5)
        assert 20 <= got[0] < 30, got
        one.post("quit")
        assert one.proc.wait(15) == 0
        echo.close()
        quit_clean(two, before, w)


def offloads(ns, dev, on=None):
    """TCP segmentation offload of DEV, as ethtool says and sets it."""
    with inside(ns):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    value = ctypes.create_string_buffer(struct.pack("II", 0x1e if on is None else 0x1f, bool(on)))  # ETHTOOL_GTSO, STSO
    fcntl.ioctl(s, 0x8946, struct.pack("16sQ", dev.encode(), ctypes.addressof(value)))  # SIOCETHTOOL
    s.close()
    return struct.unpack("II", value.raw[:8])[1]


def read_back(run_dir):
    """A fault is what its process and the kernel say, not what was asked: a difference is an error, and taken back."""
    with Wire("read") as w:
        echo = Echo(w.b, V4[1])
        before = configured(w.a, w.b)
        inj = Injector(run_dir)
        run = inj.run(lease="60s")
        tap = f"sqt{w.ifindex()}e"
        slow = faults(inj, run, w.a, {"delay": "10ms"})
        assert offloads(w.a, tap) == 1
        offloads(w.a, tap, False)
        status, body = inj.call("POST", f"runs/{run}/faults", {
            "uses": "network/impair", "with": {"delay": "10ms", "backend": "packet"},
            "target": {"interface": "v0", "namespace": w.a, "direction": "egress"}})
        assert status >= 500 and "offload" in body["error"]["message"], (status, body)
        assert 10 <= rtts(w.a, V4[1], 5)[0] < 20  # the refused one is gone
        until("it is noticed of the first one, too", lambda: "as it was applied" in str(
            inj.get(f"runs/{run}/events?after=0")["events"]), 15)
        offloads(w.a, tap, True)
        spoiled = faults(inj, run, w.a, {"corrupt": "1%"})
        assert offloads(w.a, tap) == 0
        end_fault(inj, run, spoiled)
        assert offloads(w.a, tap) == 1
        end_fault(inj, run, slow)
        echo.close()
        quit_clean(inj, before, w)


def namespace_dies(run_dir):
    """The namespace goes while its device has faults: nothing keeps it alive, nothing of it is left."""
    for env in ({}, CLSACT):
        w = Wire("dies")
        try:
            inj = Injector(run_dir, env=env)
            run = inj.run(lease="60s")
            fault = faults(inj, run, w.a, {"delay": "10ms"}, "both")
            assert len(packet_processes(run_dir)) == 1
            sh("ip", "netns", "del", w.a)
            # The kernel takes its devices away with it: the other end of the wire goes, too.
            until("it is really gone", lambda: "v0" not in sh("ip", "-n", w.b, "link"), 5)
            until("its process leaves", lambda: not packet_processes(run_dir), 5)
            until("somebody says so", lambda: [e for e in inj.get(f"runs/{run}/events?after=0")["events"]
                                               if "gone" in str(e)], 5)
            inj.call("DELETE", f"runs/{run}/faults/{fault}")
            assert inj.delete(f"runs/{run}")["left"] == []
            inj.post("quit")
            assert inj.proc.wait(15) == 0
        finally:
            w.delete()


def device_changes(run_dir):
    """Renamed and down for a while: the fault stays. Deleted and made anew: it is over, and the new one is free of it."""
    for env in ({}, CLSACT):
        with Wire("chg") as w:
            echo = Echo(w.b, V4[1])
            inj = Injector(run_dir, env=env)
            run = inj.run(lease="60s")
            faults(inj, run, w.a, {"delay": "10ms"}, "both")
            sh("ip", "-n", w.a, "link", "set", "v0", "down")
            sh("ip", "-n", w.a, "link", "set", "v0", "name", "other0")
            sh("ip", "-n", w.a, "link", "set", "other0", "up")
            until("the wire is up", lambda: rtt(w.a, V4[1], wait=0.3) is not None, 10)
            got = rtts(w.a, V4[1], 5)
            assert 20 <= got[0] < 40, got
            sh("ip", "-n", w.a, "link", "set", "other0", "down")
            sh("ip", "-n", w.a, "link", "set", "other0", "name", "v0")
            sh("ip", "-n", w.a, "link", "set", "v0", "up")
            echo.close()
            sh("ip", "-n", w.a, "link", "del", "v0")
            until("its process leaves", lambda: not packet_processes(run_dir), 5)
            w.connect()
            echo = Echo(w.b, V4[1])
            assert rtts(w.a, V4[1], 5)[0] < 10
            before = configured(w.a, w.b)
            assert not re.search(r"sqt\d|squall", before), before
            inj.delete(f"runs/{run}")
            run = inj.run(lease="60s")
            f = faults(inj, run, w.a, {"delay": "10ms"})
            assert rtts(w.a, V4[1], 5)[0] >= 10
            end_fault(inj, run, f)
            echo.close()
            quit_clean(inj, before, w)


if __name__ == "__main__":
    main([composed, only_named, foreign, two_injectors, read_back, namespace_dies, device_changes])
