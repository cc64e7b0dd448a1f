#!/usr/bin/env python3
"""Calls are counted while they happen: per edge, instance and fault, at the API and for Prometheus, and every count is what
the caller did."""
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import injector_lib
from injector_lib import Injector, Unix, until
from intercept_lib import NAME, Dependency, Rig, main

EDGE = 'app->"dep\\one"'  # what a label's value must not end at
ESCAPED = EDGE.replace("\\", "\\\\").replace('"', '\\"')
GET = ("def get(trace=''):\n    c = socket.create_connection(('127.0.0.1', PORT), 5)\n"
       "    c.sendall(('GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n' + trace + '\\r\\n').encode())\n"
       "    while c.recv(4096): pass\n    c.close()\n")
SAMPLE = re.compile(r'^([a-z_]+)(\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)$')


def port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


class Open(Injector):
    """With a TCP listener for metrics."""

    def __init__(self, run_dir, address):
        self.run_dir, self.dir = run_dir, os.path.join(run_dir, NAME)
        self.socket = os.path.join(self.dir, "api.sock")
        self.proc = subprocess.Popen([injector_lib.SQUALLD, "--dir", self.dir, "--private", "--metrics", address],
                                     env=dict(os.environ, SQUALL_RUN_DIR=run_dir))
        self.keeper = self.proc.pid
        until("the API answers", self.answers)
        self.pid = self.get("info")["pid"]


def page(rig):
    """The page over the API's own socket; each sample once, families whole."""
    c = Unix(rig.inj.socket)
    c.request("GET", "/v1/metrics")
    r = c.getresponse()
    text = r.read().decode()
    assert r.status == 200 and r.getheader("Content-Type").startswith("text/plain; version=0.0.4"), r.headers
    c.close()
    return text


def samples(text):
    out, family, ended = {}, None, set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            ended.add(family)
            family = line.split()[2]
            assert family not in ended, f"{family} is in two parts"
        elif not line.startswith("#"):
            m = SAMPLE.match(line)
            assert m and re.sub("_(bucket|sum|count)$", "", m[1]) in (family, m[1]) and m[1].startswith(family), line
            assert (m[1], m[3]) not in out, line
            out[m[1], m[3]] = float(m[4])
    return out


def promtool(text):
    got = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert got.returncode == 0 and not got.stdout and not got.stderr, got


def live_counts(run_dir):
    with Dependency() as dep:
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="bpf", edge=EDGE)

        def one():
            got = rig.inj.get(f"runs/{rig.id}/edges")
            assert len(got["edges"]) == 1 and got["proxy"]["up"], got
            return got["edges"][0], got["edges"][0]["instances"][0]

        edge, app = one()
        assert edge["edge"] == EDGE and app["instance"] == "app.0" and app["connects"] == 0 == app["requests"], edge
        do = lambda code: rig.do(f"PORT = {dep.port}\n{GET}{code}")
        trace = "traceparent: 00-%032x-00f067aa0ba902b7-01\\r\\n"
        do("for _ in range(5): get()")
        do(f"for t in (1, 2, 2, 3, 2): get('{trace}' % t)")
        fault = rig.fault("call/error", first=3)
        assert do(f"result = [attempt(PORT)['err'] for _ in range(4)]") == [111] * 3 + [0]
        slow = rig.fault("call/latency", {"delay": "800ms"}, first=1)
        assert do("result = attempt(PORT, timeout=0.2)['err']") == 110
        until("all is counted", lambda: one()[1]["outcomes"]["gave_up"] == 1 and one()[1]["requests"] == 11)
        edge, app = one()
        assert edge["connects"] == app["connects"] == 15 and edge["bypassed"] == edge["lost"] == 0, edge
        assert app["outcomes"] == {"answered": 11, "failed": 3, "gave_up": 1, "refused": 0, "broken": 0, "open": 0, "none": 0}, app
        assert app["requests"] == 11 and app["failed_connects"] == 4 and app["connections"] == 0, app
        assert app["retries"] == 2, app
        since = time.monotonic_ns() - app["gave_up_ns"]
        assert 0 < since < 10e9, since
        assert app["durations"]["count"] == 11 and app["durations"]["le"][-1] == [10.0, 11], app
        counts = {f["fault"]: (f["uses"], f["active"], f["seen"], f["hits"]) for f in edge["faults"]}
        assert counts == {fault["fault"]: ("call/error", True, 5, 3), slow["fault"]: ("call/latency", True, 1, 1)}, counts
        rig.clear(slow)

        until("the proxy has said its figures", lambda: rig.inj.get(f"runs/{rig.id}/edges")["proxy"]["rss"] > 0)
        text = page(rig)
        promtool(text)
        got = samples(text)
        at = f'run="{rig.id}",edge="{ESCAPED}"'
        app_at = at + ',instance="app.0"'
        for name, labels, want in (
                ("squall_calls_total", app_at + ',outcome="answered"', 11), ("squall_calls_total", app_at + ',outcome="failed"', 3),
                ("squall_connects_total", app_at, 15), ("squall_retries_total", app_at, 2),
                ("squall_request_duration_seconds_count", app_at, 11),
                ("squall_request_duration_seconds_bucket", app_at + ',le="+Inf"', 11),
                ("squall_fault_hits_total", f'{at},fault="{fault["fault"]}",uses="call/error"', 3),
                ("squall_fault_seen_total", f'{at},fault="{fault["fault"]}",uses="call/error"', 5),
                ("squall_fault_hits_total", f'{at},fault="{slow["fault"]}",uses="call/latency"', 1),  # also when it is over
                ("squall_edge_bypassed_total", at, 0), ("squall_proxy_up", None, 1)):
            assert got.get((name, labels)) == want, (name, labels, got.get((name, labels)))
        assert abs(got["squall_last_give_up_timestamp_seconds", app_at] - time.time()) < 20
        assert got["squall_proxy_resident_memory_bytes", None] > 1e5 and got["squall_proxy_bytes_total", 'direction="up"'] > 0
        buckets = [v for (n, _), v in got.items() if n == "squall_request_duration_seconds_bucket"]
        assert buckets == sorted(buckets) and len(buckets) == 14, buckets

        # It restarts as the same instance, and goes on counting.
        status, _ = rig.inj.call("DELETE", f"runs/{rig.id}/services/app")
        assert status == 200
        assert one()[1]["connects"] == 15
        rig.inj.post(f"runs/{rig.id}/services", {"name": "app", "command": ["/bin/sleep", "60"]})
        assert one()[1]["connects"] == 15 and len(one()[0]["instances"]) == 1, one()
        rig.end()


def over_tcp(run_dir):
    at = f"127.0.0.1:{port()}"
    with Dependency() as dep:
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="bpf", injector=Open(run_dir, at))
        rig.do(f"PORT = {dep.port}\n{GET}get()")
        want = 'squall_calls_total{run="%s",edge="app->dep",instance="app.0",outcome="answered"} 1\n' % rig.id

        def scrape():
            with urllib.request.urlopen(f"http://{at}/metrics", timeout=5) as r:
                assert r.headers["Content-Type"].startswith("text/plain; version=0.0.4"), r.headers
                return r.read().decode()

        until("the call is there", lambda: want in scrape())
        samples(scrape())
        for path, data, code in (("/", None, 404), ("/v1/runs", b"{}", 404), ("/metrics", b"x", 405)):
            try:
                urllib.request.urlopen(f"http://{at}{path}", data, timeout=5)
                raise AssertionError(path)
            except urllib.error.HTTPError as e:
                assert e.code == code, (path, e.code)
        idle = [socket.create_connection(tuple(at.split(":"))) for _ in range(3)]  # nobody waits for those
        assert want in scrape()
        prometheus(run_dir, at, rig)
        rig.end()
        for s in idle:
            s.close()
    for bad in ("9464", ":9464", "nowhere:1", "127.0.0.1"):
        got = subprocess.run([injector_lib.SQUALLD, "--dir", run_dir + "/other", "--metrics", bad], capture_output=True,
                             text=True, timeout=20, env=dict(os.environ, SQUALL_RUN_DIR=run_dir))
        assert got.returncode != 0 and "--metrics wants" in got.stderr, (bad, got)


def prometheus(run_dir, at, rig):
    """A real one scrapes it."""
    conf, web = os.path.join(run_dir, "prometheus.yaml"), port()
    with open(conf, "w") as f:
        f.write("global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n  - job_name: squall\n"
                "    static_configs: [{targets: ['%s']}]\n" % at)
    p = subprocess.Popen(["prometheus", f"--config.file={conf}", f"--storage.tsdb.path={run_dir}/tsdb",
                          f"--web.listen-address=127.0.0.1:{web}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        def query():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{web}/api/v1/query?query=squall_calls_total", timeout=2) as r:
                    got = json.load(r)["data"]["result"]
            except OSError:
                return False
            return any(s["metric"]["outcome"] == "answered" and s["metric"]["run"] == rig.id and s["value"][1] == "1" for s in got)

        until("Prometheus has it", query, 30)
    finally:
        p.terminate()
        p.wait(10)


main([live_counts, over_tcp])
