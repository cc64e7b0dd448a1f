#!/usr/bin/env python3
"""A DNS fault where glibc asks a cache first: the real nscd refuses the caller, and nobody else."""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from dns_lib import A4, Server, alone
from injector_lib import until
from intercept_lib import NO_BPF, Rig, Without, main

HOST, CONF = "127.53.0.53", "/run/nscd/conf"
LOOKUP = [sys.executable, "-c", """
import socket, sys
try: print(socket.getaddrinfo(sys.argv[1], 80, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
except socket.gaierror as e: print(e.errno)
"""]
IN_CALLER = f"""
p = subprocess.run({LOOKUP!r} + [NAME], stdout=subprocess.PIPE, timeout=20)
result = p.stdout.decode().strip()
"""


class Nscd:
    """The cache of this mount namespace: A4 for every name that was asked for once."""

    def __init__(self):
        if not os.path.ismount("/run/nscd"):
            os.makedirs("/run/nscd", exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "squall-test", "/run/nscd"], check=True)
        with open(CONF, "w") as f:
            f.write("threads 2\nparanoia no\nenable-cache hosts yes\nenable-cache passwd no\nenable-cache group no\n"
                    "enable-cache services no\nenable-cache netgroup no\npositive-time-to-live hosts 600\n"
                    "persistent hosts no\nshared hosts no\ncheck-files hosts no\n")
        self.proc = subprocess.Popen(["nscd", "-F", "-f", CONF], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("nscd listens", lambda: os.path.exists("/run/nscd/socket"))
        time.sleep(0.2)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.proc.terminate()
        self.proc.wait()
        if os.path.exists("/run/nscd/socket"):
            os.unlink("/run/nscd/socket")


def outside(name):
    return subprocess.run(LOOKUP + [name], stdout=subprocess.PIPE, timeout=20, check=True).stdout.decode().strip()


def cached(server, name):
    """NAME is in the cache: whoever asks it makes no query."""
    assert outside(name) == A4
    asked = len(server.asked)
    assert asked > 0 and outside(name) == A4 and len(server.asked) == asked, server.asked


def refused(r, server):
    asked = len(server.asked)
    ask = lambda name: r.do(f"NAME={name!r}\n" + IN_CALLER, 30)
    assert ask("a.test") == A4 and len(server.asked) > asked, "the cache answered the caller"
    f = r.inj.post(f"runs/{r.id}/faults", {"uses": "call/dns", "target": {"edge": r.edge},
                                           "with": {"answer": "nxdomain", "names": ["a.test"]}})
    assert ask("a.test") == "-2" and ask("b.test") == A4
    cached(server, "a.test")  # nobody else notices
    r.clear(f)
    assert ask("a.test") == A4
    told = [e["text"] for e in r.events("warning") if "nscd" in e["text"]]
    assert len(told) == 1 and "refuses app" in told[0], told


def by(run_dir, prefix):
    with Nscd():
        cached(server, "a.test")
        r = Rig(run_dir, [f"{HOST}:53"], mode="seccomp" if prefix else "bpf", protocol="dns",
                injector=Without(run_dir, prefix) if prefix else None)
        refused(r, server)
        r.end()


def test_bpf(run_dir):
    by(run_dir, None)


def test_seccomp(run_dir):
    by(run_dir, NO_BPF)


def test_running(run_dir):
    """Of a program that ran before: from its next question on, until it is given back."""
    with Nscd():
        cached(server, "a.test")
        r = Rig(run_dir, [f"{HOST}:53"], mode="bpf", protocol="dns")
        loop = ("import socket, sys, time\n"
                "while True:\n"
                "    print(socket.getaddrinfo(sys.argv[1], 80, socket.AF_INET, socket.SOCK_STREAM)[0][4][0], flush=True)\n"
                "    time.sleep(0.05)\n")
        # glibc leaves a cache that refused it alone for 100 questions
        p = subprocess.Popen([sys.executable, "-c", loop, "a.test"], stdout=subprocess.DEVNULL)
        try:
            time.sleep(0.5)
            r.inj.post(f"runs/{r.id}/services", {"name": "ran", "select": {"pid": p.pid}})
            r.inj.post(f"runs/{r.id}/edges", {"name": "ran->dns", "from": "ran", "to": [f"{HOST}:53"], "protocol": "dns"})
            asked = len(server.asked)
            until("it asks by itself", lambda: len(server.asked) > asked, 5)
            r.inj.delete(f"runs/{r.id}")

            def quiet():
                n = len(server.asked)
                time.sleep(0.5)
                return len(server.asked) == n

            until("the cache answers it again", quiet, 20)
            assert p.poll() is None
        finally:
            p.kill()
            p.wait()
        r.inj.post("quit")
        assert r.inj.wait() == 0
        r.inj.end()


if __name__ == "__main__":
    alone(resolver=HOST)
    server = Server(HOST)
    main([test_bpf, test_seccomp, test_running])
