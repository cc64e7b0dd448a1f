"""What the tests of `squall run` share: a place of their own, scenarios, evidence, and what a run may leave (nothing)."""
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

BUILD = os.path.abspath(os.environ.get("SQUALL_BUILD", "build"))
SQUALL = os.path.join(BUILD, "squall")
SQUALLD = os.path.join(BUILD, "squalld")
SHOP = os.path.join(BUILD, "shop")


def check(ok, what):
    if not ok:
        raise AssertionError(what)


def free_ports(n):
    """N consecutive ports that nobody has."""
    for base in range(23000 + os.getpid() * 7 % 8000, 60000, n):
        held = []
        try:
            for i in range(n):
                s = socket.socket()
                held.append(s)
                s.bind(("127.0.0.1", base + i))
            return base
        except OSError:
            continue
        finally:
            for s in held:
                s.close()
    raise AssertionError("no free ports")


def state_of(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return None


class Place:
    """A folder with a RUN directory; everything that a run starts carries its name in the environment."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="squall-live-")
        self.run_dir = os.path.join(self.dir, "run")
        os.mkdir(self.run_dir, 0o700)
        self.env = {k: v for k, v in os.environ.items() if k not in ("SQUALL_INJECTOR", "NO_COLOR")}
        self.env.update(SQUALL_RUN_DIR=self.run_dir, SQUALL_SQUALLD=SQUALLD)
        self.port = free_ports(4)
        self.children = []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for p in self.children:
            if p.poll() is None:
                p.kill()
                p.wait()
        left = []
        if exc[0] is None:
            left = self.gone(5)
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        if exc[0]:
            for log in glob.glob(self.dir + "/**/squalld.log", recursive=True):
                sys.stderr.write(log + ":\n" + open(log).read())
        shutil.rmtree(self.dir, ignore_errors=True)
        check(not left, f"left behind: {left}")

    def scenario(self, steps, restart="never", load=True, lease="3s", safety="", steady="{for: 1s, thresholds: "
                 "[\"error_rate<50%\"]}", verify="[{check: clean}]", command=None, instances=1, edges="", more=""):
        path = os.path.join(self.dir, "s.yaml")
        shop = json.dumps(SHOP)
        with open(path, "w") as f:
            f.write(f"""apiVersion: squall/v1
kind: Scenario
metadata: {{name: live}}
spec:
  services:
    payments:
      command: {command or f'[{shop}, payments, --port, "${{port}}"]'}
      instances: {instances}
      port: {self.port}
      ready: {{http: /healthz, within: 5s}}
      restart: {restart}
{more}
{edges}
""")
            if load:
                f.write(f"""
  load:
    ping:
      executor: constant-arrival-rate
      rate: 50/s
      request: {{method: GET, url: "http://127.0.0.1:{self.port}/healthz", timeout: 500ms}}
  lateness: {{over: 2s, share: 50%}}   # a busy machine is not what is tested here
  steady_state: {steady}
""")
            f.write(f"""
  steps: {steps}
  verify: {verify}
  safety: {{lease: {lease}{safety}}}
""")
        return path

    def start(self, *args, **kw):
        p = subprocess.Popen([SQUALL, *args], cwd=self.dir, env=self.env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)
        self.children.append(p)
        return p

    def run(self, *args, timeout=60):
        p = self.start(*args)
        out, err = p.communicate(timeout=timeout)
        return p.returncode, out, err

    def evidence(self):
        logs = glob.glob(self.dir + "/squall-runs/*/evidence.jsonl")
        if not logs:
            return []
        out = []
        with open(sorted(logs)[-1]) as f:
            for line in f:
                try:
                    out.append(json.loads(line))
                except ValueError:
                    pass
        return out

    def records(self, kind, **want):
        return [r for r in self.evidence() if r["type"] == kind and all(r.get(k) == v for k, v in want.items())]

    def wait_record(self, kind, within=20, **want):
        end = time.monotonic() + within
        while time.monotonic() < end:
            found = self.records(kind, **want)
            if found:
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"no {kind} {want} record within {within} s")

    def end(self):
        ends = self.records("end")
        check(len(ends) == 1, f"{len(ends)} end records")
        check(self.evidence()[-1]["type"] == "end", "the end record is not the last one")
        return ends[0]

    def processes(self):
        """Every process of this place, except those that the test itself holds."""
        mark = f"SQUALL_RUN_DIR={self.run_dir}".encode()
        mine = {os.getpid()} | {p.pid for p in self.children}
        found = {}
        for d in glob.glob("/proc/[0-9]*"):
            pid = int(d[6:])
            try:
                with open(d + "/environ", "rb") as f:
                    if pid not in mine and mark in f.read().split(b"\0"):
                        with open(d + "/cmdline", "rb") as c:
                            found[pid] = c.read().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                pass
        return {p: c for p, c in found.items() if state_of(p) not in (None, "Z")}

    def injector_pids(self):
        """squalld proper (holds the API) and its keeper (its parent), of the private injector."""
        both = [p for p, c in self.processes().items() if "--private" in c]
        child = [p for p in both if int(open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[1]) in both]
        check(len(both) == 2 and len(child) == 1, f"injector processes: {both}")
        return child[0], [p for p in both if p != child[0]][0]

    def leftovers(self):
        left = [f"{p} {c}" for p, c in self.processes().items()]
        left += [d for d in glob.glob(self.run_dir + "/p-*") if os.path.exists(d)]
        return left

    def gone(self, within):
        """[] as soon as nothing is left, else what is left after so many seconds."""
        end = time.monotonic() + within
        while self.leftovers() and time.monotonic() < end:
            time.sleep(0.05)
        return self.leftovers()
