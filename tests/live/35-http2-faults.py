#!/usr/bin/env python3
"""Faults on the requests of HTTP/2 without TLS, with real clients and servers: Node.js, nghttp2, curl, nginx."""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from h2_lib import GET, NODE, PREFACE, frame, hr, with_node, until_listened
from proxy_rig import ANSWERED, FAILED, MS, REQUEST, Rig, Server, main


@with_node
def passes_and_counts(node, rig):
    """Without a fault: every byte, both ways, and each request is a call."""
    got = node.ask(rig, [{"path": "/big/%d" % n} for n in (0, 1, 70_000, 1_000_000)] +
                   [{"path": "/e%d" % n, "method": "POST", "body": n} for n in (1, 70_000, 1_000_000)])
    assert [g["status"] for g in got] == [200] * 7 and [g["n"] for g in got[:4]] == [0, 1, 70_000, 1_000_000], got
    assert [g["body"] for g in got[4:]] == ["1", "70000", "1000000"], got
    calls = rig.take(7)
    assert all(c.kind == REQUEST and c.outcome == ANSWERED and c.status == 200 and c.fault == "" and c.answer > 0
               for c in calls), calls
    trace = "%032x" % 0xabcdef
    node.ask(rig, [{"path": "/t", "headers": {"traceparent": "00-%s-00f067aa0ba902b7-01" % trace}}])
    assert rig.take(1)[0].trace == trace


@with_node
def statuses(node, rig):
    """By path and by header; what is hit never arrives, other streams of the connection are as ever; flow control holds."""
    rig.rules(1, [hr("status", {"status": 503, "body": "no", "headers": {"X-Y": "z"}}, {"path": "/a*"})])
    plan = []
    for i in range(40):
        plan += [{"path": "/a%d" % i, "method": "POST", "body": 30_000}, {"path": "/b%d" % i, "method": "POST", "body": 30_000},
                 {"path": "/a%d" % i}, {"path": "/big/30000"}]
    got = node.ask(rig, plan)
    for j, g in zip(plan, got):
        if j["path"].startswith("/a"):
            assert (g["status"], g["body"], g["headers"].get("x-y")) == (503, "no", "z"), g
        else:
            assert g["status"] == 200 and (g["n"] == 30_000 or g["body"] == "30000"), g
    seen = node.seen(rig)
    assert not any(p.startswith("/a") for p in seen) and sum(p.startswith("/b") for p in seen) == 41, seen
    calls = rig.take(161)
    assert sum(c.status == 503 and c.outcome == FAILED and c.fault == "f1" for c in calls) == 80, calls[:3]
    rig.rules(1, [hr("status", {"status": 429}, {"method": ["GET"], "header": {"x-squall": "probe", "cookie": False}})])
    got = node.ask(rig, [{"path": "/q", "headers": {"x-squall": "probe"}}, {"path": "/q"},
                         {"path": "/q", "headers": {"x-squall": "probe", "cookie": "a"}}])
    assert [g["status"] for g in got] == [429, 200, 200], got
    rig.take(3)


@with_node
def a_share(node, rig):
    rig.rules(1, [hr("status", {"status": 500}, percent=30.0)])
    got = node.ask(rig, [{"path": "/%d" % i} for i in range(60)], rounds=10)
    hit = sum(g["status"] == 500 for g in got)
    assert {g["status"] for g in got} == {200, 500} and 124 <= hit <= 236, hit  # 5 standard deviations
    assert sum(c.fault == "f1" for c in rig.take(600)) == hit


@with_node
def grpc(node, rig):
    """gRPC: trailers alone, also while the request is open; the real one goes on."""
    call = {"method": "POST", "headers": {"content-type": "application/grpc", "te": "trailers"}, "body": 20}
    rig.rules(1, [hr("status", {"status": 503, "grpc_status": 14, "body": "later"}, {"path": "/s/Hit"})])
    got = node.ask(rig, [dict(call, path="/s/Hit"), dict(call, path="/s/Hit", open=True), dict(call, path="/s/Miss"),
                         {"path": "/s/Hit"}])
    for g in got[:2]:
        assert g["status"] == 200 and g["headers"]["grpc-status"] == "14" and g["headers"]["grpc-message"] == "later", g
        assert g["rst"] == 0 and g["n"] == 0, g
    assert got[2]["trailers"] == {"grpc-status": "0"} and got[2]["n"] == 12, got[2]
    assert got[3]["status"] == 503, got[3]
    calls = rig.take(4)
    assert sum(c.outcome == FAILED and c.fault == "f1" for c in calls) == 3, calls


@with_node
def aborts_and_delays(node, rig):
    """Only the stream: the others neither fail nor wait."""
    rig.rules(1, [hr("abort", {}, {"path": "/abort"}), hr("delay", {}, {"path": "/slow*"}, fault="f2", delay=400 * MS)])
    got = node.ask(rig, [{"path": "/abort", "method": "POST", "body": 100_000}, {"path": "/slow"}, {"path": "/big/50000"},
                         {"path": "/slow/x", "method": "POST", "body": 9}, {"path": "/z"}], rounds=2)
    for i in (0, 5):
        a, s1, big, s2, z = got[i:i + 5]
        assert a["rst"] == 2 and a["status"] == 0, a
        assert s1["status"] == 200 and s1["ms"] >= 395 and s2["body"] == "9" and s2["ms"] >= 395, (s1, s2)
        assert big["n"] == 50_000 and z["status"] == 200, (big, z)
        assert max(big["ms"], z["ms"]) < 380 or os.getloadavg()[0] > 2, (big, z)
    calls = rig.take(10)
    assert sum(c.fault == "f2" and c.held >= 400 * MS and c.outcome == ANSWERED for c in calls) == 4, calls
    assert sum(c.fault == "f1" and c.outcome == FAILED for c in calls) == 2, calls


@with_node
def heads(node, rig):
    rig.rules(1, [hr("header", {"of": "answer", "set": {"X-New": "1", "X-A": "2"}, "remove": ["date"]}, {"path": "/h*"}),
                  hr("header", {"of": "request", "set": {"X-User": "7"}, "remove": ["cookie"]}, {"path": "/*"}, fault="f2")])
    h, o = node.ask(rig, [{"path": "/h", "headers": {"cookie": "a=b"}}, {"path": "/o", "headers": {"x-user": "1"}}])
    assert h["headers"]["x-new"] == "1" and h["headers"]["x-a"] == "2" and "date" not in h["headers"], h
    assert h["headers"]["x-got"] == "7" and h["headers"]["x-cookie"] == "" and h["body"] == "0", h
    assert o["headers"]["x-got"] == "7" and o["headers"]["x-a"] == "1" and "date" in o["headers"], o
    rig.take(2)


@with_node
def comes_and_goes(node, rig):
    """On one connection that stays: no call is lost or doubled, none gets another's answer, and its HPACK state holds."""
    p = subprocess.Popen([NODE, os.path.join(node.dir, "client.js"), rig.flow(node.addr), str(rig.edges[1][0]),
                          json.dumps({"rounds": 20, "list": [{"path": "/n%d" % i, "method": "POST", "body": 500 * i,
                                                              "headers": {"x-i": "v%d" % i}} for i in range(1, 21)]})],
                         stdout=open(os.path.join(node.dir, "out"), "w"))
    k = 0
    while p.poll() is None:
        k += 1
        kinds = [[hr("status", {"status": 503, "body": "no"}, percent=50.0, seed=k)],
                 [hr("delay", {}, percent=30.0, delay=5 * MS, seed=k), hr("header", {"of": "answer", "set": {"x-k": "1"}}, fault="f2")],
                 []]
        rig.rules(1, kinds[k % 3], epoch=k)
        time.sleep(0.02)
    rig.rules(1, [], epoch=999)
    got = json.load(open(os.path.join(node.dir, "out")))
    assert len(got) == 400, got if len(got) < 5 else len(got)
    bad = [g for g in got if (g["status"], g["body"]) not in
           ((200, str(500 * int(g["path"][2:]))), (503, "no")) or (g["status"] == 200 and g["headers"]["x-path"] != g["path"])]
    assert not bad, bad[:3]
    hit = sum(g["status"] == 503 for g in got)
    rig.wait("all calls", lambda: len(rig.calls) >= 400)
    seen = node.seen(rig)
    assert sum(v for k, v in seen.items() if k.startswith("/n")) == 400 - hit and hit > 0, (hit, seen)
    assert sum(c.status == 503 for c in rig.calls) == hit


def tools():
    """nghttpd with h2load and curl, nginx with curl, an answer that comes before the server's SETTINGS."""
    d = tempfile.mkdtemp()
    os.chmod(d, 0o755)
    with open(os.path.join(d, "b"), "w") as f:
        f.write("hello" * 1000)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    conf = os.path.join(d, "nginx.conf")
    with open(conf, "w") as f:
        f.write("daemon off; master_process off; pid %s/pid; error_log stderr crit; events {} http { access_log off; "
                "client_body_temp_path %s/t; proxy_temp_path %s/t; fastcgi_temp_path %s/t; uwsgi_temp_path %s/t; scgi_temp_path %s/t;"
                "server { listen 127.0.0.1:%d http2; root %s; } }" % (d, d, d, d, d, d, port, d))
    servers = [("nginx", [nginx, "-c", conf, "-p", d]),
               ("nghttpd", ["nghttpd", "--no-tls", "-d", d, "-a", "127.0.0.1", str(port)])]
    for name, argv in servers:
        p = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until_listened(port)
            rig = Rig()
            rig.edge(1)
            at = "http://%s:%d" % (rig.flow(("127.0.0.1", port)), rig.edges[1][0])

            def curl(path, *args):
                r = subprocess.run(["curl", "-sS", "--http2-prior-knowledge", "--max-time", "9", "-w", "%{http_code}", *args,
                                    at + path], capture_output=True)
                return r.stdout.decode(), r.returncode
            assert curl("/b") == ("hello" * 1000 + "200", 0), name
            rig.rules(1, [hr("status", {"status": 503, "body": "no"}, {"path": "/a"})])
            assert curl("/a") == ("no503", 0) and curl("/a", "-d", "x" * 100_000) == ("no503", 0), name
            assert curl("/b") == ("hello" * 1000 + "200", 0)
            rig.rules(1, [hr("status", {"status": 503}, percent=20.0)])
            rig.wait("curl's calls", lambda: len(rig.calls) >= 4)
            n = len(rig.calls)
            r = subprocess.run(["h2load", "-n", "4000", "-c", "4", "-m", "20", at + "/b"], capture_output=True, text=True,
                               timeout=20)
            assert "4000 done" in r.stdout and "0 errored, 0 timeout" in r.stdout, r.stdout
            rig.wait("h2load's calls", lambda: len(rig.calls) >= n + 4000)
            hit = sum(c.status == 503 for c in rig.calls[n:])
            assert 673 <= hit <= 927 and " %d 5xx" % hit in r.stdout, (hit, r.stdout)  # 5 standard deviations
            rig.quit()
        finally:
            p.kill()
            p.wait()
    shutil.rmtree(d)


def hostile():
    """Floods and nonsense: bounded memory, passed on as they came or closed; every cut of a real beginning."""
    got = []

    def swallow(c):
        c.sendall(frame(4, 0, 0))
        while True:
            d = c.recv(65536)
            if not d:
                return
            got.append(d)
    srv, rig = Server(swallow), Rig()
    rig.edge(1)
    rig.wait("its figures", lambda: rig.stats)
    before = rig.stats[-1]["rss"]
    plain = PREFACE + frame(4, 0, 0) + frame(1, 4 | 8 | 32, 1, b"\x02" + b"\0\0\0\0\x10" + GET + b"\0\0") + \
        frame(0, 8, 1, b"\x01xy\0") + frame(1, 5, 1, b"\x40\x01t\x01r") + frame(2, 0, 3, b"\0\0\0\0\x10")
    flood = PREFACE + frame(4, 0, 0) + frame(1, 0, 1, GET) + frame(9, 0, 1, b"\0\x01a\x01b" * 100) * 2000
    bomb = PREFACE + frame(4, 0, 0) + frame(1, 4, 1, GET + b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000 + b"\xbe" * 10_000)
    resets = PREFACE + frame(4, 0, 0) + b"".join(frame(1, 5, 2 * i + 1, GET) + frame(3, 0, 2 * i + 1, b"\0\0\0\x08")
                                                 for i in range(20_000))
    wrong = PREFACE + frame(4, 0, 0) + frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff") + frame(0, 0, 1, b"z" * 100)
    half = PREFACE[:10] + b"\r\n\r\nwhatever"
    for rules in ([], [hr("status", {"status": 503}, {"path": "/never"})]):
        rig.rules(1, rules)
        for text in [plain, flood, bomb, resets, wrong, half]:
            del got[:]
            s = rig.connect(srv.addr)
            s.sendall(text)
            end = time.monotonic() + 10
            while len(b"".join(got)) < len(text) and time.monotonic() < end:
                time.sleep(0.02)
            assert b"".join(got) == text, (text[:60], len(text), len(b"".join(got)))
            s.close()
    for cut in range(1, len(plain)):
        del got[:]
        s = rig.connect(srv.addr)
        s.sendall(plain[:cut])
        time.sleep(0.001)
        s.sendall(plain[cut:])
        end = time.monotonic() + 5
        while len(b"".join(got)) < len(plain) and time.monotonic() < end:
            time.sleep(0.001)
        assert b"".join(got) == plain, (cut, got)
        s.close()
    # touched: what can't be followed any more can't be passed on either
    rig.rules(1, [hr("status", {"status": 503})])
    s = rig.connect(srv.addr)
    s.settimeout(5)
    try:
        s.sendall(PREFACE + frame(4, 0, 0) + frame(1, 5, 1, GET))
        time.sleep(0.2)
        s.sendall(frame(1, 0, 3, GET) + frame(9, 0, 3, b"\0\x01a\x01b" * 100) * 2000)
        while s.recv(65536):
            pass
    except (ConnectionResetError, BrokenPipeError):
        pass
    many = PREFACE + frame(4, 0, 0) + b"".join(frame(1, 4, 2 * i + 1, GET) for i in range(5_000))
    s = rig.connect(srv.addr)
    s.sendall(many)
    n = len(rig.stats)
    rig.wait("its figures", lambda: len(rig.stats) > n + 1)
    # a sanitizer keeps what was freed
    assert rig.stats[-1]["rss"] - before < (256 if "ASAN_OPTIONS" in os.environ else 32) << 20, (before, rig.stats[-1])
    s.close()
    rig.quit()


def at_exit(sig, frame_):
    sys.exit(1)


signal.signal(signal.SIGTERM, at_exit)
main([passes_and_counts, statuses, a_share, grpc, aborts_and_delays, heads, comes_and_goes, tools, hostile])
