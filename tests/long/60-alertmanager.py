#!/usr/bin/env python3
"""A real Alertmanager before `squall run`: what it posts by itself, firing and resolved, becomes evidence and a verdict."""
import datetime
import json
import os
import subprocess
import sys
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "live"))
from run_lib import Place, check

CONFIG = """
route: {{receiver: squall, group_by: [alertname], group_wait: 1s, group_interval: 1s, repeat_interval: 1h}}
receivers:
  - name: squall
    webhook_configs: [{{url: "http://127.0.0.1:{port}/", send_resolved: true}}]
"""
VERIFY = """
    - {check: alert, step: pause, fires: {PaymentsDown: 8s}, silent: [CheckoutBurn], resolves: 10s,
       runbook: "https://wiki/payments"}"""


def ask(port, path, body=None):
    req = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body and json.dumps(body).encode(),
                                 {"Content-Type": "application/json"})
    return urllib.request.urlopen(req, timeout=5).read()


def raise_alert(port, name, ends=None):
    alert = {"labels": {"alertname": name}, "annotations": {"runbook_url": "https://wiki/payments"}}
    if ends:
        alert["endsAt"] = ends
    ask(port, "/api/v2/alerts", [alert])


with Place() as p:
    hook, web = p.port + 1, p.port + 2
    with open(p.dir + "/am.yml", "w") as f:
        f.write(CONFIG.format(port=hook))
    with open(p.dir + "/am.log", "w") as log:
        am = subprocess.Popen(["prometheus-alertmanager", "--config.file", p.dir + "/am.yml", "--storage.path",
                               p.dir + "/am", "--web.listen-address", f"127.0.0.1:{web}",
                               "--cluster.listen-address", ""], stdout=log, stderr=log)
    p.children.append(am)
    for _ in range(100):
        try:
            ask(web, "/-/ready")
            break
        except OSError:
            check(am.poll() is None, open(p.dir + "/am.log").read())
            time.sleep(0.2)
    steps = "[{id: pause, uses: process/pause, target: {service: payments}, duration: 8s, settle: 12s}]"
    run = p.start("run", p.scenario(steps, verify=VERIFY, edges=f'  alerts: {{listen: "127.0.0.1:{hook}"}}'))
    p.wait_record("alerts", state="listening")
    raise_alert(web, "Watchdog")
    p.wait_record("fault", state="applied")
    time.sleep(0.5)
    raise_alert(web, "PaymentsDown")
    p.wait_record("alert", name="PaymentsDown", status="firing")
    p.wait_record("fault", state="reverted")
    raise_alert(web, "PaymentsDown", datetime.datetime.now(datetime.timezone.utc).isoformat())
    out, err = run.communicate(timeout=60)
    check(run.returncode == 0, f"exit {run.returncode}\n{out}{err}\n{open(p.dir + '/am.log').read()}")
    got = p.records("alert")
    print("\n".join(json.dumps(a) for a in got))
    check([a["status"] for a in got if a["name"] == "PaymentsDown"] == ["firing", "resolved"], f"{got}")
    am.terminate()
    am.wait()
