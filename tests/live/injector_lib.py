"""What the live tests of squalld share: a client for its API, and a squalld with a directory of its own."""
import fcntl
import http.client
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
SQUALLD = os.path.join(BUILD, "squalld")


class Unix(http.client.HTTPConnection):
    def __init__(self, path, timeout=10):
        super().__init__("squall", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def until(what, cond, limit=5.0):
    """Wait for cond(); returns how long it took."""
    t0 = time.monotonic()
    while True:
        if cond():
            return time.monotonic() - t0
        if time.monotonic() - t0 > limit:
            raise AssertionError(f"not within {limit} s: {what}")
        time.sleep(0.02)


def state(pid):
    """'T' for a stopped process, '' for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid):
    return state(pid) not in ("", "Z")


def remove_cgroup(path):
    """As soon as nobody is in it any more."""
    def gone():
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True
    until(f"{path} is removed", gone)


def child_named(pid, name):
    """The child of this name, which it has a little after it was started: later still under sanitizers."""
    found = []

    def named():
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            for child in children.read().split():
                with open(f"/proc/{child}/comm") as comm:
                    if comm.read().strip() == name:
                        found.append(int(child))
        return found
    until(f"process {pid} has a child {name}", named)
    return found[0]


class Injector:
    """A squalld in a directory of its own."""

    # Its cgroups bear the name: one of its own, for other tests run at the same time.
    def __init__(self, run_dir, name=f"p-{os.getpid():x}", private=True, env=None, args=()):
        self.run_dir = run_dir
        self.dir = os.path.join(run_dir, name)
        self.socket = os.path.join(self.dir, "api.sock")
        args = [SQUALLD, "--dir", self.dir] + (["--private"] if private else []) + list(args)
        self.proc = subprocess.Popen(args, env=dict(os.environ, SQUALL_RUN_DIR=run_dir, **(env or {})))
        self.keeper = self.proc.pid
        until("the API answers", self.answers)
        self.pid = self.get("info")["pid"]

    def answers(self):
        if self.proc.poll() is not None:
            raise AssertionError(f"squalld ended with {self.proc.returncode}")
        try:
            self.get("info")
            return True
        except (FileNotFoundError, ConnectionError):
            return False

    def call(self, method, path, body=None, raw=None):
        c = Unix(self.socket)
        try:
            data = raw if raw is not None else json.dumps(body) if body is not None else None
            c.request(method, "/v1/" + path, data)
            r = c.getresponse()
            return r.status, json.loads(r.read())
        finally:
            c.close()

    def get(self, path):
        status, body = self.call("GET", path)
        assert status == 200, (path, status, body)
        return body

    def post(self, path, body=None, want=(200, 201)):
        status, got = self.call("POST", path, body if body is not None else {})
        assert status in want, (path, status, got)
        return got

    def delete(self, path):
        status, got = self.call("DELETE", path)
        assert status == 200, (path, status, got)
        return got

    def run(self, lease="10s", seed=1):
        return self.post("runs", {"name": "test", "lease": lease, "seed": seed})["run"]

    def pause(self, run, pid):
        f = self.post(f"runs/{run}/faults", {"uses": "process/pause", "target": {"pid": pid}})
        assert state(pid) == "T", state(pid)
        return f["fault"]

    def locked(self):
        try:
            fd = os.open(os.path.join(self.dir, "lock"), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(fd)

    def wait(self, limit=10):
        return self.proc.wait(limit)

    def end(self):
        for pid in (self.pid, self.keeper):
            for sig in (signal.SIGCONT, signal.SIGTERM):
                try:
                    os.kill(pid, sig)
                except ProcessLookupError:
                    pass
        try:
            self.proc.wait(10)
        except subprocess.TimeoutExpired:
            self.proc.kill()


class Victim:
    """A process to be stopped."""

    def __init__(self):
        self.proc = subprocess.Popen(["sleep", "300"])
        self.pid = self.proc.pid

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.proc.kill()
        self.proc.wait()


def main(tests):
    """Run the test functions, each with a RUN of its own; exit 1 if any fails."""
    bad = 0
    only = sys.argv[1:]
    for test in tests:
        if only and test.__name__ not in only:
            continue
        run_dir = tempfile.mkdtemp(prefix="squall-test-")
        t0 = time.monotonic()
        try:
            test(run_dir)
            print(f"ok   {test.__name__} ({time.monotonic() - t0:.1f} s)", flush=True)
        except Exception as e:  # each test is reported, whatever it died of
            bad += 1
            import traceback
            traceback.print_exc()
            print(f"FAIL {test.__name__}: {e}", flush=True)
        finally:
            shutil.rmtree(run_dir, ignore_errors=True)
    sys.exit(1 if bad else 0)
