#!/usr/bin/env python3
"""What the probe costs, against wrk and h2load in the same minutes, and the stall test.
  probe.sh [ROUNDS [SECONDS]]        SQUALL_BUILD names the binaries' directory
nginx has one worker on the first core, the clients take turns on the second one. Compare only figures of one run. The clients that
know no real-time priority are given the one the probe gives itself. wrk's requests are shorter than the probe's (no trace context, no
user agent), so that it has a second turn with the same fields. Limits are ratios to what the others take here and now; a miss is told,
but fails nothing: a neighbour's load is not the probe's doing."""
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("SQUALL_BUILD", os.path.join(ROOT, "build"))
PROBE = os.path.join(BUILD, "tests/bench/bench_probe")
URING = os.path.join(BUILD, "tests/bench/bench_uring")
FIELDS = ["-H", "traceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01", "-H", "user-agent: squall/0.1.0"]
CORES = os.cpu_count() or 1
NGINX = """daemon off; master_process off; pid {d}/pid; error_log {d}/error.log; events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
server {{ listen 127.0.0.1:{port}; location = / {{ return 200 "hello, world\\n"; }} }} }}
"""


def pinned(core, cmd):
    return (["taskset", "-c", str(core)] if CORES > 1 else []) + cmd


def client(cmd, real_time=False):
    """Its output, and the processor time it took."""
    first = ["chrt", "-f", "1"] if real_time and os.geteuid() == 0 else []
    p = subprocess.Popen(pinned(1, first + cmd), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    out = p.stdout.read()
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode != 0:
        sys.exit("%s: exit %d" % (cmd[0], p.returncode))
    return out, usage.ru_utime + usage.ru_stime


def wrk(url, seconds, fields):
    out, cpu = client(["wrk", "-t1", "-c64", "-d%ds" % seconds] + fields + [url], True)
    n = int(re.search(r"(\d+) requests in", out)[1])
    return {"per_s": float(re.search(r"Requests/sec: *([\d.]+)", out)[1]), "cpu": cpu / n * 1e5}


def h2load(url, seconds, *how):
    out, cpu = client(["h2load", "--h1", "-t1", "-D%d" % seconds, *how, url], True)
    n = int(re.search(r"(\d+) succeeded", out)[1])
    return {"per_s": n / seconds, "cpu": cpu / n * 1e5}


def floor(port, seconds, together=1):
    out, _ = client([PROBE, "floor", str(port), "10000", "50", str(seconds), str(together)])
    return of_floor(json.loads(out), seconds)


def of_floor(o, seconds):
    return {"per_s": o["requests"] / seconds, "cpu": o["cpu_s"] / o["requests"] * 1e5}


def uring(port, seconds):
    out, _ = client([URING, str(port), "10000", "50", str(seconds)])
    return of_floor(json.loads(out), seconds)


def has_uring(port):
    """It takes Linux 6.12."""
    return subprocess.run([URING, str(port), "1000", "1", "0.01"], stdout=subprocess.DEVNULL).returncode != 77


def probe(url, rate, connections, seconds):
    out, _ = client([PROBE, url, str(rate), str(connections), str(seconds)])
    o = json.loads(out)
    if o["ok"] != o["requests"] or o["end"]["void"]:
        sys.exit("the probe's run is of no use: %s" % out)
    return dict(o, cpu=o["steady_cpu_s"] / o["counted"] * 1e5)


def median(runs, key):
    return statistics.median(r[key] for r in runs)


def row(name, runs):
    print("| %s | %s | %.2f (%.2f-%.2f) |" % (name, format(round(median(runs, "per_s")), ","), median(runs, "cpu"),
                                             min(r["cpu"] for r in runs), max(r["cpu"] for r in runs)))


def limit(what, got, most):
    print("%s: %.2f (limit %.2f)%s" % (what, got, most, "" if got <= most else "  MISSED"))


def throughput(url, port, rounds, seconds):
    runs = {}
    by_ring = [("floor by io_uring, 10,000/s", lambda: uring(port, seconds))] if has_uring(port) else []
    for _ in range(rounds):
        for name, run in (("probe, closed loop", lambda: probe(url, 0, 64, seconds)), ("wrk", lambda: wrk(url, seconds, [])),
                          ("wrk, the probe's fields", lambda: wrk(url, seconds, FIELDS)),
                          ("h2load --h1", lambda: h2load(url, seconds, "-c64")),
                          ("probe, 10,000/s", lambda: probe(url, 10000, 50, seconds)),
                          ("h2load --h1 --rps 200", lambda: h2load(url, seconds, "-c50", "--rps", "200")),
                          ("floor, 10,000/s", lambda: floor(port, seconds)),
                          ("floor, two at once, half of them 100 us late", lambda: floor(port, seconds, 2)),
                          ("floor, four at once, up to 300 us late", lambda: floor(port, seconds, 4)),
                          ("floor, sleeping alone", lambda: floor(port, seconds, 0)), *by_ring):
            runs.setdefault(name, []).append(run())
    print("| median of %d | requests/s | CPU s per 100,000 (range) |\n| --- | ---: | ---: |" % rounds)
    for name in runs:
        row(name, runs[name])
    closed, paced = runs["probe, closed loop"], runs["probe, 10,000/s"]
    limit("\nclosed loop, CPU, over wrk's", median(closed, "cpu") / median(runs["wrk"], "cpu"), 1)
    limit("closed loop, wrk's requests/s over the probe's", median(runs["wrk"], "per_s") / median(closed, "per_s"), 1)
    limit("closed loop, the same with the same fields", median(runs["wrk, the probe's fields"], "per_s") / median(closed, "per_s"), 1)
    limit("10,000/s, CPU, over h2load's", median(paced, "cpu") / median(runs["h2load --h1 --rps 200"], "cpu"), 1)
    limit("10,000/s, CPU, over the floor's", median(paced, "cpu") / median(runs["floor, 10,000/s"], "cpu"), 1.25)
    at = {k: statistics.median(r[k[0]][k[1]] for r in paced) for k in
          [("latency", "50"), ("service", "50"), ("latency", "99"), ("lag", "50"), ("lag", "99")]}
    print("10,000/s: p50 %.1f us, p99 %.1f us, service time p50 %.1f us, send lag p50 %.1f us" % (
        at["latency", "50"], at["latency", "99"], at["service", "50"], at["lag", "50"]))
    limit("10,000/s, p50 over the service time, us", at["latency", "50"] - at["service", "50"], 20)
    limit("10,000/s, p99 of the send lag, us", at["lag", "99"], 100)
    limit("10,000/s, rate missed by, percent", max(abs(r["per_s"] / 100 - 100) for r in paced), 0.1)
    return 1e3 / median(closed, "per_s")


def stall(url, server, connections, pace):
    """The server stands still for a second: a tenth of the users waited, evenly, whatever the number of connections. Who waited half a
    second waited for the 500 before him, too: at PACE ms each, the closed loop's of this run, that is what the server takes."""
    took = []

    def stop():
        if os.geteuid() == 0:  # this thread: so that the stall is as long as it says
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(11))
        time.sleep(6)
        begin = time.monotonic()
        os.kill(server, signal.SIGSTOP)
        time.sleep(1)
        os.kill(server, signal.SIGCONT)
        took.append(time.monotonic() - begin)

    t = threading.Thread(target=stop)
    t.start()
    o = probe(url, 1000, connections, 10)
    t.join()
    lost = took[0] * 1000
    print("\nstall of %.1f ms, %d connections: %d requests planned, %d answered, %.1f MB resident" % (
        lost, connections, o["end"]["planned"], o["requests"], o["hwm_kib"] / 1024))
    for p, less in (("95", 500), ("99", 100), ("99.9", 10)):
        truth, got = lost - less, o["latency"][p] / 1e3
        limit("p%s %.1f ms, off the truth by, percent" % (p, got), 100 * abs(got / truth - 1), 1)
        print("  %.2f of it at the server's own pace, %.1f us for each of the %d before" % (
            100 * less * pace / truth, pace * 1e3, less))
    limit("resident, MB", o["hwm_kib"] / 1024, 20)


def main():
    rounds, seconds = (int(x) for x in (sys.argv[1:] + ["5", "3"][len(sys.argv) - 1:]))
    with socket.socket() as s, tempfile.TemporaryDirectory(prefix="squall-bench-") as d:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        s.close()
        with open(os.path.join(d, "nginx.conf"), "w") as f:
            f.write(NGINX.format(d=d, port=port))
        server = subprocess.Popen(pinned(0, ["nginx", "-c", os.path.join(d, "nginx.conf"), "-e", os.path.join(d, "error.log")]),
                                  env=dict(os.environ, PATH=os.environ.get("PATH", "") + ":/usr/sbin"))
        if os.geteuid() == 0:
            # Others' work on the server's core is not what is measured.
            os.sched_setscheduler(server.pid, os.SCHED_FIFO, os.sched_param(10))
        try:
            for _ in range(100):
                with socket.socket() as c:
                    if c.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            url = "http://127.0.0.1:%d/" % port
            print("load average %.1f, %d cores" % (os.getloadavg()[0], CORES))
            pace = throughput(url, port, rounds, seconds)
            for connections in (10, 50):
                stall(url, server.pid, connections, pace)
        finally:
            server.send_signal(signal.SIGCONT)
            server.kill()
            server.wait()


main()
