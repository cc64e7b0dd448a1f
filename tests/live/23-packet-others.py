#!/usr/bin/env python3
"""The packet backend and what is around it: several faults on one device, traffic that was not named, read-back, devices and
namespaces that go. Nobody else's traffic is touched."""
import ctypes
import fcntl
import re
import socket
import struct

from packet_lib import (V4, Echo, Injector, Stream, Wire, configured, end_fault, faults, inside, main, packet_processes, rtt,
                        same, sh, takes, until)

CLSACT = {"SQUALL_PACKET_ATTACH": "clsact"}


def quit_clean(inj, before, w):
    inj.post("quit")
    assert inj.proc.wait(30) == 0
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
            takes(w.a, V4[1], sum(on))
        for ms in (10, 5, 20):
            end_fault(inj, *on.pop(ms))
            takes(w.a, V4[1], sum(on))
        until("its process leaves with the last", lambda: not packet_processes(run_dir))
        echo.close()
        quit_clean(inj, before, w)


def only_named(run_dir):
    """Traffic that was not named is neither delayed nor lost, and what was named and shall not be lost is not, through
    apply, hold and revert. That somebody has a clsact there matters where there is no tcx: making and removing one is a
    moment in which the kernel drops (net/sched/sch_api.c: qdisc_graft)."""
    for env in ({}, CLSACT):
        with Wire("named") as w:
            echo = [Echo(w.b, V4[1], 7), Echo(w.b, V4[1], 8)]
            if env:
                sh("tc", "-n", w.a, "qdisc", "add", "dev", "v0", "clsact")
            before = configured(w.a, w.b)
            inj = Injector(run_dir, env=env)
            run = inj.run(lease="60s")
            stream, named = Stream(w, 1000), Stream(w, 1000, port=10)
            until("datagrams arrive", lambda: len(stream.got) > 100 and len(named.got) > 100)
            for with_, ms in (({"delay": "20ms"}, 40), ({"delay": "1ms", "duplicate": "10%"}, 2), ({"rate": "100mbit"}, 0)):
                f = faults(inj, run, w.a, with_, "both", match=[{"protocol": "udp", "port": ["8", "10"]}])
                takes(w.a, V4[1], 0, port=7)
                takes(w.a, V4[1], ms, port=8)
                end_fault(inj, run, f)
            f = faults(inj, run, w.a, {"loss": "50%"}, "both", match=[{"protocol": "udp", "port": ["8"]}])
            assert None in [rtt(w.a, V4[1], port=8, wait=0.2) for _ in range(20)]
            takes(w.a, V4[1], 0, port=7)
            end_fault(inj, run, f)
            lost = stream.end(), named.end()
            took = sorted(t - stream.sent[n] for n, t in stream.got.items())
            held = [n for n, t in named.got.items() if t - named.sent[n] >= 0.02]
            assert lost == ([], []), (env, len(stream.sent), lost)
            assert took[len(took) // 2] < 0.02 and len(held) > 100, (took[len(took) // 2], len(held))
            for e in echo:
                e.close()
            quit_clean(inj, before, w)


def draining(run_dir):
    """A fault that has ended while its process still holds packets is told by the snapshot, and not as a fault's remains."""
    with Wire("drain") as w:
        before = configured(w.a, w.b)
        inj = Injector(run_dir)
        run = inj.run(lease="60s")
        fault = faults(inj, run, w.a, {"delay": "3s"})
        pid, = packet_processes(run_dir)
        seen = lambda: inj.get("snapshot")  # noqa: E731
        was, = seen()["packets"]
        assert was["pid"] == pid and was["state"] == "live" and was["interface"] == "v0" and seen()["bpf"], was
        stream = Stream(w, 100)
        until("datagrams are held", lambda: len(stream.sent) > 50)
        end_fault(inj, run, fault)
        now = seen()
        assert now["packets"] == [dict(was, state="draining")] and not now["bpf"], now
        sent = len(stream.sent)
        until("datagrams pass directly", lambda: any(n > sent for n in stream.got), 2)
        until("it leaves", lambda: not seen()["packets"] and not packet_processes(run_dir))
        assert stream.end() == []
        quit_clean(inj, before, w)


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
        takes(w.a, V4[1], 10)  # the refused one is gone
        until("it is noticed of the first one, too", lambda: "as it was applied" in str(
            inj.get(f"runs/{run}/events?after=0")["events"]))
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
            until("it is really gone", lambda: "v0" not in sh("ip", "-n", w.b, "link"))
            until("its process leaves", lambda: not packet_processes(run_dir))
            until("somebody says so", lambda: [e for e in inj.get(f"runs/{run}/events?after=0")["events"]
                                               if "gone" in str(e)])
            inj.call("DELETE", f"runs/{run}/faults/{fault}")
            assert inj.delete(f"runs/{run}")["left"] == []
            inj.post("quit")
            assert inj.proc.wait(30) == 0
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
            until("the wire is up", lambda: rtt(w.a, V4[1], wait=0.3) is not None)
            takes(w.a, V4[1], 20)
            sh("ip", "-n", w.a, "link", "set", "other0", "down")
            sh("ip", "-n", w.a, "link", "set", "other0", "name", "v0")
            sh("ip", "-n", w.a, "link", "set", "v0", "up")
            echo.close()
            sh("ip", "-n", w.a, "link", "del", "v0")
            until("its process leaves", lambda: not packet_processes(run_dir))
            w.connect()
            echo = Echo(w.b, V4[1])
            takes(w.a, V4[1], 0)
            before = configured(w.a, w.b)
            assert not re.search(r"sqt\d|squall", before), before
            inj.delete(f"runs/{run}")
            run = inj.run(lease="60s")
            f = faults(inj, run, w.a, {"delay": "10ms"})
            takes(w.a, V4[1], 10)
            end_fault(inj, run, f)
            echo.close()
            quit_clean(inj, before, w)


if __name__ == "__main__":
    main([composed, only_named, draining, read_back, namespace_dies, device_changes])
