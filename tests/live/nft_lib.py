"""What the live tests of callers by nftables share. BPF is missing because a seccomp filter refuses bpf(2) to squalld, and
everything is in a network namespace of our own."""
import ctypes
import os
import subprocess
import sys

from injector_lib import remove_cgroup
from intercept_lib import Rig, Without

# Loads a filter that lets bpf(2) fail with EPERM, and becomes what it is told.
NO_BPF = [sys.executable, "-c", """
import ctypes, os, struct, sys
code = struct.pack("HBBI" * 4, 0x20, 0, 0, 0, 0x15, 0, 1, %d, 0x06, 0, 0, 0x00050001, 0x06, 0, 0, 0x7fff0000)
buf = ctypes.create_string_buffer(code)
prog = struct.pack("HxxxxxxP", 4, ctypes.addressof(buf))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(22, 2, ctypes.c_char_p(prog), 0, 0):
    sys.exit("no filter: %%d" %% ctypes.get_errno())
os.execvp(sys.argv[1], sys.argv[1:])
""" % {"x86_64": 321, "aarch64": 280}.get(os.uname().machine, 321)]
HERE, HERE6 = "10.77.0.1", "fd77::1"


def own_network():
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
        sys.exit("no network namespace")
    for args in (["link", "set", "lo", "up"], ["addr", "add", HERE + "/32", "dev", "lo"],
                 ["-6", "addr", "add", HERE6 + "/128", "dev", "lo", "nodad"]):
        subprocess.run(["ip", *args], check=True)


def tables():
    # As text: nft 1.0.6 writes the flags of an owned table as JSON from freed memory.
    got = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True,
                         env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"))
    return [line.split()[2] for line in got.stdout.splitlines()]


def cgroup2():
    with open("/proc/mounts") as f:
        for line in f:
            if line.split()[2] == "cgroup2":
                return line.split()[1]
    return None


class Cgroup:
    def __init__(self, name="a"):
        self.path = os.path.join(cgroup2(), f"sqt-nft-{os.getpid()}-{name}")
        os.makedirs(self.path, exist_ok=True)

    def __enter__(self):
        return self.path

    def __exit__(self, *unused):
        remove_cgroup(self.path)


class Attached(Rig):
    def __init__(self, run_dir, select, to, injector=None, more=None, prog=None):
        self.inj = injector or Without(run_dir, NO_BPF)
        Rig.all.append(self.inj)
        self.run_dir = run_dir
        self.prog = prog
        self.id = self.inj.run(lease="60s")
        self.edge = "app->dep"
        self.plan = self.inj.post(f"runs/{self.id}/plan", {"select": select, "to": to})
        self.taken = self.inj.post(f"runs/{self.id}/services", {"name": "app", "select": select})
        self.answer = self.inj.post(f"runs/{self.id}/edges",
                                    {"name": self.edge, "from": "app", "to": to, "protocol": "auto", **(more or {})})
        assert self.taken["mode"] == "nft" and self.answer["mode"] == "nft", (self.taken, self.answer)

    def do(self, code, timeout=30):
        return self.prog.do(code, timeout)

    def live(self):
        return next(e for e in self.inj.get(f"runs/{self.id}/edges")["edges"] if e["edge"] == self.edge)


def begin():
    if os.geteuid() != 0 or not cgroup2():
        print("skipped: it needs root and cgroup2")
        sys.exit(0)
    own_network()
