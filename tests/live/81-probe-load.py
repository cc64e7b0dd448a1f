#!/usr/bin/env python3
"""What the load may be beyond a rate: mixes, data, sessions, Poisson arrivals, closed loops, recorded baselines, threads.
Against a server of this test's own that notes what it was asked."""
import collections
import http.server
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time

BUILD = os.environ.get("SQUALL_BUILD", "build")
TOOL = os.path.join(BUILD, "tests/live/probe_load")
seen = []
lock = threading.Lock()


def die(text):
    sys.exit("FAIL: " + text)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def answer(self, body=b""):
        with lock:
            seen.append((self.command, self.path, dict(self.headers), body.decode(), time.monotonic()))
        text, headers, status = b"ok", {}, 200
        if self.path.startswith("/login"):
            headers["X-Token"] = "t-" + self.path[-1]
            text = b'{"cart": {"items": [{"id": 7}, {"id": "a b&c"}]}, "html": "<i>x=12;</i>"}'
        if self.path == "/gone":
            status = 404
        self.send_response(status)
        for k, v in headers.items():
            self.send_header(k, v)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, *a):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def probe(endpoint, seconds=1.5, fails=None):
    seen.clear()
    spec = {"e": {"executor": "constant-arrival-rate", "rate": 100.0, "connections": 10, **endpoint}}
    r = subprocess.run([TOOL, str(seconds)], input=json.dumps(spec), text=True, capture_output=True)
    if fails is not None:
        if r.returncode != 2 or fails not in r.stderr:
            die("exit %d, %s, wanted %r" % (r.returncode, r.stderr, fails))
        return None
    if r.returncode:
        die(r.stderr)
    return json.loads(r.stdout)["e"]


def all_good(what, o, least):
    if o["planned"] < least or o["ok"] != o["planned"]:
        die("%s: %s" % (what, o))


def mix(url):
    o = probe({"request": {"url": url, "headers": {"x-a": "1"}}, "mix": [
        {"weight": 3, "path": "/a"},
        {"weight": 1, "path": "/b", "method": "POST", "body": "hi", "headers": {"x-b": "2"}},
        {"weight": 1, "path": "/gone", "expect": {"status": [404]}}]}, 3)
    all_good("mix", o, 290)
    n = collections.Counter((m, p) for m, p, *_ in seen)
    total = sum(n.values())
    for key, share in ((("GET", "/a"), 0.6), (("POST", "/b"), 0.2), (("GET", "/gone"), 0.2)):
        # five standard deviations: once in two million runs
        if abs(n[key] - total * share) > 5 * math.sqrt(total * share * (1 - share)):
            die("mix: %s came %d times of %d" % (key, n[key], total))
    for m, p, h, b, _ in seen:
        if h.get("x-a") != "1" or (p == "/b") != (h.get("x-b") == "2") or (p == "/b") != (b == "hi"):
            die("mix: %s" % ((m, p, h, b),))


def data(url, folder):
    csv, jsonl = os.path.join(folder, "d.csv"), os.path.join(folder, "d.jsonl")
    with open(csv, "w") as f:
        f.write('\ufeffid,name\r\n1,"a ""b"", c"\r\n2,x/y z\r\n3,\r\n')
    with open(jsonl, "w") as f:
        f.write('{"id": 1, "name": "a \\"b\\", c"}\n{"name": "x/y z", "id": 2}\n\n{"id": 3, "name": ""}\n')
    for file in (csv, jsonl):
        o = probe({"data": file, "request": {"url": url + "/i/${data.id}?n=${data.name}", "method": "POST",
                                             "headers": {"x-name": "<${data.name}>"}, "body": "b=${data.name}"}})
        all_good("data", o, 145)
        rows = ['a "b", c', "x/y z", ""]
        paths = ["/i/1?n=a%20%22b%22%2C%20c", "/i/2?n=x%2Fy%20z", "/i/3?n="]
        n = collections.Counter()
        for m, p, h, b, _ in seen:
            i = paths.index(p)
            n[i] += 1
            if h["x-name"] != "<%s>" % rows[i] or b != "b=" + rows[i]:
                die("data: %s" % ((p, h, b),))
        if max(n.values()) - min(n.values()) > 1 or len(n) != 3:
            die("data: rows %s" % n)
    with open(csv, "w") as f:
        f.write("id\n1,2\n")
    probe({"data": csv, "request": {"url": url}}, fails="line 2")
    probe({"data": jsonl, "request": {"url": url + "/${data.none}"}}, fails="none")


def session(url, folder):
    file = os.path.join(folder, "s.csv")
    with open(file, "w") as f:
        f.write("user\na\nb\n")
    steps = [
        {"path": "/login?u=${data.user}", "method": "POST", "capture": {
            "token": {"header": "x-token"}, "item": {"json": "/cart/items/1/id"}, "x": {"between": ["x=", ";"]}}},
        {"path": "/cart/${session.item}", "think": 300_000_000,
         "headers": {"authorization": "Bearer ${session.token}", "x-x": "${session.x}"}},
        {"path": "/end?u=${data.user}", "think": 100_000_000}]
    o = probe({"rate": 20.0, "data": file, "request": {"url": url}, "session": steps}, 2.5)
    n = collections.Counter(p.split("/")[1].split("?")[0] for _, p, *_ in seen)
    if o["ok"] != o["planned"] or not 45 <= n["login"] <= 52 or not 30 <= n["end"] <= n["cart"] <= n["login"]:
        die("session: %s %s" % (n, o))
    if abs(o["planned"] - sum(n.values())) > 0:
        die("session: %s planned, %s came" % (o["planned"], n))
    logins = sorted(t for _, p, h, b, t in seen if p.startswith("/login?u=a"))
    carts = sorted(t for _, p, h, b, t in seen if p.startswith("/cart") and h["authorization"] == "Bearer t-a")
    for m, p, h, b, t in seen:
        if p.startswith("/cart") and (p != "/cart/a%20b%26c" or h["x-x"] != "12" or
                                      h["authorization"] not in ("Bearer t-a", "Bearer t-b")):
            die("session: %s %s" % (p, h))
    if not carts or min(c - l for l, c in zip(logins, carts)) < 0.299:
        die("session: the user did not think for 300 ms")
    # What is not there ends the session, and is not good.
    steps[0]["capture"]["token"] = {"header": "x-none"}
    o = probe({"rate": 20.0, "data": file, "request": {"url": url}, "session": steps}, 1.5)
    if o["bad"] != {"body": o["planned"]} or any(p.startswith("/cart") for _, p, *_ in seen):
        die("session without its value: %s" % o)
    probe({"request": {"url": url}, "session": [{"path": "/${session.later}"}]}, fails="later")


def poisson(url):
    """That the law is right is test_probe_schedule's; here that it is asked for."""
    o = probe({"rate": 400.0, "arrivals": "poisson", "connections": 50, "request": {"url": url}}, 2)
    gaps = sorted(b[4] - a[4] for a, b in zip(seen, seen[1:]))
    if o["planned"] < 600 or o["ok"] != o["planned"]:
        die("poisson: %s" % o)
    # e^-2 = 13.5 % of the gaps are over twice the mean; with even arrivals none.
    share = sum(g > 0.005 for g in gaps) / len(gaps)
    if not 0.08 < share < 0.20:
        die("poisson: %.1f %% of the gaps are over twice the mean" % (100 * share))


def closed(url):
    o = probe({"executor": "constant-connections", "connections": 3, "request": {"url": url}}, 1)
    all_good("closed loop", o, 200)
    # A dead server is not hammered: each of 3 pauses 10 ms.
    o = probe({"executor": "constant-connections", "connections": 3, "request": {"url": "http://127.0.0.1:1/"}}, 1)
    if not 100 <= o["planned"] <= 310 or o["bad"] != {"refused": o["planned"]}:
        die("closed loop to nobody: %s" % o)


def black_friday(url, folder):
    csv, run = os.path.join(folder, "rates.csv"), os.path.join(folder, "run")
    with open(csv, "w") as f:
        f.write("second,rate\n0,20\n1,50\n2,10\n")
    o = probe({"executor": "black-friday", "baseline": csv, "multiply": 3, "request": {"url": url}}, 2)
    if o["planned"] not in range(210, 217):  # it is stopped a moment late
        die("black friday: %d planned, not 210" % o["planned"])
    os.mkdir(run)
    with open(run + "/evidence.jsonl", "w") as f:
        f.write('{"v":1}\n')
        for sec, n in enumerate([0, 3, 20, 50, 10, 4]):
            for half in (n // 2, n - n // 2):  # several records of a second add up
                f.write(json.dumps({"type": "sample", "sec": sec, "endpoint": "e", "planned": half}) + "\n")
        f.write('{"type": "sample", "sec": 3, "endpoint": "other", "planned": 999}\n')
    o = probe({"executor": "black-friday", "baseline": run, "multiply": 3, "request": {"url": url}}, 2)
    if o["planned"] not in range(210, 217):
        die("black friday from a run: %d planned, not 210" % o["planned"])
    probe({"executor": "black-friday", "baseline": run, "baseline_endpoint": "none", "request": {"url": url}},
          fails="none")


def threads(url, folder):
    file = os.path.join(folder, "t.csv")
    with open(file, "w") as f:
        f.write("id\n" + "".join("%d\n" % i for i in range(7)))
    o = probe({"rate": 300.0, "threads": 3, "connections": 10, "data": file, "request": {"url": url + "/${data.id}"}}, 2)
    if not 600 <= o["planned"] <= 640 or len({o["planned"], o["ok"], o["p"]["n"], o["end"]["planned"]}) != 1:
        die("threads: %s" % o)
    n = collections.Counter(p for _, p, *_ in seen)
    if max(n.values()) - min(n.values()) > 1 or len(n) != 7:
        die("threads: rows %s" % n)
    probe({"threads": 20, "request": {"url": url}}, fails="threads")


def main():
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = "http://127.0.0.1:%d" % server.server_address[1]
    with tempfile.TemporaryDirectory() as folder:
        mix(url)
        data(url, folder)
        session(url, folder)
        poisson(url)
        closed(url)
        black_friday(url, folder)
        threads(url, folder)
    print("ok")


main()
