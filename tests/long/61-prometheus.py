#!/usr/bin/env python3
"""SLOs from a real Prometheus that scrapes a real target: rates, counters, a raw ratio and what it refuses become evidence and verdicts,
what it knew before the run (an outage that it recorded) is read back and makes an alert fire, and a budget that burns ends the run."""
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "live"))
from run_lib import Place, check

PROMETHEUS = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: app
    static_configs: [{{targets: ["127.0.0.1:{target}"]}}]
"""
RATE = "sum(rate(app_%s_total[10s]))"
SHORT = f"""
prometheus: http://127.0.0.1:PORT/
slos:
  rates: {{target: 90%, good: '{RATE % "ok"}', total: '{RATE % "requests"}'}}
  counters: {{target: 90%, bad: sum(app_errors_total), total: sum(app_requests_total), counter: true}}
  fine: {{target: 90%, bad: '{RATE % "timeouts"}', total: '{RATE % "requests"}'}}
  strict: {{target: 99%, bad: sum(app_errors_total), total: sum(app_requests_total), counter: true}}
  refused: {{target: 90%, good: 'sum(rate(app_ok_total', total: '{RATE % "requests"}'}}
  unknown: {{target: 90%, good: 'sum(rate(nothing_total[10s]))', total: '{RATE % "requests"}'}}
"""
OPENSLO = f"""
apiVersion: openslo/v1
kind: SLO
metadata: {{name: ratio}}
spec:
  indicator:
    spec:
      ratioMetric:
        rawType: failure
        raw: {{metricSource: {{type: Prometheus, spec: {{query: '{RATE % "errors"} / {RATE % "requests"}'}}}}}}
  timeWindow: [{{duration: 30d, isRolling: true}}]
  objectives: [{{target: 0.9}}]
"""


class App:
    """100 requests a second, of which all or none fail."""

    def __init__(self):
        self.lock = threading.Lock()
        self.at, self.ok, self.errors, self.sick = time.monotonic(), 0.0, 0.0, False

    def pass_time(self):
        now = time.monotonic()
        n, self.at = 100 * (now - self.at), now
        if self.sick:
            self.errors += n
        else:
            self.ok += n

    def be_sick(self, sick):
        with self.lock:
            self.pass_time()
            self.sick = sick

    def text(self):
        with self.lock:
            self.pass_time()
            ok, errors = int(self.ok), int(self.errors)
            return f"app_requests_total {ok + errors}\napp_ok_total {ok}\napp_errors_total {errors}\napp_timeouts_total 0\n"


def ask(port, path, **params):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}?{urllib.parse.urlencode(params)}", timeout=5) as r:
        return r.read().decode()


def past(p, app, target):
    """Two hours that Prometheus has recorded: all was well, but for half an hour until a minute ago."""
    now = int(time.time())
    rows = {"requests": [], "ok": [], "errors": []}
    for t in range(now - 7200, now - 60, 30):
        if t > now - 1860:
            app.errors += 3000
        else:
            app.ok += 3000
        for name, value in (("requests", app.ok + app.errors), ("ok", app.ok), ("errors", app.errors)):
            rows[name].append('app_%s_total{job="app",instance="127.0.0.1:%d"} %d %d' % (name, target, value, t))
    with open(p.dir + "/past.txt", "w") as f:
        for name, lines in rows.items():
            f.write("# TYPE app_%s counter\n" % name + "\n".join(lines) + "\n")
        f.write("# EOF\n")
    r = subprocess.run(["promtool", "tsdb", "create-blocks-from", "openmetrics", p.dir + "/past.txt", p.dir + "/tsdb"],
                       capture_output=True, text=True, timeout=60)
    check(r.returncode == 0, r.stdout + r.stderr)
    app.at = time.monotonic()


def start_prometheus(p, target, web):
    with open(p.dir + "/prometheus.yml", "w") as f:
        f.write(PROMETHEUS.format(target=target))
    with open(p.dir + "/prometheus.log", "w") as log:
        child = subprocess.Popen(["prometheus", "--config.file", p.dir + "/prometheus.yml", "--storage.tsdb.path", p.dir + "/tsdb",
                                  "--web.listen-address", f"127.0.0.1:{web}"], stdout=log, stderr=log)
    p.children.append(child)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        check(child.poll() is None, open(p.dir + "/prometheus.log").read())
        try:
            if json.loads(ask(web, "/api/v1/query", query=RATE % "ok"))["data"]["result"]:
                return child
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError("Prometheus never had a rate")


def first_run(p, app, web):
    slos = ["rates", "counters", "fine", "refused", "unknown", "ratio"]
    verify = "[" + ", ".join("{check: slo, step: pause, slo: %s}" % s for s in slos) + ", {check: budget, step: pause, slo: counters, max_spend: 50%}]"
    steps = "[{id: pause, uses: process/pause, target: {service: payments}, duration: 14s, settle: 3s}]"
    run = p.start("run", p.scenario(steps, verify=verify, edges="  slos: [short.yaml, openslo.yaml]\n  prometheus: {url: \"http://127.0.0.1:%d\", every: 1s}" % web))
    p.wait_record("fault", state="applied")
    app.be_sick(True)
    p.wait_record("fault", state="reverted", within=40)
    app.be_sick(False)
    out, err = run.communicate(timeout=60)
    folder = os.path.join(p.dir, "squall-runs", os.listdir(p.dir + "/squall-runs")[0])
    verdict = json.load(open(folder + "/verdict.json"))
    print(out)
    check(run.returncode == 1, f"exit {run.returncode}\n{out}{err}")
    got = {c["subject"]: (c["verdict"], c["why"]) for c in verdict["checks"] if c["check"] == "slo"}
    for name, want in zip(slos, ["fail", "fail", "pass", "inconclusive", "inconclusive", "fail"]):
        check(got[name][0] == want, f"{name}: {got[name]}, not {want}")
    check("refused the query" in got["refused"][1] and "parse error" in got["refused"][1], got["refused"])
    check("no series" in got["unknown"][1], got["unknown"])
    rows = {r["slo"]: r for r in verdict["slos"]}
    check(rows["strict"]["before"] == "measured", rows)
    # Half an hour of the last one is 50 times what 99 % leave; at 90 % no hour can burn faster than 10.
    alerts = {(name, a["long"]): a for name in ("strict", "counters") for a in rows[name]["alerts"]}
    check(alerts["strict", "1h"]["state"] == "fired" and alerts["strict", "1h"]["severity"] == "page", alerts)
    check(35 < alerts["strict", "1h"]["worst"] < 60 and alerts["counters", "1h"]["state"] != "fired", alerts)
    check("page 14.4x (1h and 5m)" in out, "the summary says so")
    history = [r for r in p.records("metric", about="history") if r["slo"] == "strict" and "history" in r]
    check(len(history) == 1 and len(history[0]["history"]) > 100, history)
    check(all(-7300 < t < 1 and errors <= total for t, errors, total in history[0]["history"]), history)
    values = [r["values"] for r in p.records("metric", slo="rates") if "values" in r]
    check(len(values) >= 8 and 70 < values[-1][1] < 130, f"100/s were measured: {values}")
    good, total = rows["counters"]["good"], rows["counters"]["total"]
    check(total > 1500 and 0.2 < good / total < 0.9, f"{good} of {total}")
    return folder


def burning(p, app):
    """The second run ends by its SLO, long before its step is over."""
    scenario = p.scenario("[{id: pause, uses: process/pause, target: {service: payments}, duration: 50s}]",
                          edges="  slos: [short.yaml]\n  prometheus: {url: \"http://127.0.0.1:1\", every: 1s}",
                          safety=", abort_when: [{slo: counters, burn_rate: 5, for: 5s, min_requests: 100}]")
    run = p.start("run", scenario, "--out", p.dir + "/second")
    log = p.dir + "/second/evidence.jsonl"
    end = time.monotonic() + 40
    while time.monotonic() < end and not (os.path.exists(log) and '"state":"applied"' in open(log).read()):
        time.sleep(0.2)
    app.be_sick(True)
    out, err = run.communicate(timeout=60)
    check(run.returncode == 4, f"exit {run.returncode}\n{out}{err}")
    aborts = [json.loads(line) for line in open(log) if '"type":"abort"' in line]
    check(len(aborts) == 1 and aborts[0]["by"] == "condition", f"{aborts}")
    check("the error budget of the SLO counters burnt at" in aborts[0]["why"], f"{aborts}")


with Place() as p:
    app, web = App(), p.port + 1

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = app.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    past(p, app, server.server_address[1])
    prometheus = start_prometheus(p, server.server_address[1], web)
    with open(p.dir + "/short.yaml", "w") as f:
        f.write(SHORT.replace("PORT", str(web)))
    with open(p.dir + "/openslo.yaml", "w") as f:
        f.write(OPENSLO)
    first_run(p, app, web)
    burning(p, app)
    prometheus.terminate()
    prometheus.wait()
    server.shutdown()
