#!/usr/bin/env python3
"""The proxy, as Toxiproxy's API drives it, between the two ends of bench_proxy: against HAProxy in TCP mode, nginx's
stream module and no proxy at all, in turns; how exact its latency is; what a connection takes in memory.

    proxy.py [seconds [rounds [part...]]]        2 3 memory connections throughput accuracy

Client and server are pinned to the first core, the proxies to the last. Best of the rounds for throughput; all samples of
a round for p50 and p99, of the round with the lowest p50."""
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 2
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
PARTS = sys.argv[3:] or ["memory", "connections", "throughput", "accuracy"]
BUILD = os.path.abspath(os.environ.get("SQUALL_BUILD", "build"))
TOOL = os.path.join(BUILD, "tests/bench/bench_proxy")
STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"
CORES = sorted(os.sched_getaffinity(0))
ENDS, PROXY = {CORES[0]}, {CORES[-1]}
started = []


def die(text):
    sys.exit(f"bench proxy: {text}")


def start(args, cores, **kw):
    p = subprocess.Popen(args, preexec_fn=lambda: os.sched_setaffinity(0, cores), text=True, **kw)
    started.append(p)
    return p


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def wait_port(port):
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except ConnectionError:
            time.sleep(0.02)
    die(f"nobody listens on {port}")


def tool(*args):
    got = subprocess.run([TOOL, *map(str, args)], capture_output=True, text=True, timeout=120,
                         preexec_fn=lambda: os.sched_setaffinity(0, ENDS))
    if got.returncode:
        die(f"{args}: {got.stderr}")
    return [float(x) for x in got.stdout.split()]


class Api:
    def __init__(self, port):
        self.port = port

    def ask(self, method, path, body=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        c.request(method, path, json.dumps(body) if body is not None else None)
        r = c.getresponse()
        data = r.read()
        c.close()
        if r.status >= 300:
            die(f"{method} {path}: {data}")
        return json.loads(data) if data else None

    def proxy(self, name, to):
        p = self.ask("POST", "/proxies", {"name": name, "listen": "127.0.0.1:0", "upstream": f"127.0.0.1:{to}"})
        return int(p["listen"].rsplit(":", 1)[1])


def haproxy(run, pairs):
    path = os.path.join(run, "haproxy.cfg")
    with open(path, "w") as f:
        f.write("global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 10m\n"
                "  timeout server 10m\n")
        for i, (at, to) in enumerate(pairs):
            f.write(f"listen l{i}\n  bind 127.0.0.1:{at}\n  server s 127.0.0.1:{to}\n")
    p = start(["haproxy", "-db", "-q", "-f", path], PROXY)
    for at, _ in pairs:
        wait_port(at)
    return p.pid


def only_child(pid):
    for _ in range(500):
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            if got := f.read().split():
                return int(got[0])
        time.sleep(0.02)
    die("nginx has no worker")


def nginx(run, pairs):
    path = os.path.join(run, "nginx.conf")
    with open(path, "w") as f:
        f.write(f"load_module {STREAM};\ndaemon off;\nworker_processes 1;\npid {run}/nginx.pid;\nerror_log {run}/nginx.log;\n"
                "events { worker_connections 4000; }\nstream {\n  tcp_nodelay on;\n")
        for at, to in pairs:
            f.write(f"  server {{ listen 127.0.0.1:{at}; proxy_pass 127.0.0.1:{to}; }}\n")
        f.write("}\n")
    p = start(["nginx", "-e", f"{run}/nginx.log", "-c", path], PROXY)
    for at, _ in pairs:
        wait_port(at)
    return only_child(p.pid)


def child_named(name):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as f, open(f"/proc/{pid}/stat") as g:
                if f.read().strip() == name and int(g.read().rsplit(")", 1)[1].split()[1]) in known:
                    return int(pid)
        except (FileNotFoundError, ProcessLookupError):
            pass
    die(f"no process {name}")


def rss(pid):
    with open(f"/proc/{pid}/status") as f:
        return int([l for l in f if l.startswith("VmRSS")][0].split()[1])


def interleaved(ways, *args):
    """{way: the best round}, each round all ways in turns."""
    seen = {w: [] for w in ways}
    for _ in range(ROUNDS):
        for w, port in ways.items():
            seen[w].append(tool(args[0], port, *args[1:]))
    return seen


def throughput(ways, sources):
    print("\n| small messages | 64 connections: req/s | of direct | 1 connection: p50 us | p99 us |")
    print("| --- | ---: | ---: | ---: | ---: |")
    many, one = interleaved(ways, "echo", 64, SECONDS, 0, 64), interleaved(ways, "echo", 1, SECONDS, 0, 64)
    direct = max(x[0] for x in many["direct"])
    for w in ways:
        best, low = max(x[0] for x in many[w]), min(one[w], key=lambda x: x[1])
        print(f"| {w} | {best:,.0f} | {best / direct:.2f} | {low[1]:.1f} | {low[3]:.1f} |", flush=True)
    print("\n| bulk, 1 connection | GB/s | of direct |\n| --- | ---: | ---: |")
    got = interleaved(sources, "bulk", SECONDS)
    direct = max(x[0] for x in got["direct"])
    for w in sources:
        best = max(x[0] for x in got[w])
        print(f"| {w} | {best / 1e9:.2f} | {best / direct:.2f} |", flush=True)


def accuracy(api, echo):
    print("\n| latency toxic | connections | messages/s | error p50 ms | p90 | p99 | direct p50 ms | p99 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    port = api.proxy("exact", echo)
    api.ask("POST", "/proxies/exact/toxics", {"type": "latency", "name": "l", "attributes": {"latency": 1}})
    for conns in (1, 20, 1000):
        for ms in (1, 5, 10, 50, 100):
            api.ask("POST", "/proxies/exact/toxics/l", {"attributes": {"latency": ms}})
            gap = max(int(ms * 1200), conns * 1000 // 5)  # at most 5,000 messages a second
            seconds = max(SECONDS, gap * 25 / 1e6)
            got = interleaved({"direct": echo, "toxic": port}, "echo", conns, seconds, gap, 64)
            d, t = (min(got[w], key=lambda x: x[1]) for w in ("direct", "toxic"))
            e = [x / 1000 - ms for x in t[1:4]]
            print(f"| {ms} ms | {conns:,} | {t[0]:,.0f} | {e[0]:+.3f} | {e[1]:+.3f} | {e[2]:+.3f} | {d[1] / 1000:.3f} | "
                  f"{d[3] / 1000:.3f} |", flush=True)
    api.ask("DELETE", "/proxies/exact")


def memory(pids, ways):
    print("\n| memory | idle KiB | with 1,000 connections KiB | KiB a connection |\n| --- | ---: | ---: | ---: |")
    for w, pid in pids.items():
        before = rss(pid)
        holder = start([TOOL, "hold", str(ways[w]), "1000"], ENDS, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if holder.stdout.readline().strip() != "held":
            die("the connections could not be opened")
        after = rss(pid)
        holder.stdin.close()
        holder.wait()
        print(f"| {w} | {before:,} | {after:,} | {(after - before) / 1000:.1f} |", flush=True)


def cpu(pid):
    with open(f"/proc/{pid}/stat") as f:
        user, system = f.read().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def connections(pids, ways):
    print("\n| a connection for each message | connections/s | CPU of the proxy, us each |\n| --- | ---: | ---: |")
    seconds = max(SECONDS, 2)  # the kernel counts CPU in hundredths of a second
    for w in ["direct", *pids]:
        rounds = []
        for _ in range(ROUNDS):
            before = cpu(pids[w]) if w in pids else 0
            n, = tool("fresh", ways[w], seconds)
            rounds.append((n / seconds, ((cpu(pids[w]) - before) / n * 1e6) if w in pids else 0))
        best = max(rounds)
        print(f"| {w} | {best[0]:,.0f} | {f'{best[1]:.1f}' if w in pids else ''} |", flush=True)


def main(run):
    ends = start([TOOL, "serve"], ENDS, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    echo, source = (int(ends.stdout.readline()) for _ in range(2))
    at = free_port()
    squalld = start([os.path.join(BUILD, "squalld"), "--dir", os.path.join(run, "d"), "--toxiproxy", f"127.0.0.1:{at}"], PROXY,
                    env=dict(os.environ, SQUALL_RUN_DIR=run))
    wait_port(at)
    api = Api(at)
    ways, sources = {"direct": echo}, {"direct": source}
    ways["squalld"], sources["squalld"] = api.proxy("idle", echo), api.proxy("bulk", source)
    ways["squalld, a latency toxic of 0 ms"], sources["squalld, a latency toxic of 0 ms"] = api.proxy("idle0", echo), api.proxy("bulk0", source)
    for name in ("idle0", "bulk0"):
        for stream in ("upstream", "downstream"):
            api.ask("POST", f"/proxies/{name}/toxics", {"type": "latency", "stream": stream})
    known.add(squalld.pid)
    known.update(int(x) for x in open(f"/proc/{squalld.pid}/task/{squalld.pid}/children").read().split())
    pids = {"squalld": child_named("squall-plain")}
    if shutil.which("haproxy"):
        a, b = free_port(), free_port()
        pids["HAProxy, mode tcp"] = haproxy(run, [(a, echo), (b, source)])
        ways["HAProxy, mode tcp"], sources["HAProxy, mode tcp"] = a, b
    else:
        print("(HAProxy is not here: left out)")
    if shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") and os.path.exists(STREAM):
        a, b = free_port(), free_port()
        pids["nginx, stream"] = nginx(run, [(a, echo), (b, source)])
        ways["nginx, stream"], sources["nginx, stream"] = a, b
    else:
        print("(nginx's stream module is not here: left out)")
    if "memory" in PARTS:
        memory(pids, ways)
    if "connections" in PARTS:
        connections(pids, ways)
    if "throughput" in PARTS:
        throughput(ways, sources)
    if "accuracy" in PARTS:
        accuracy(api, echo)


known = set()
run = tempfile.mkdtemp(prefix="squall-bench-")
try:
    main(run)
finally:
    for p in reversed(started):
        p.terminate()
        p.wait(20)
    shutil.rmtree(run, ignore_errors=True)
