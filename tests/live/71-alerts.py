#!/usr/bin/env python3
"""Alerts of a run: what Alertmanager would post becomes evidence and a verdict, and what others post hurts nobody.
Sequential tests as abort conditions."""
import datetime
import http.client
import json
import socket
import time

from run_lib import Place, check


def stamp(ago=0.0):
    return (datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=ago)).isoformat()


def webhook(*alerts, version="4"):
    return json.dumps({"version": version, "groupKey": "{}:{}", "truncatedAlerts": 0, "status": "firing",
                       "receiver": "squall", "groupLabels": {}, "commonLabels": {}, "commonAnnotations": {},
                       "externalURL": "http://am", "alerts": list(alerts)})


def alert(name, status="firing", starts=None, **annotations):
    return {"status": status, "labels": {"alertname": name, "severity": "page"}, "annotations": annotations,
            "startsAt": starts or stamp(), "endsAt": stamp() if status == "resolved" else "0001-01-01T00:00:00Z",
            "generatorURL": "http://prom", "fingerprint": "c0ffee"}


def post(port, body, method="POST", headers=None):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    try:
        c.request(method, "/", body, headers or {"Content-Type": "application/json"})
        a = c.getresponse()
        return a.status, a.read().decode()
    finally:
        c.close()


def raw(port, data):
    """What is answered to these bytes, as far as anything is."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=15) as s:
        try:
            s.sendall(data)
            while True:
                b = s.recv(65536)
                if not b:
                    return got
                got += b
        except (ConnectionResetError, BrokenPipeError):
            return got


def hostile(port):
    check(post(port, "{}")[0] == 400, "no webhook")
    check(post(port, webhook(alert("X"), version="3"))[0] == 400, "another version")
    check(post(port, "nonsense")[0] == 400, "no JSON")
    check(post(port, "[" * 100000)[0] == 400, "deep JSON")
    check(post(port, json.dumps({"version": "4", "alerts": [{"labels": {}}]}))[0] == 400, "no alertname")
    check(post(port, json.dumps({"version": "4", "alerts": "x"}))[0] == 400, "alerts are no list")
    check(post(port, None, "GET")[0] == 405, "GET")
    big = raw(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + b" " * 3000000)
    check(b"413" in big or big == b"", f"large: {big[:80]}")
    check(b"400" in raw(port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no TLS here"), "TLS")
    check(b"4" in raw(port, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 30000), "endless headers")
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    for s in held:
        s.close()


FAULT = "[{id: pause, uses: process/pause, target: {service: payments}, duration: 5s, settle: 3s}]"
VERIFY = """
    - {check: alert, step: pause, fires: {PaymentsDown: 4s}, silent: [CheckoutBurn], resolves: 3s,
       runbook: "https://wiki/payments"}
    - {check: alert, step: pause, fires: {NeverDefined: 2s}}"""

with Place() as p:
    port = p.port + 1
    path = p.scenario(FAULT, verify=VERIFY, edges=f"  alerts: {{listen: 127.0.0.1:{port}}}")
    run = p.start("run", path)
    p.wait_record("alerts", state="listening")
    hostile(port)
    check(post(port, webhook(alert("Watchdog", starts=stamp(86400))))[0] == 200, "Watchdog")
    p.wait_record("fault", state="applied")
    time.sleep(0.3)
    began = stamp()
    slow = socket.create_connection(("127.0.0.1", port))  # one that never says anything holds up nobody
    slow.sendall(b"POST / HTTP/1.1\r\n")
    status, text = post(port, webhook(alert("PaymentsDown", runbook_url="https://wiki/payments", summary="\x1b[2J" * 9)))
    check(status == 200, f"{status} {text}")
    long = alert("Long", note="ä" * 5000)
    long["labels"].update({f"l{i}": "x" for i in range(500)})
    check(post(port, webhook(long, *[alert(f"A{i}") for i in range(1200)]))[0] == 200, "many")
    p.wait_record("fault", state="reverted")
    check(post(port, webhook(alert("PaymentsDown", "resolved", began)))[0] == 200, "resolved")
    out, err = run.communicate(timeout=60)
    slow.close()
    check(p.end()["reason"] == "completed", f"{p.end()} {err}")
    check("\x1b[2J" not in out + err, "an alert drove the terminal")
    got = p.records("alert", name="PaymentsDown")
    check([a["status"] for a in got] == ["firing", "resolved"], f"{got}")
    check(got[0]["labels"]["severity"] == "page" and got[0]["receiver"] == "squall" and got[1]["ends_at"], f"{got}")
    kept = p.records("alert", name="Long")[0]
    check(len(kept["labels"]) <= 64 and len(kept["annotations"]["note"].encode()) <= 1024, "not bounded")
    check(len(p.records("alert")) == 1 + 1000 + 2, f"{len(p.records('alert'))} alerts")
    check(any("201 alerts were left out" in w["text"] for w in p.records("warning")), f"{p.records('warning')}")
    rc, out, err = p.run("verify", "--json", p.dir + "/squall-runs/" + p.evidence()[0]["id"])
    verdicts = [(c["check"], c["subject"], c["verdict"]) for c in json.loads(out)["checks"]]
    want = [("alert", "PaymentsDown", "pass")] * 3 + [("alert", "CheckoutBurn", "pass"), ("alert", "NeverDefined", "fail")]
    check(verdicts == want, f"{verdicts}")
    check(rc == 1, f"exit {rc}")

# Somebody else listens there.
with Place() as p, socket.socket() as other:
    other.bind(("127.0.0.1", p.port + 1))
    other.listen()
    rc, out, err = p.run("run", p.scenario(FAULT, edges=f"  alerts: {{listen: 127.0.0.1:{p.port + 1}}}"))
    check(rc == 5 and "can't receive alerts" in out + err, f"{rc} {out} {err}")

# Every request fails while the service stands still: the test stops the run long before the step is over.
with Place() as p:
    steps = "[{id: pause, uses: process/pause, target: {service: payments}, duration: 40s}]"
    safety = ", abort_when: [{metric: error_rate, sprt: {p0: 1%, p1: 20%}, min_requests: 50}]"
    begin = time.monotonic()
    rc, out, err = p.run("run", p.scenario(steps, safety=safety))
    check(rc == 4 and p.records("abort", by="condition"), f"{rc} {out} {err}")
    check("sequential test" in p.end()["why"], p.end()["why"])
    check(time.monotonic() - begin < 30, "it took its time")
