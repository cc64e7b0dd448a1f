#!/usr/bin/env python3
"""HTTP/2 through the proxy: h2load against nghttpd, directly, through the idle proxy, with faults armed that change
nothing, and with one that writes every head anew; in turns, and against an older build if there is one.

    http2.py [seconds [rounds]]        2 3
    SQUALL_OLD=directory of an older build

Client and server are pinned to the first core, the proxy to the last. Best of the rounds."""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.abspath(os.environ.setdefault("SQUALL_BUILD", "build"))
sys.path.insert(0, os.path.join(HERE, "..", "live"))
import proxy_rig  # noqa: E402
from proxy_rig import rule  # noqa: E402

SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 2
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
OLD = os.environ.get("SQUALL_OLD")
CORES = sorted(os.sched_getaffinity(0))
ENDS, PROXY = {CORES[0]}, {CORES[-1]}
TICKS = os.sysconf("SC_CLK_TCK")


class Rig(proxy_rig.Rig):
    """As squalld: takes the calls that it is told, and nothing more."""

    def __init__(self, build):
        proxy_rig.BUILD = build
        super().__init__()
        os.sched_setaffinity(self.pid, PROXY)

    def _read(self):
        import json
        while True:
            data = self.sock.recv(1 << 17)
            if not data:
                return
            if b'"calls"' not in data[:40]:
                m = json.loads(data)
                with self.cond:
                    if m["op"] == "ack":
                        self.acks.append(m)
                    self.cond.notify_all()

    def cpu(self):
        with open(f"/proc/{self.pid}/stat") as f:
            user, system = f.read().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / TICKS


def pin():
    os.sched_setaffinity(0, ENDS)


def load(url, conns, streams):
    r = subprocess.run(["h2load", "-D", str(SECONDS), "-c", str(conns), "-m", str(streams), url], capture_output=True, text=True,
                       timeout=SECONDS + 30, preexec_fn=pin)
    rate = re.search(r"finished in [^,]+, ([\d.]+) req/s", r.stdout)
    done = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", r.stdout)
    if not rate or not done or int(done.group(3)) or not int(done.group(1)):
        sys.exit(f"bench http2: {url}: {r.stdout}{r.stderr}")
    return float(rate.group(1)), int(done.group(1)) + int(done.group(2))


def table(title, ways, path, conns, streams, unit, factor):
    print(f"\n| {title} | {unit} | of direct | CPU of the proxy, us a request |\n| --- | ---: | ---: | ---: |")
    best, cost = {}, {}
    for _ in range(ROUNDS):
        for name, (rig, base) in ways.items():
            before = rig.cpu() if rig else 0
            rate, n = load(base + path, conns, streams)
            if rig:
                cost[name] = min(cost.get(name, 1e9), (rig.cpu() - before) / n * 1e6)
            best[name] = max(best.get(name, 0), rate)
    for name in ways:
        print(f"| {name} | {best[name] * factor:,.0f} | {best[name] / best['direct']:.2f} | "
              f"{f'{cost[name]:.1f}' if name in cost else ''} |", flush=True)


def main(run):
    for name, size in (("small", 100), ("big", 1_000_000)):
        with open(os.path.join(run, name), "w") as f:
            f.write("x" * size)
    with proxy_rig.socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen(["nghttpd", "--no-tls", "-d", run, "-a", "127.0.0.1", str(port)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, preexec_fn=pin)
    rigs = []
    try:
        time.sleep(0.5)
        ways = {"direct": (None, f"http://127.0.0.1:{port}")}

        def way(name, build, rules):
            rig = Rig(build)
            rigs.append(rig)
            rig.edge(1)
            rig.rules(1, rules)
            ways[name] = (rig, f"http://{rig.flow(('127.0.0.1', port))}:{rig.edges[1][0]}")
        if OLD:
            way("an older build, idle", OLD, [])
        way("idle", BUILD, [])
        way("a latency of 0 ms", BUILD, [rule("latency", delay=0)])
        way("a rule that matches nothing", BUILD, [rule("http_status", http={"status": 503}, match={"path": "/never"})])
        every = [rule("http_header", http={"of": "answer", "set": {"x-new": "1"}}, match={})]
        if OLD:
            way("an older build, every head written anew", OLD, every)
        way("every head written anew", BUILD, every)
        table("100 bytes, 8 connections, 16 streams each", ways, "/small", 8, 16, "requests/s", 1)
        table("100 bytes, 1 connection, 1 stream", ways, "/small", 1, 1, "requests/s", 1)
        table("1 MB, 1 connection, 4 streams", ways, "/big", 1, 4, "MB/s", 1)
        for rig in rigs:
            rig.quit()
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()


directory = tempfile.mkdtemp()
try:
    main(directory)
finally:
    shutil.rmtree(directory)
