"""What the live tests of callers that run already share: a program that was there before, and an injector that takes it."""
import json
import os
import signal
import socket
import subprocess
import sys
import time

from injector_lib import Injector, until
from intercept_lib import AGENT, NAME, Rig

CGROUP = None


def cgroup2():
    with open("/proc/self/mounts") as f:
        for line in f:
            fields = line.split()
            if fields[2] == "cgroup2":
                return fields[1]
    return None


class Program:
    """Does as it is told (intercept_lib.AGENT), and ran before any injector knew of it. CGROUP: a directory to be in from
    the first."""

    def __init__(self, run_dir, name="prog", cgroup=None, arg=""):
        self.control = os.path.join(run_dir, name + ".sock")
        path = os.path.join(run_dir, "agent.py")
        if not os.path.exists(path):
            with open(path, "w") as f:
                f.write(AGENT)

        def enter():
            if cgroup:
                with open(os.path.join(cgroup, "cgroup.procs"), "w") as f:
                    f.write("0")

        self.proc = subprocess.Popen([sys.executable, path, self.control, arg], preexec_fn=enter)
        self.pid = self.proc.pid
        until("the program listens", self.listens)

    def listens(self):
        try:
            return self.do("result = 1") == 1
        except OSError:
            return False

    def do(self, code, timeout=30):
        c = socket.socket(socket.AF_UNIX)
        c.settimeout(timeout)
        c.connect(self.control)
        c.sendall(code.encode() + b"\0")
        out = b""
        while True:
            b = c.recv(1 << 20)
            if not b:
                break
            out += b
        c.close()
        got = json.loads(out)
        assert "ok" in got, got["error"]
        return got["ok"]

    def end(self):
        self.proc.kill()
        self.proc.wait()


class Attached(Rig):
    """An injector with one run, a service that was selected, and an edge from it."""

    def __init__(self, run_dir, select, to, injector=None, lease="60s", existing=None, edge="app->dep", protocol="auto"):
        self.inj = injector or Injector(run_dir, NAME)
        Rig.all.append(self.inj)
        self.run_dir = run_dir
        self.id = self.inj.run(lease=lease)
        self.edge = edge
        self.taken = self.inj.post(f"runs/{self.id}/services", {"name": "app", "select": select})
        self.answer = self.declare(edge, to, existing, protocol)

    def declare(self, edge, to, existing=None, protocol="auto", want=(200, 201)):
        body = {"name": edge, "from": "app", "to": to, "protocol": protocol}
        if existing:
            body["existing"] = existing
        return self.inj.post(f"runs/{self.id}/edges", body, want)


def hooks():
    """How many programs of Squall's are loaded."""
    got = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, text=True,
                         env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin"))
    return sorted(p["id"] for p in json.loads(got.stdout)
                  if p.get("name", "") in ("sq_connect4", "sq_connect6", "sq_getpeer4", "sq_getpeer6", "sq_fork", "sq_exit"))
