"""Several hosts on one machine: a server and two injectors, each in a network namespace of its own, and east with a clock of
its own. Nothing of the host's own network is touched."""
import json
import os
import signal
import subprocess
import sys
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


def with_hosts(*tests):
    """Each test is called with the Host and the sockets {"east": ..., "west": ...}."""
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
        for test in tests:
            test(host, sockets)
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
