"""What the tests of callers in other network namespaces share: the namespaces, and sockets that are made there."""
import ctypes
import os
import subprocess
import sys
import threading

from injector_lib import until
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from squall import cgroup2

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def enter(name):
    """This thread, or a process about to be started, into the namespace of this name."""
    fd = os.open(f"/run/netns/{name}", os.O_RDONLY)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(fd)


def there(name, make):
    """What MAKE returns, called in the namespace."""
    got = []

    def run():
        enter(name)
        got.append(make())

    t = threading.Thread(target=run)
    t.start()
    t.join()
    return got[0]


def ip(*args):
    subprocess.run(["ip", *args], check=True)


class Net:
    """A namespace "c" with loopback and a veth to "d"."""

    count = 0

    def __init__(self, lo=True):
        Net.count += 1
        self.pre = f"sqt-netns-{os.getpid()}-{Net.count}"
        self.c, self.d = self.pre + "c", self.pre + "d"
        self.lo = lo

    def __enter__(self):
        ip("netns", "add", self.c)
        ip("netns", "add", self.d)
        ip("-n", self.c, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.d)
        for n, ns in enumerate((self.c, self.d), 1):
            ip("-n", ns, "addr", "add", f"10.99.0.{n}/24", "dev", "eth0")
            ip("-n", ns, "addr", "add", f"fd99::{n}/64", "dev", "eth0", "nodad")
            ip("-n", ns, "link", "set", "eth0", "up")
            if self.lo or ns == self.d:
                ip("-n", ns, "link", "set", "lo", "up")
        return self

    def __exit__(self, *unused):
        for ns in (self.c, self.d):
            subprocess.run(["ip", "netns", "del", ns], check=False, capture_output=True)


class Cgroup:
    """One to be in from the first."""

    def __init__(self, name):
        self.path = os.path.join(cgroup2(), name)

    def __enter__(self):
        os.makedirs(self.path, exist_ok=True)
        return self

    def __exit__(self, *unused):
        def empty():
            try:
                os.rmdir(self.path)
            except OSError:
                return not os.path.exists(self.path)
            return True
        until(f"{self.path} is removed", empty)


def makers(pid):
    """The processes of squalld PID that make sockets elsewhere."""
    out = []
    for p in os.listdir("/proc"):
        if not p.isdigit():
            continue
        try:
            with open(f"/proc/{p}/status") as f:
                s = f.read()
            if "Name:\tsquall-sockets\n" in s and f"\nPPid:\t{pid}\n" in s:
                out.append(int(p))
        except OSError:
            continue
    return out


def until_no_makers(pid):
    until("no process makes sockets elsewhere", lambda: not makers(pid))
