"""What the live tests of callers that run already share: a program that was there before, and an injector that takes it."""
import json
import os
import re
import subprocess
import sys

from injector_lib import Injector, until
from intercept_lib import AGENT, NAME, Rig, told

KEEP = "keep = []\n"  # what a program was told to keep open


class Own:
    """A program that serves CONTROL: does as it is told (intercept_lib.AGENT)."""

    def __init__(self, control):
        self.control = control
        until("the program listens", self.listens)
        self.pid = self.do("result = os.getpid()")

    def listens(self):
        try:
            return self.do("result = 1") == 1
        except OSError:
            return False

    def do(self, code, timeout=30):
        return told(self.control, code, timeout)

    def end(self):
        try:
            os.kill(self.pid, 9)
        except ProcessLookupError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.end()


class Program(Own):
    """One that was started here, before any injector knew of it. CGROUP: a directory to be in from the first."""

    def __init__(self, run_dir, name="prog", cgroup=None, arg=""):
        path = os.path.join(run_dir, "agent.py")
        if not os.path.exists(path):
            with open(path, "w") as f:
                f.write(KEEP + AGENT)

        def enter():
            if cgroup:
                with open(os.path.join(cgroup, "cgroup.procs"), "w") as f:
                    f.write("0")

        control = os.path.join(run_dir, name + ".sock")
        self.proc = subprocess.Popen([sys.executable, path, control, arg], preexec_fn=enter)
        super().__init__(control)

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
        until("the proxy holds the links", lambda: len(links_of(self.proxy_pid())) >= 4)
        self.hooks = links_of(self.proxy_pid())
        self.answer = self.declare(edge, to, existing, protocol)

    def declare(self, edge, to, existing=None, protocol="auto", who="app", want=(200, 201)):
        body = {"name": edge, "from": who, "to": to, "protocol": protocol}
        if existing:
            body["existing"] = existing
        return self.inj.post(f"runs/{self.id}/edges", body, want)

    def gone(self):
        """It was killed: nothing is left to be ended."""
        self.inj.proc.wait(10)
        Rig.all.remove(self.inj)
        squalld = os.path.join(os.environ.get("SQUALL_BUILD", "build"), "squalld")
        subprocess.run([squalld, "sweep"], env=dict(os.environ, SQUALL_RUN_DIR=self.run_dir), check=False,
                       capture_output=True)


def links_of(pid):
    """BPF links that a process holds."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fdinfo"):
        try:
            with open(f"/proc/{pid}/fdinfo/{fd}") as f:
                m = re.search(r"^link_id:\s*(\d+)", f.read(), re.M)
        except OSError:
            continue
        if m:
            found.add(int(m[1]))
    return found


def hooks_of(rig):
    """Links of RIG's proxy that are there now, whoever holds them."""
    got = subprocess.run(["bpftool", "-j", "link", "show"], capture_output=True, text=True,
                         env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"))
    return rig.hooks & {k["id"] for k in json.loads(got.stdout or "[]")}
