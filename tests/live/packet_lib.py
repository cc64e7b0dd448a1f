"""Two hosts on one wire for the tests of the packet backend: network namespaces A and B with a veth pair between them,
sockets of this process in both, and what is configured there."""
import contextlib
import ctypes
import difflib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from injector_lib import Injector, until  # noqa: F401  (tests take them from here)

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
BPFTOOL = shutil.which("bpftool") or "/usr/sbin/bpftool"
V4 = ("10.77.0.1", "10.77.0.2")
V6 = ("fd77::1", "fd77::2")


def sh(*args, check=True, **kw):
    r = subprocess.run(args, capture_output=True, text=True, **kw)
    assert not check or r.returncode == 0, (args, r.stdout, r.stderr)
    return r.stdout


@contextlib.contextmanager
def inside(ns):
    """The calling thread in the namespace NS."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{ns}", os.O_RDONLY)
    try:
        assert libc.setns(there, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        yield
        assert libc.setns(home, CLONE_NEWNET) == 0
    finally:
        os.close(there)
        os.close(home)


def udp(ns, address=None, port=0, size=1 << 22):
    v6 = address is not None and ":" in address
    with inside(ns):
        s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, 33, size)  # SO_RCVBUFFORCE
        s.setsockopt(socket.SOL_SOCKET, 32, size)  # SO_SNDBUFFORCE
        s.bind((address or "0.0.0.0", port))
    return s


class Wire:
    """A's and B's interface is called v0 on both sides."""

    def __init__(self, name, mtu=1500):
        self.a, self.b = f"sqt-pk-{name}-a", f"sqt-pk-{name}-b"
        self.delete()
        for n in (self.a, self.b):
            sh("ip", "netns", "add", n)
            sh("ip", "-n", n, "link", "set", "lo", "up")
        self.connect(mtu)

    def connect(self, mtu=1500):
        sh("ip", "-n", self.a, "link", "add", "v0", "mtu", str(mtu), "type", "veth", "peer", "name", "v0", "mtu", str(mtu),
           "netns", self.b)
        for n, v4, v6 in ((self.a, V4[0], V6[0]), (self.b, V4[1], V6[1])):
            sh("ip", "-n", n, "addr", "add", v4 + "/24", "dev", "v0")
            sh("ip", "-n", n, "addr", "add", v6 + "/64", "dev", "v0", "nodad")
            sh("ip", "-n", n, "link", "set", "v0", "up")
        for n in (self.a, self.b):
            until("the wire has its carrier", lambda n=n: "state UP" in sh("ip", "-n", n, "link", "show", "v0"))

    def delete(self):
        for n in (self.a, self.b):
            subprocess.run(["ip", "netns", "del", n], capture_output=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.delete()

    def ifindex(self, dev="v0"):
        return json.loads(sh("ip", "-n", self.a, "-j", "link", "show", dev))[0]["ifindex"]


class Echo:
    """Answers datagrams in NS until closed."""

    def __init__(self, ns, address, port=7):
        self.s = udp(ns, address, port)
        threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        with contextlib.suppress(OSError, TypeError):  # closed meanwhile
            while True:
                data, who = self.s.recvfrom(70000)
                self.s.sendto(data, who)

    def close(self):
        with contextlib.suppress(OSError):
            self.s.shutdown(socket.SHUT_RDWR)
        self.s.close()


def rtt(ns, to, size=64, port=7, wait=2.0, local=None):
    """Round trip of one datagram in ms; None: it did not come back as it was."""
    s = udp(ns, local or ("::" if ":" in to else None))
    s.settimeout(wait)
    data = os.urandom(size)
    try:
        t = time.monotonic()
        s.sendto(data, (to, port))
        got, _ = s.recvfrom(70000)
        return (time.monotonic() - t) * 1e3 if got == data else None
    except OSError:
        return None
    finally:
        s.close()


def rtts(ns, to, n=10, **kw):
    """Of N datagrams, without those that were lost."""
    rtt(ns, to, wait=5)  # the neighbour is known then
    return sorted(x for x in (rtt(ns, to, **kw) for _ in range(n)) if x is not None)


class Stream:
    """Numbered datagrams from A to B at a pace, in threads; what arrived when."""

    def __init__(self, wire, pps=1000, port=9):
        self.sink, self.source = udp(wire.b, V4[1], port), udp(wire.a)
        self.pps, self.port, self.sent, self.got, self.going = pps, port, [], {}, True
        self.threads = [threading.Thread(target=f, daemon=True) for f in (self.receive, self.send)]
        for t in self.threads:
            t.start()

    def send(self):
        start, n = time.monotonic(), 0
        while self.going:
            left = start + n / self.pps - time.monotonic()
            if left > 0:
                time.sleep(left)
            self.sent.append(time.monotonic())
            with contextlib.suppress(OSError):
                self.source.sendto(struct.pack("!I", n) + bytes(60), (V4[1], self.port))
            n += 1

    def receive(self):
        self.sink.settimeout(0.2)
        quiet = 0
        while self.going or quiet < 3:
            try:
                data = self.sink.recv(2000)
                self.got.setdefault(struct.unpack("!I", data[:4])[0], time.monotonic())
                quiet = 0
            except OSError:
                quiet += 0 if self.going else 1

    def end(self):
        """The numbers that never arrived."""
        self.going = False
        for t in self.threads[::-1]:
            t.join(10)
        self.sink.close()
        self.source.close()
        return [n for n in range(len(self.sent)) if n not in self.got]


def faults(inj, run, ns, with_, direction="egress", uses="network/impair", dev="v0", **target):
    t = dict({"interface": dev, "direction": direction}, **target)
    if ns:
        t["namespace"] = ns
    got = inj.post(f"runs/{run}/faults", {"uses": uses, "target": t, "with": dict({"backend": "packet"}, **with_)})
    return got["fault"]


def end_fault(inj, run, fault):
    got = inj.delete(f"runs/{run}/faults/{fault}")
    assert got["clean"] and got["left"] == [], got


def programs():
    """Ids of BPF programs and links of the backend, of everybody."""
    found = [p["id"] for p in json.loads(sh(BPFTOOL, "-j", "prog", "show")) if p.get("name", "").startswith("sq_rd")]
    return sorted(found)


def configured(*namespaces):
    """What is configured there, without what counts or ages."""
    out = []
    for ns in namespaces:
        x = ["-n", ns] if ns else []
        out.append(sh("ip", *x, "-d", "link", "show"))
        out.append(sh("tc", *x, "qdisc", "show"))
        for dev in re.findall(r"^\d+: ([^:@]+)", out[-2], re.M):
            for hook in ("egress", "ingress"):
                out.append(sh("tc", *x, "filter", "show", "dev", dev, hook, check=False))
        out.append(sh(*(["ip", "netns", "exec", ns] if ns else []), "nft", "list", "ruleset", check=False))
        out.append(sh(*(["ip", "netns", "exec", ns] if ns else []), "sysctl", "net.ipv4.conf.lo", check=False))
    return "\n".join(out)


def same(before, now):
    diff = [x for x in difflib.unified_diff(before.split("\n"), now.split("\n"), "before", "now", n=0)]
    assert not diff, "\n".join(diff[:30])


def packet_processes(run_dir):
    mark, found = f"SQUALL_RUN_DIR={run_dir}".encode(), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as f:
                if f.read().strip() != "squall-packet":
                    continue
            with open(f"/proc/{pid}/environ", "rb") as f:
                if mark in f.read().split(b"\0"):
                    found.append(int(pid))
        except OSError:
            pass
    return found


def main(tests):
    only = sys.argv[1:]
    if os.geteuid() != 0:
        print("skipped: needs root")
        return
    for t in tests:
        if only and t.__name__ not in only:
            continue
        run_dir, t0 = tempfile.mkdtemp(prefix="squall-pk-"), time.monotonic()
        try:
            t(run_dir)
            end = time.monotonic() + 5
            while (left := packet_processes(run_dir)) and time.monotonic() < end:
                time.sleep(0.05)
            assert not left, f"packet processes are left: {left}"
            print(f"ok {t.__name__} ({time.monotonic() - t0:.1f} s)", flush=True)
        finally:
            for pid in packet_processes(run_dir):
                with contextlib.suppress(OSError):
                    os.kill(pid, 9)
            shutil.rmtree(run_dir, ignore_errors=True)
