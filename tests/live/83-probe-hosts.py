#!/usr/bin/env python3
"""Load from several hosts: two injectors, each in a network namespace (and one with a clock) of its own, send one schedule
to a server in a third. Nothing of the host's own network is touched."""
import collections
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from squall import SQUALL, SQUALLD, Api, Host, die  # noqa: E402

SERVER = r"""
import collections, http.server, json, sys, threading
seen = collections.Counter()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        text = b"hello"
        if self.path == "/seen":
            text = json.dumps(seen).encode()
        else:
            seen[self.client_address[0] + " " + self.path] += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *a):
        pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    def handle_error(self, *a):
        pass
Server(("10.77.9.9", 8080), Handler).serve_forever()
"""
AHEAD = 5000  # seconds that the clock of east is ahead
TAG = "sqt-hosts-%d" % os.getpid()
SPACES = {n: "%s-%s" % (TAG, n) for n in ("srv", "east", "west")}
started = []
seen_first = {}


def ip(*args):
    subprocess.run(["ip", *args], check=True)


def inside(space, *command):
    return ["ip", "netns", "exec", SPACES[space], *command]


def network():
    for name in SPACES.values():
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("-n", SPACES["srv"], "addr", "add", "10.77.9.9/32", "dev", "lo")
    for i, host in enumerate(("east", "west"), 1):
        ip("link", "add", "v%d" % i, "netns", SPACES["srv"], "type", "veth", "peer", "name", "eth0", "netns", SPACES[host])
        ip("-n", SPACES["srv"], "addr", "add", "10.77.%d.1/24" % i, "dev", "v%d" % i)
        ip("-n", SPACES["srv"], "link", "set", "v%d" % i, "up")
        ip("-n", SPACES[host], "addr", "add", "10.77.%d.2/24" % i, "dev", "eth0")
        ip("-n", SPACES[host], "link", "set", "eth0", "up")
        ip("-n", SPACES[host], "route", "add", "default", "via", "10.77.%d.1" % i)


def ask_seen():
    got = subprocess.run(inside("srv", "python3", "-c", "import urllib.request; print(urllib.request.urlopen("
                                "'http://10.77.9.9:8080/seen', timeout=5).read().decode())"), capture_output=True, text=True)
    return json.loads(got.stdout) if got.returncode == 0 else None


def wait_for(what, check, seconds=20):
    end = time.monotonic() + seconds
    while True:
        got = check()
        if got:
            return got
        if time.monotonic() > end:
            die("%s: not within %d s" % (what, seconds))
        time.sleep(0.05)


def injector(host, name, *clock):
    """A squalld of that host: a run directory, a network and perhaps a clock of its own."""
    folder = os.path.join(host.dir, name)
    os.mkdir(folder, 0o755)
    # Cgroups are called by it, and both injectors really live on one machine.
    api = os.path.join(folder, "p-%d-%s" % (os.getpid(), name), "api.sock")
    p = subprocess.Popen(inside(name, *clock, SQUALLD, "--dir", os.path.dirname(api)),
                         env=dict(host.env, SQUALL_RUN_DIR=folder), stdin=subprocess.DEVNULL)
    started.append(p)
    wait_for("the injector of " + name, lambda: answers(api))
    return api


def answers(path):
    try:
        return Api(path).call("GET", "/v1/info", expect=200)
    except OSError:
        return None


def agents():
    """{pid: status fields} of the probes of these hosts."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid) as f:
                words = f.read().split("\0")
            if words[:2] != [SQUALL, "probe-agent"]:
                continue
            with open("/proc/%s/status" % pid) as f:
                found[int(pid)] = dict(x.rstrip("\n").split(":\t", 1) for x in f if ":\t" in x)
            if found[int(pid)]["NoNewPrivs"] == "0" and time.monotonic() - seen_first.setdefault(int(pid), time.monotonic()) < 2:
                del found[int(pid)]  # its first instructions
                continue
            with open("/proc/%s/environ" % pid) as f:
                if TAG not in f.read():
                    del found[int(pid)]
        except OSError:
            found.pop(int(pid), None)
    # Not what one of them forks: under the leak sanitizer it does so at its end.
    return {pid: s for pid, s in found.items() if int(s["PPid"]) not in found}


def scenario(host, sockets, wait="4s", lease="10s", sender="[east, west]"):
    path = os.path.join(host.dir, "s.yaml")
    with open(os.path.join(host.dir, "rows.csv"), "w") as f:
        f.write("row\n" + "".join("%d\n" % i for i in range(20000)))
    with open(path, "w") as f:
        f.write("""
apiVersion: squall/v1
kind: Scenario
metadata: {name: hosts}
spec:
  services: {idle: {command: [sleep, "600"]}}
  hosts: {east: {injector: "%s"}, west: {injector: "%s"}}
  load:
    both: {executor: constant-arrival-rate, rate: 60/s, from: %s, connections: 20, threads: 2, data: rows.csv, request: {url: "http://10.77.9.9:8080/both/${data.row}",
           headers: {x-tag: "%s"}, timeout: 20s}}
    one: {executor: constant-arrival-rate, rate: 10/s, from: [west], connections: 20, request: {url: "http://10.77.9.9:8080/one", timeout: 20s}}
  lateness: {over: 10s}
  steady_state: {for: 2s, thresholds: ["error_rate<50%%", "sent_rate>=69/s"]}
  steps:
    - {id: pause, uses: process/pause, target: {service: idle}, duration: 3s}
    - {id: rest, wait: %s}
  verify: [{check: slo, step: pause, endpoint: both, thresholds: ["p(50)<20s"]}]
  safety: {lease: %s, abort_when: [{metric: error_rate, over: 90%%, for: 2s, min_requests: 20}]}
""" % (sockets["east"], sockets["west"], sender, TAG, wait, lease))
    return path


def records(out):
    with open(os.path.join(out, "evidence.jsonl")) as f:
        return [json.loads(x) for x in f]


def whole(host, sockets):
    seen_agents = {}
    out = os.path.join(host.out, "whole")
    done = threading.Event()

    def watch():
        while not done.wait(0.1):
            seen_agents.update(agents())

    watcher = threading.Thread(target=watch)
    watcher.start()
    r = host.run("run", scenario(host, sockets), "--out", out)
    done.set()
    watcher.join()
    if r.returncode != 0:
        die("exit %d\n%s%s" % (r.returncode, r.stdout, r.stderr))
    log = records(out)
    samples = [x for x in log if x["type"] == "sample"]
    probes = {x["endpoint"]: x for x in log if x["type"] == "probe"}
    # Everything was sent once, each host its half, by the count of the server itself.
    rows, got = collections.Counter(), collections.Counter()
    for key, n in ask_seen().items():
        got[key.rsplit("/", 1)[0] if "/both/" in key else key] += n
        if "/both/" in key:
            rows[int(key.rsplit("/", 1)[1])] += n
    # The hosts' parts interleave: each row of the data is used once, by one of them.
    if max(rows.values()) != 1 or len(set(range(300)) - set(rows)) > 0:
        die("rows used several times: %s; not used: %s" % ({k: v for k, v in rows.items() if v > 1}, set(range(300)) - set(rows)))
    want = {"10.77.1.2 /both": sum(s["sent"] for s in samples if s["from"] == "east"),
            "10.77.2.2 /both": sum(s["sent"] for s in samples if s["from"] == "west" and s["endpoint"] == "both"),
            "10.77.2.2 /one": sum(s["sent"] for s in samples if s["endpoint"] == "one")}
    if got != want or abs(want["10.77.1.2 /both"] - want["10.77.2.2 /both"]) > 20 or want["10.77.1.2 /both"] < 150:
        die("the server saw %s, the hosts say that they sent %s" % (got, want))
    if probes["both"]["sent"] != want["10.77.1.2 /both"] + want["10.77.2.2 /both"] or probes["both"]["void"] or \
            [h["from"] for h in probes["both"]["hosts"]] != ["east", "west"]:
        die("probe: %s" % probes["both"])
    # One schedule: in each second but the last 60, 30 of each, whatever its clock shows.
    by_second = collections.defaultdict(dict)
    for s in samples:
        if s["endpoint"] == "both":
            by_second[s["sec"]][s["from"]] = s["planned"]
    seconds = sorted(by_second)
    if len(seconds) < 6 or any(by_second[s] != {"east": 30, "west": 30} for s in seconds[:-1]):
        die("seconds: %s" % dict(by_second))
    # Histograms add up exactly: what the check judged is what the hosts counted in the step's window.
    with open(os.path.join(out, "verdict.json")) as f:
        judged = json.load(f)["checks"][0]
    lo, hi = judged["window"]
    n = sum(sum(s["h"][1::2]) for s in samples if s["endpoint"] == "both" and lo <= s["sec"] < hi)
    if judged["n"] not in (n, n - by_second_sum(by_second, lo)) or judged["n"] < 60:
        die("judged n = %d, the hosts counted %d in [%s, %s)" % (judged["n"], n, lo, hi))
    clocks = {(c["host"], c["when"]): c for c in log if c["type"] == "clock"}
    if len(clocks) != 4 or any(c["error_ns"] > 500e6 for c in clocks.values()):
        die("clocks: %s" % clocks)
    for (name, _), c in clocks.items():
        if abs(c["ahead_ns"] / 1e9 - (AHEAD if name == "east" else 0)) > 0.001 + c["error_ns"] / 1e9:
            die("clock: %s" % c)
    # Each agent was nobody, with no rights to gain.
    for pid, s in seen_agents.items():
        if s["Uid"].split() != ["65534"] * 4 or int(s["CapEff"], 16) or s["NoNewPrivs"] != "1":
            die("the agent %d: %s" % (pid, {k: s[k] for k in ("Uid", "CapEff", "NoNewPrivs")}))
    if len(seen_agents) != 2 or agents():
        die("agents seen: %s, left: %s" % (list(seen_agents), list(agents())))
    for name, api in sockets.items():
        if Api(api).call("GET", "/v1/snapshot", expect=200)["journal"]:
            die("%s still holds something" % name)


def by_second_sum(by_second, lo):
    """A step that begins within a second: the check may leave that second out."""
    return sum(by_second.get(int(lo), {}).values())


def agent_killed(host, sockets):
    p = host.start("run", scenario(host, sockets, wait="60s"), "--out", os.path.join(host.out, "killed"),
                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    victim = next(iter(wait_for("two agents", lambda: (lambda a: a if len(a) == 2 else None)(agents()))))
    time.sleep(5)
    os.kill(victim, signal.SIGKILL)
    out, err = p.communicate(timeout=40)
    if p.returncode != 5 or "the probe on host " not in out + err or "signal 9" not in out + err:
        die("an agent was killed: exit %d\n%s%s" % (p.returncode, out, err))
    wait_for("the other agent's end", lambda: not agents())


def controller_killed(host, sockets):
    p = host.start("run", scenario(host, sockets, wait="60s", lease="2s"), "--out", os.path.join(host.out, "gone"),
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for("two agents", lambda: len(agents()) == 2)
    p.kill()
    p.wait()
    wait_for("the agents' end with the lease", lambda: not agents())


def refused(host, sockets):
    r = host.run("run", scenario(host, {**sockets, "west": host.dir + "/none.sock"}), "--out", os.path.join(host.out, "no"))
    if r.returncode != 5 or "host west" not in r.stdout + r.stderr:
        die("no injector there: exit %d\n%s%s" % (r.returncode, r.stdout, r.stderr))
    wait_for("the end of what east began", lambda: not agents())
    r = host.run("check", scenario(host, sockets, sender="[east, wets]"))
    if r.returncode != 2 or 'did you mean "west"?' not in r.stdout + r.stderr:
        die("an unknown host: exit %d\n%s%s" % (r.returncode, r.stdout, r.stderr))


def main():
    if os.geteuid() != 0:
        print("skipped: needs root for network namespaces")
        return
    host = Host()
    try:
        network()
        started.append(subprocess.Popen(inside("srv", "python3", "-c", SERVER)))
        wait_for("the server", lambda: ask_seen() is not None)
        sockets = {"east": injector(host, "east", "unshare", "--time", "--monotonic", str(AHEAD), "--fork", "--kill-child"),
                   "west": injector(host, "west")}
        whole(host, sockets)
        agent_killed(host, sockets)
        controller_killed(host, sockets)
        refused(host, sockets)
        for api in sockets.values():
            with open("/proc/%d/stat" % answers(api)["pid"]) as f:
                os.kill(int(f.read().rsplit(")", 1)[1].split()[1]), signal.SIGTERM)  # its keeper
        for p in started[1:]:
            p.wait(20)
    finally:
        for p in started:
            if p.poll() is None:
                p.kill()
                p.wait()
        for name in SPACES.values():
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
        host.close()
    print("ok")


main()
