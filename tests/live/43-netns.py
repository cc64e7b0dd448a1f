#!/usr/bin/env python3
"""Callers in another network namespace: taken there, and their dependencies reached as they would reach them."""
import os
import socket
import sys
import time

from attach_lib import Attached, Program
from dgram_lib import CALLER, Echo
from dns_lib import Server
from injector_lib import until
from intercept_lib import NO_BPF, Dependency, Rig, Without, main
from netns_lib import Cgroup, Net, ip, makers, there, until_no_makers

HELD = r"""
def opened(port):
    c = socket.create_connection(("10.99.0.2", port), 10)
    keep.append(c)
    return c.getsockname()[1]
def ask(c):
    try:
        c.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return len(c.recv(4096))
    except OSError as x:
        return x.errno
"""
RAW = r"""
def query(server, name):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(3)
    s.sendto(b"\x12\x34\x01\0\0\1\0\0\0\0\0\0" + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) +
             b"\0\0\1\0\1", (server, 53))
    data, peer = s.recvfrom(4096)
    s.close()
    assert peer == (server, 53), peer
    return data[3] & 15
"""


def program(run_dir, ns, name="prog", cgroup=None):
    return there(ns, lambda: Program(run_dir, name, cgroup))


def call(port, host="127.0.0.1", **kw):
    more = "".join(f", {k}={v}" for k, v in kw.items())
    return f"result = attempt({port}, {host!r}{more})"


def passes(run_dir):
    """On its loopback, where this host has nobody; and across a veth."""
    with Net() as net, there(net.c, Dependency) as near, there(net.d, lambda: Dependency(host="10.99.0.2")) as far, \
            program(run_dir, net.c) as prog:
        rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{near.port}", f"10.99.0.2:{far.port}"])
        for dep, host in ((near, "127.0.0.1"), (far, "10.99.0.2")):
            r = prog.do(call(dep.port, host))
            assert r["body"] == "real" and r["peer"] == [host, dep.port], r
        until("both calls are counted", lambda: len(rig.calls()) == 2)
        assert not rig.events("warning"), rig.events("warning")
        until("sockets are made there", lambda: len(makers(rig.inj.pid)) == 1)
        f = rig.fault("call/latency", {"delay": "300ms"})
        r = prog.do(call(near.port))
        assert r["body"] == "real" and 290 <= r["ms"] < 1500, r
        r = prog.do(call(near.port, timeout=0.1))
        assert r["err"] == 110, r
        rig.clear(f)
        pid = rig.inj.pid
        assert rig.inj.delete(f"runs/{rig.id}")["clean"]
        until_no_makers(pid)
        assert prog.do(call(near.port))["body"] == "real"
        rig.inj.post("quit")
        assert rig.inj.wait() == 0


def ipv6(run_dir):
    """Sockets that can speak IPv6 only go to the proxy's ::1 there."""
    with Net() as net, there(net.c, lambda: Dependency(socket.AF_INET6, "::1")) as near, \
            there(net.d, lambda: Dependency(socket.AF_INET6, "fd99::2")) as far, program(run_dir, net.c) as prog:
        rig = Attached(run_dir, {"pid": prog.pid}, [f"[::1]:{near.port}", f"[fd99::2]:{far.port}"])
        only = "lambda c: c.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)"
        for dep, host in ((near, "::1"), (far, "fd99::2")):
            for prepare in ("None", only):
                r = prog.do(call(dep.port, host, family="socket.AF_INET6", prepare=prepare))
                assert r["body"] == "real" and r["peer"] == [host, dep.port], r
        until("all are counted", lambda: len(rig.calls()) == 4)
        f = rig.fault("call/latency", {"delay": "300ms"})
        r = prog.do(call(far.port, "fd99::2", family="socket.AF_INET6", prepare=only))
        assert r["body"] == "real" and 290 <= r["ms"] < 1500, r
        rig.clear(f)
        f = rig.fault("call/blackhole")
        r = prog.do(call(near.port, "::1", family="socket.AF_INET6", prepare=only, timeout=0.3))
        assert r["err"] == 110, r
        rig.clear(f)
        f = rig.fault("call/error", {"errno": "EHOSTUNREACH"})
        assert prog.do(call(far.port, "fd99::2", family="socket.AF_INET6"))["err"] == 113
        rig.clear(f)
        assert not rig.events("warning"), rig.events("warning")
        rig.end()


def faults(run_dir):
    """Each kind of them, as at home; connections of before are reset."""
    with Net() as net, there(net.d, lambda: Dependency(host="10.99.0.2")) as dep, program(run_dir, net.c) as prog, \
            program(run_dir, net.c, "other") as other:
        prog.do(HELD + f"result = opened({dep.port})")
        rig = Attached(run_dir, {"pid": prog.pid}, [f"10.99.0.2:{dep.port}"], existing="reset")
        assert rig.answer["existing"]["reset"] == 1, rig.answer
        assert prog.do(HELD + "result = ask(keep[0])") == 104
        far = "10.99.0.2"
        f = rig.fault("call/blackhole")
        assert prog.do(call(dep.port, far, timeout=0.3))["err"] == 110
        assert other.do(call(dep.port, far))["body"] == "real"
        rig.clear(f)
        until("the hole is told of", lambda: any(c[2] == 2 for c in rig.calls()))
        f = rig.fault("call/http_status", {"status": 503})
        assert prog.do(call(dep.port, far))["body"] != "real"
        rig.clear(f)
        f = rig.fault("call/bandwidth", {"rate": "1kbps"})
        r = prog.do(call(dep.port, far, timeout=20))
        assert r["body"] == "real" and r["total_ms"] > 80, r
        rig.clear(f)
        f = rig.fault("call/reset")
        assert prog.do(call(dep.port, far))["err"] == 104
        rig.clear(f)
        assert prog.do(call(dep.port, far))["body"] == "real"
        rig.end()


def datagrams(run_dir):
    with Net() as net, program(run_dir, net.c) as prog:
        echo = there(net.d, lambda: Echo(host="10.99.0.2"))
        rig = Attached(run_dir, {"pid": prog.pid}, [f"10.99.0.2:{echo.port}"], protocol="udp")
        code = f"PORT={echo.port}\n" + CALLER
        asks = code + "s = dial('10.99.0.2')\nresult = ask(s)\ns.close()\n"
        r = prog.do(asks)
        assert r["err"] == 0 and r["whole"], r
        f = rig.fault("call/latency", {"delay": "200ms"})
        r = prog.do(asks)
        assert r["err"] == 0 and r["ms"] >= 190, r
        rig.clear(f)
        until("both are counted", lambda: len(rig.calls()) == 2)
        assert len(set(echo.peers)) == 2 and all(p[0] == "10.99.0.1" for p in echo.peers), echo.peers
        # One that nobody listens for is refused, as at home.
        assert not rig.events("warning"), rig.events("warning")
        pid = rig.inj.pid
        rig.end()
        assert not makers(pid)


def dns(run_dir):
    """Names that are asked for on the loopback of the namespace, as in most containers."""
    with Net() as net, program(run_dir, net.c) as prog:
        server = there(net.c, lambda: Server("127.0.0.11"))
        rig = Attached(run_dir, {"pid": prog.pid}, ["127.0.0.11:53"], protocol="dns")
        ask = RAW + f"result = query('127.0.0.11', 'db.example')"
        assert prog.do(ask) == 0
        f = rig.fault("call/dns", {"answer": "nxdomain"})
        n = len(server.asked)
        assert prog.do(ask) == 3
        assert len(server.asked) == n
        rig.clear(f)
        assert prog.do(ask) == 0
        rig.end()


def container(run_dir):
    """By the id in its cgroup's name; it has a network namespace of its own, with the loopback that it was born with."""
    with Cgroup(f"docker-{os.getpid():064x}.scope") as group, Net() as net, there(net.c, Dependency) as dep, \
            program(run_dir, net.c, cgroup=group.path) as prog:
        rig = Attached(run_dir, {"container": f"{os.getpid():064x}"}, [f"127.0.0.1:{dep.port}"])
        f = rig.fault("call/latency", {"delay": "200ms"})
        r = prog.do(call(dep.port))
        assert r["body"] == "real" and r["ms"] >= 190, r
        rig.clear(f)
        until("the call is counted", lambda: len(rig.calls()) == 1)
        # Somebody who joins it in another namespace: its first call may go past, what follows does not.
        with Net() as second, there(second.c, Dependency) as theirs, \
                program(run_dir, second.c, "late", group.path) as late:
            rig.declare("late", [f"127.0.0.1:{theirs.port}"])
            rig.fault("call/latency", {"delay": "200ms"})
            until("it is there, too", lambda: len(makers(rig.inj.pid)) == 2)
            rig.edge = "late"
            rig.fault("call/latency", {"delay": "200ms"})
            r = late.do(call(theirs.port))
            assert r["body"] == "real" and r["ms"] >= 190, r
        rig.end()


def launched(run_dir):
    """A command that goes elsewhere by itself; by cgroup-BPF its very first call is taken, if it is not very quick."""
    with Net() as net, there(net.c, Dependency) as dep:
        for mode in ("bpf", "seccomp"):
            d = os.path.join(run_dir, mode)
            os.makedirs(d)
            inj = None if mode == "bpf" else Without(d, NO_BPF)
            rig = Rig(d, [f"127.0.0.1:{dep.port}"], mode=mode, injector=inj, wrap=["ip", "netns", "exec", net.c])
            if mode == "bpf":
                until("sockets are made there", lambda: len(makers(rig.inj.pid)) == 1)
            f = rig.fault("call/latency", {"delay": "200ms"})
            r = rig.do(call(dep.port))
            assert r["body"] == "real" and r["ms"] >= 190, (mode, r)
            assert r["peer"] == ["127.0.0.1", dep.port] or mode == "seccomp", r
            rig.clear(f)
            f = rig.fault("call/error", {"errno": "EHOSTUNREACH"})
            assert rig.do(call(dep.port))["err"] == 113
            rig.clear(f)
            until("both calls are counted", lambda: len(rig.calls()) == 2)
            rig.end()


def by_seccomp(run_dir):
    """Datagrams of one that is launched without BPF."""
    with Net() as net:
        echo = there(net.c, Echo)
        rig = Rig(run_dir, [f"127.0.0.1:{echo.port}"], mode="seccomp", protocol="udp",
                  injector=Without(run_dir, NO_BPF), wrap=["ip", "netns", "exec", net.c])
        asks = f"PORT={echo.port}\n" + CALLER + "s = dial()\nresult = ask(s)\ns.close()\n"
        f = rig.fault("call/latency", {"delay": "200ms"})
        r = rig.do(asks)
        assert r["err"] == 0 and r["whole"] and r["ms"] >= 190, r
        rig.clear(f)
        until("it is counted", lambda: len(rig.calls()) == 1)
        rig.end()


def down(run_dir):
    """Where the loopback is down nothing of ours can be reached: calls go past, and that is told; until it is up."""
    with Net(lo=False) as net, there(net.d, lambda: Dependency(host="10.99.0.2")) as dep, \
            program(run_dir, net.c) as prog:
        rig = Attached(run_dir, {"pid": prog.pid}, [f"10.99.0.2:{dep.port}"])
        assert any("loopback" in e["text"] for e in rig.events("warning")), rig.events("warning")
        f = rig.fault("call/latency", {"delay": "300ms"})
        r = prog.do(call(dep.port, "10.99.0.2"))
        assert r["body"] == "real" and r["ms"] < 290, r
        ip("-n", net.c, "link", "set", "lo", "up")
        r = prog.do(call(dep.port, "10.99.0.2"))
        assert r["body"] == "real" and r["ms"] >= 290, r
        rig.clear(f)
        f = rig.fault("call/error", {"errno": "EHOSTUNREACH"})
        ip("-n", net.c, "link", "set", "lo", "down")
        assert prog.do(call(dep.port, "10.99.0.2"))["err"] == 113
        rig.end()


def down6(run_dir):
    """The same of sockets that can speak IPv6 only, for which there is no ::1 as long; nobody is told anything else."""
    with Net(lo=False) as net, there(net.d, lambda: Dependency(socket.AF_INET6, "fd99::2")) as dep, \
            program(run_dir, net.c) as prog:
        echo = there(net.d, lambda: Echo(socket.AF_INET6, "fd99::2"))
        only = call(dep.port, "fd99::2", family="socket.AF_INET6",
                    prepare="lambda c: c.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)")
        send = ("s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(5); t0 = time.monotonic()\n"
                f"s.sendto(b'x', ('fd99::2', {echo.port})); s.recvfrom(9); result = (time.monotonic() - t0) * 1000")
        until("they know each other", lambda: prog.do(only)["ms"] < 1000)
        rig = Attached(run_dir, {"pid": prog.pid}, [f"[fd99::2]:{dep.port}"])
        rig.declare("udp", [f"[fd99::2]:{echo.port}"], protocol="udp")
        rig.fault("call/latency", {"delay": "1500ms"})
        edge, rig.edge = rig.edge, "udp"
        rig.fault("call/latency", {"delay": "1500ms"})
        rig.edge = edge
        r = prog.do(only)
        assert r["body"] == "real" and r["ms"] < 1490, r
        assert prog.do(send) < 1490
        time.sleep(1.2)  # reasons are told once a second
        assert all("loopback" in e["text"] for e in rig.events("warning")), rig.events("warning")
        ip("-n", net.c, "link", "set", "lo", "up")
        until("connects are held", lambda: prog.do(only)["ms"] >= 1490, 20)
        assert prog.do(send) >= 1490
        rig.end()


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("needs root")
        sys.exit(77)
    main([passes, ipv6, faults, datagrams, dns, container, launched, by_seccomp, down, down6])
