"""Real runtimes as callers: what curl, Python, Node.js, Java and Go make of each fault, launched by Squall or running
already. A runtime's own timeouts fire when they should, its threads and event loop never stall, and no call is counted
twice."""
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request

from injector_lib import Injector, until
from intercept_lib import NAME, PYTHON, Dependency, Without

HERE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "runtimes")
USER = ["setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups"]
SLACK = 900  # ms that a busy machine may add to anything


def commands(dir):
    """How each runtime's caller is started, by name; what must be compiled for it is compiled into DIR."""
    def java(*more):
        if not os.path.exists(os.path.join(dir, "Caller.class")):
            subprocess.run(["javac", "-d", dir, os.path.join(HERE, "Caller.java")], check=True)
        return ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", dir, "Caller", "${port}", *more]

    def go():
        program = os.path.join(dir, "caller")
        if not os.path.exists(program):
            subprocess.run(["go", "build", "-o", program, os.path.join(HERE, "caller.go")], check=True,
                           env=dict(os.environ, GOCACHE=os.path.join(dir, "gocache"), GO111MODULE="off"))
        return [program, "${port}"]

    def copied(name):
        """Where any user may read it."""
        return shutil.copy(os.path.join(HERE, name), dir)

    return {
        "curl": lambda: [PYTHON, copied("caller.py"), "${port}", "curl"],
        "python": lambda: [PYTHON, copied("caller.py"), "${port}"],
        "node": lambda: [shutil.which("node"), copied("caller.js"), "${port}"],
        "java": java,
        "java-old": lambda: java("old"),
        "go": go,
    }


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Caller:
    """An injector, a run with one edge to DEP and (with BPF) one to the resolvers, and the caller COMMAND: "bpf" and
    "seccomp" have it launched, "running" finds it there."""

    def __init__(self, run_dir, dep, name, command, how):
        os.chmod(run_dir, 0o755)
        if how == "seccomp":
            os.chown(run_dir, 65533, 65533)
        self.inj = Without(run_dir, USER) if how == "seccomp" else Injector(run_dir, NAME)
        self.name, self.dep, self.port, self.made = name, dep, free_port(), 0
        self.dns, self.proc = how != "seccomp", None
        try:
            self.begin(command, how)
        except BaseException:
            self.stop()
            raise

    def begin(self, command, how):
        self.run = self.inj.run(lease="60s")
        if how == "running":
            self.proc = subprocess.Popen([word.replace("${port}", str(self.port)) for word in command])
            until("the caller listens", self.listens, 30)
            self.service({"select": {"port": self.port}})
        edge = self.declare("app->dep", [f"127.0.0.1:{self.dep.port}"])
        assert edge["mode"] == ("seccomp" if how == "seccomp" else "bpf"), edge
        if self.dns:
            self.declare("app->dns", ["0.0.0.0/0:53", "[::/0]:53"], protocol="dns")
        if how != "running":
            self.service({"command": command, "instances": 1, "port": self.port})
        until("the caller listens", self.listens, 30)
        assert self.call()["status"] == 200  # also warms it up

    def service(self, what):
        self.inj.post(f"runs/{self.run}/services", {"name": "app", **what})

    def declare(self, name, to, **more):
        return self.inj.post(f"runs/{self.run}/edges", {"name": name, "from": "app", "to": to, **more})

    def listens(self):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def call(self, timeout=5000, keep=False, host=None):
        self.made += host is None  # a name that is not known leads nowhere
        url = f"http://127.0.0.1:{self.port}/call?port={self.dep.port}&timeout={timeout}{'&keep=1' if keep else ''}"
        url += f"&host={host}" if host else ""
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)

    def fault(self, uses, with_=None, **target):
        target = {"edge": "app->dep", **target}
        return self.inj.post(f"runs/{self.run}/faults", {"uses": uses, "target": target, "with": with_ or {}})

    def clear(self, fault):
        assert self.inj.delete(f"runs/{self.run}/faults/{fault['fault']}")["clean"]

    def calls(self, edge="app->dep"):
        found, after = [], 0
        while True:
            got = self.inj.get(f"runs/{self.run}/events?after={after}")
            found += [c for e in got["events"] if e["type"] == "calls" and e["edge"] == edge
                      for c in e["calls"]]
            if not got["events"]:
                return found
            after = got["next"]

    def end(self):
        try:
            assert self.inj.delete(f"runs/{self.run}")["clean"]
            self.inj.post("quit")
            assert self.inj.wait() == 0
        finally:
            self.stop()

    def stop(self):
        self.inj.end()
        if self.proc:
            self.proc.kill()
            self.proc.wait()


ANSWERED, FAILED, GAVE_UP = 0, 1, 2  # as the caller saw it (EVIDENCE.md)

# Each: a caller without a fault before and after it. Says how the calls that each of its faults hit must be told.


def errno(c):
    f = c.fault("call/error", {"errno": "ECONNREFUSED"})
    for _ in range(3):
        assert_is(c.call(), error="refused", most=SLACK)
    c.clear(f)
    return [(f, FAILED, 3)]


def connect_latency(c):
    slow = c.fault("call/latency", {"delay": "300ms"})
    assert_is(c.call(), status=200, least=295, most=600 + SLACK)
    c.clear(slow)
    slower = c.fault("call/latency", {"delay": "4s"})
    assert_is(c.call(timeout=500), error="timeout", least=490, most=500 + SLACK)
    c.clear(slower)
    return [(slow, ANSWERED, 1), (slower, GAVE_UP, 1)]


def black_hole(c):
    f = c.fault("call/blackhole")
    assert_is(c.call(timeout=500), error="timeout", least=490, most=500 + SLACK)
    c.clear(f)
    return [(f, GAVE_UP, 1)]


def reset(c):
    f = c.fault("call/reset")
    assert_is(c.call(), error="reset", most=SLACK)
    c.clear(f)
    # HttpURLConnection tries once more by itself, and can't be told not to.
    c.made += c.name == "java-old"
    return [(f, FAILED, 2 if c.name == "java-old" else 1)]


def byte_latency(c):
    """On a connection that is open already: nothing is left of it but the bytes."""
    assert_is(c.call(keep=True), status=200)
    f = c.fault("call/latency", {"delay": "300ms"})
    assert_is(c.call(keep=True), status=200, least=295, most=300 + SLACK)
    c.clear(f)
    assert_is(c.call(keep=True), status=200, most=SLACK)
    return [(f, ANSWERED, 1)]


def http_503(c):
    """For 30 % of the requests: how many is chance (5 to 33 of 60 but once in 100,000), which ones is told alike."""
    f = c.fault("call/http_status", {"status": 503}, percent="30%")
    got = [c.call()["status"] for _ in range(60)]
    assert set(got) == {200, 503} and 5 <= got.count(503) <= 33, got
    c.clear(f)
    until("the hits are counted", lambda: sum(call[3] == 503 for call in c.calls()) >= got.count(503))
    return [(f, FAILED, got.count(503))]


def dns_nxdomain(c):
    if not c.dns:
        return []
    f = c.fault("call/dns", {"answer": "nxdomain"}, edge="app->dns")
    assert_is(c.call(host="db.squall.test"), error="dns", most=SLACK)
    c.clear(f)
    until("queries are counted", lambda: any(call[6] == f["fault"] for call in c.calls("app->dns")))
    return []


FAULTS = (errno, connect_latency, black_hole, reset, byte_latency, http_503, dns_nxdomain)


def assert_is(got, status=0, error="", least=0.0, most=1e9):
    assert got["status"] == status and got["error"] == error, got
    assert least <= got["ms"] <= most, (got, least, most)
    assert got["lag"] < 250 + SLACK / 4, f"the caller itself stood still: {got}"


def counted(c, told):
    """Every call is counted, once, and those that were hit are told as they were seen."""
    until("every call is counted", lambda: len(c.calls()) >= c.made, 10)
    calls = c.calls()
    assert len(calls) == c.made, f"{c.made} calls made, {len(calls)} counted: {calls[-8:]}"
    for fault, outcome, n in told:
        hit = [call[2] for call in calls if call[6] == fault["fault"]]
        assert hit == [outcome] * n, f"{fault['fault']}: outcomes {hit} instead of {n} times {outcome}"


def matrix(names, modes, dir):
    """Each runtime by each way through each fault; says what went wrong where."""
    made, bad = commands(dir), []
    for name in names:
        command = made[name]()
        for how in modes:
            run_dir = os.path.join(dir, f"{name}-{how}")
            os.mkdir(run_dir)
            with Dependency() as dep:
                c = Caller(run_dir, dep, name, command, how)
                try:
                    for fault in FAULTS:
                        what, begin = f"{name} {how} {fault.__name__}", time.monotonic()
                        try:
                            told = fault(c)
                            assert_is(c.call(), status=200, most=SLACK)
                            counted(c, told)
                            print(f"ok   {what} ({time.monotonic() - begin:.1f} s)", flush=True)
                        except (AssertionError, OSError) as e:
                            bad.append(f"{what}: {e}")
                            print(f"FAIL {what}", flush=True)
                            break  # what it left would be taken for the next one's
                finally:
                    c.end()
    return bad
