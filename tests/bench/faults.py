#!/usr/bin/env python3
"""How long a fault takes from the command until it is active (POST answered: undo record synced, applied, read back),
from DELETE until it is gone, and from halt until everything is; and what the injector's processes hold in memory.
All by the API on its Unix socket, seen by its client; nothing is averaged.

    faults.py [faults [halts]]        1000 100

Done twice: the undo journal on tmpfs, where /run is on Debian, and on a disk, where each fault waits for it twice."""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import squall

BUDGET = 60  # seconds a series may take; what was not reached by then is left out, and the column n says so
AGAIN = 4
SERVER = """
import http.server
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *unused):
        pass
s = http.server.HTTPServer(("127.0.0.1", 0), H)
open(__import__("sys").argv[1], "w").write("%d\\n" % s.server_address[1])
s.serve_forever()
"""
CALLER = """
import http.client, sys, time
c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=5)
while True:
    try:
        c.request("GET", "/")
        c.getresponse().read()
    except OSError:
        c.close()
    time.sleep(0.05)
"""


def since(t0):
    return (time.monotonic_ns() - t0) / 1e3


def wait(what, cond, limit=10, nap=0.0):
    end = time.monotonic() + limit
    while not cond():
        if time.monotonic() > end:
            squall.die(f"bench faults: not within {limit} s: {what}")
        if nap:
            time.sleep(nap)


def state(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def frozen(instance):
    if not instance["cgroup"]:
        return False
    with open(os.path.join(instance["cgroup"], "cgroup.events")) as f:
        return "frozen 1" in f.read()


class Bench:
    def __init__(self, where, tag):
        tempfile.tempdir = where
        self.host = squall.Host()
        self.injector = squall.Injector(self.host, f"p-bench-{os.getpid()}-{tag}")
        self.api = self.injector.api

    def post(self, path, body=None, expect=201):
        return self.api.call("POST", "/v1/" + path, body or {}, expect)

    def serve(self, run, name, *command):
        made = self.post(f"runs/{run}/services", {"name": name, "command": list(command), "instances": 1})
        return made["instances"][0]

    def system(self):
        """A run: a process to pause, and a caller that calls a dependency by HTTP over an armed edge, 20 times a second."""
        run = self.post("runs", {"name": "bench", "lease": "30s", "seed": 1})["run"]
        victim = self.serve(run, "victim", "/bin/sleep", "600")
        told = os.path.join(self.host.dir, "port")
        self.serve(run, "dependency", sys.executable, "-c", SERVER, told)
        wait("the dependency listens", lambda: os.path.exists(told) and os.path.getsize(told), nap=0.02)
        with open(told) as f:
            port = f.read().strip()
        edge = {"name": "caller->dependency", "from": "caller", "to": [f"127.0.0.1:{port}"], "protocol": "auto"}
        mode = self.post(f"runs/{run}/edges", edge)["mode"]
        self.serve(run, "caller", sys.executable, "-c", CALLER, port)
        wait("a call is seen", lambda: self.calls(run), nap=0.05)
        return run, victim, mode

    def calls(self, run, after=0):
        got = self.api.call("GET", f"/v1/runs/{run}/events?after={after}", expect=200)
        self.seen = got["next"]
        return [c for e in got["events"] if e["type"] == "calls" for c in e["calls"]]

    def bites(self, run, body):
        """What is measured is a fault that real calls feel: one is held for the delay."""
        _, got = self.fault(run, body)
        self.seen = 0
        wait("a call is held", lambda: any(c[6] == got["fault"] and c[5] >= 5000 for c in self.calls(run, self.seen)),
             nap=0.02)
        self.api.call("DELETE", f"/v1/runs/{run}/faults/{got['fault']}", expect=200)

    def fault(self, run, body):
        """Microseconds until the fault is active, and the answer."""
        t0 = time.monotonic_ns()
        got = self.post(f"runs/{run}/faults", body)
        took = since(t0)
        if not got["hit"] or not got["readback"]:
            squall.die(f"bench faults: nothing hit or read back: {got}")
        return took, got

    def series(self, run, body, n, active):
        """[(until active, until gone)]; active() looks from outside, after the clock was read."""
        rows, end = [], time.monotonic() + BUDGET
        while len(rows) < n and time.monotonic() < end:
            if len(rows) % 20 == 0:
                self.post(f"runs/{run}/renew", expect=200)
            on, got = self.fault(run, body)
            if not active():
                squall.die(f"bench faults: answered, but not there: {got}")
            t0 = time.monotonic_ns()
            gone = self.api.call("DELETE", f"/v1/runs/{run}/faults/{got['fault']}", expect=200)
            off = since(t0)
            if not gone["clean"] or active(False):
                squall.die(f"bench faults: taken back, but still there: {gone}")
            rows.append((on, off))
        return rows

    def round_trips(self, n):
        rows = []
        for _ in range(n):
            t0 = time.monotonic_ns()
            self.api.call("GET", "/v1/info", expect=200)
            rows.append(since(t0))
        return rows

    def halts(self, n, pause, latency):
        """[(until answered, until nothing is left)] with both faults active in a run of two services and an edge."""
        rows, end = [], time.monotonic() + BUDGET
        while len(rows) < n and time.monotonic() < end:
            run = self.post("runs", {"name": "bench", "lease": "30s", "seed": 1})["run"]
            edge = {"name": "caller->dependency", "from": "caller", "to": ["127.0.0.1:1"], "protocol": "auto"}
            self.post(f"runs/{run}/edges", edge)
            there = [self.serve(run, name, "/bin/sleep", "600") for name in ("victim", "caller")]
            self.fault(run, pause)
            self.fault(run, latency)
            t0 = time.monotonic_ns()
            got = self.post("halt", expect=200)
            answered = since(t0)
            wait("everything is gone", lambda: not any(state(i["pid"]) or (i["cgroup"] and os.path.exists(i["cgroup"]))
                                                       for i in there))
            rows.append((answered, since(t0)))
            if not got["clean"] or got["faults"] != 2:
                squall.die(f"bench faults: not clean after halt: {got}")
        if self.api.call("GET", "/v1/snapshot", expect=200)["journal"] != 0:
            squall.die("bench faults: undo records left after halt")
        return rows

    def again(self, table, n, body):
        """Whether what is held grows with what has been: the same run over and over."""
        for i in range(AGAIN):
            run = self.post("runs", {"name": "bench", "lease": "30s", "seed": 1})["run"]
            self.serve(run, "victim", "/bin/sleep", "600")
            done = len(self.series(run, body, n, lambda on=True: on))
            self.api.call("DELETE", f"/v1/runs/{run}", expect=200)
            time.sleep(6)  # an ended run's events are kept for 5 s
            table.append((f"and run {i + 1} of {done} more faults, ended", self.memory()))

    def memory(self):
        """{comm: (VmRSS, VmHWM)} in KiB; the proxy is there once an edge is."""
        found = {}
        for comm in ("squalld", "squall-keeper", "squall-proxy"):
            for pid in self.host.by_name(comm)[:1]:
                with open(f"/proc/{pid}/status") as f:
                    fields = dict(line.split(":", 1) for line in f if line.startswith("Vm"))
                found[comm] = tuple(int(fields[k].split()[0]) for k in ("VmRSS", "VmHWM"))
        return found

    def close(self):
        self.injector.quit()
        self.host.close()


def stop_and_go(n):
    """The floor: kill(2) until /proc says so, without an API, a record, or a look back at the same process."""
    child = subprocess.Popen(["/bin/sleep", "600"])
    rows = []
    for _ in range(n):
        took = []
        for sig, want in ((signal.SIGSTOP, True), (signal.SIGCONT, False)):
            t0 = time.monotonic_ns()
            os.kill(child.pid, sig)
            while (state(child.pid) == "T") != want:
                pass
            took.append(since(t0))
        rows.append(tuple(took))
    child.kill()
    child.wait()
    return rows


def synced_writes(where, n):
    """The disk's share: two times in each fault's life a record of this size is synced."""
    rows = []
    with tempfile.NamedTemporaryFile(dir=where) as f:
        f.write(b"\0" * 4096)
        for i in range(n):
            t0 = time.monotonic_ns()
            os.pwrite(f.fileno(), b"%512d" % i, 0)
            os.fdatasync(f.fileno())
            rows.append(since(t0))
    return rows


def at(rows, percent):
    rows = sorted(rows)
    return rows[min(len(rows) - 1, int(len(rows) * percent / 100))]


def line(what, rows, floor=None):
    ratio = f"{at(rows, 50) / at(floor, 50):9.1f} x" if floor else f"{'':>11}"
    print(f"  {what:<58}{at(rows, 50) / 1e3:10.3f}{at(rows, 99) / 1e3:10.3f}{len(rows):7d}{ratio}", flush=True)


def both(what, rows, floor=None):
    for i, way in enumerate(("active", "gone")):
        line(f"{what}: {way}", [r[i] for r in rows], [r[i] for r in floor] if floor else None)


def memories(table):
    print("\nresident memory, KiB (VmRSS/VmHWM)")
    names = ("squalld", "squall-keeper", "squall-proxy")
    print(f"  {'':<44}" + "".join(f"{n:>16}" for n in names))
    for when, found in table:
        cells = ("%d/%d" % found[n] if n in found else "-" for n in names)
        print(f"  {when:<44}" + "".join(f"{c:>16}" for c in cells))


def measure(where, tag, n, halts):
    b = Bench(where, tag)
    table = [("idle", b.memory())]
    try:
        print(f"\njournal on {where} ({tag}){'':<22}        p50 ms    p99 ms      n   p50 ratio")
        floor = stop_and_go(n)
        both("floor: kill -STOP, kill -CONT, seen in /proc", floor)
        line("floor: one synced write there", synced_writes(where, min(n, 200)))
        line("floor: GET /v1/info over the API", b.round_trips(n))
        run, victim, mode = b.system()
        table.append((f"a run, 3 services, an armed edge ({mode})", b.memory()))
        pause = {"uses": "process/pause", "target": {"service": "victim"}}
        latency = {"uses": "call/latency", "target": {"edge": "caller->dependency"}, "with": {"delay": "5ms"}}
        kinds = [("process/pause by signal", dict(pause, **{"with": {"method": "signal"}}),
                  lambda on=True: state(victim["pid"]) == "T", floor)]
        if victim["cgroup"]:
            kinds.append(("process/pause by freezer", dict(pause, **{"with": {"method": "freezer"}}),
                          lambda on=True: frozen(victim), floor))
        kinds.append((f"call/latency on an armed edge ({mode})", latency, lambda on=True: on, None))  # bites() looks
        done = 0
        for what, body, active, peer in kinds:
            rows = b.series(run, body, n, active)
            done += len(rows)
            both(what, rows, peer)
            table.append((f"after {done} faults, run goes on", b.memory()))
        b.bites(run, latency)
        b.api.call("DELETE", f"/v1/runs/{run}", expect=200)
        rows = b.halts(halts, pause, latency)
        line("halt, 2 faults, 2 services, an edge: answered", [r[0] for r in rows])
        line("halt: processes and cgroups gone too", [r[1] for r in rows])
        time.sleep(6)  # an ended run's events are kept for 5 s
        table.append((f"after {done + 2 * len(rows)} faults and {len(rows)} halts, no run", b.memory()))
        if tag == "tmpfs":
            b.again(table, n, pause)
        memories(table)
    finally:
        b.close()


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    halts = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    if os.geteuid() != 0:
        print("not root: calls by seccomp, no freezer")
    print(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs; a series ends after {BUDGET} s")
    if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 1 << 24:
        measure("/dev/shm", "tmpfs", n, halts)
    measure("/var/tmp", "disk", n, halts)


if __name__ == "__main__":
    main()
