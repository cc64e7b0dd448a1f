#!/usr/bin/env python3
"""Bodies of HTTP/2 without TLS that a fault changes, with Node.js; and what waits is bounded."""
import json
import os
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from h2_lib import NODE, PREFACE, frame, hr, with_node
from proxy_rig import MS, Rig, Server, main, rule


@with_node
def bodies_of_answers(node, rig):
    """Replaced, cut, patched, with the length that belongs to it, also where a window is smaller than what is put in."""
    rig.rules(1, [hr("body", {"replace": "R" * 40_000}, {"path": "/big/100000"}), hr("body", {"replace": "short"}, {"path": "/big/99999"}),
                  hr("body", {"truncate": 1234}, {"path": "/big/70000"}),
                  hr("body", {"patch": {"a": None, "b": {"d": 3}, "x": "y"}}, {"path": "/json"}),
                  hr("body", {"replace": "was nothing"}, {"path": "/big/0"})])
    plan = [{"path": "/big/100000"}, {"path": "/big/99999"}, {"path": "/big/70000"}, {"path": "/json"}, {"path": "/big/50000"},
            {"path": "/json", "headers": {"x-pad": "400000"}}, {"path": "/big/0"}, {"path": "/big/99999", "method": "HEAD"}]
    got = node.ask(rig, plan * 5, rounds=4)
    for j, g in zip(plan * 20, got):
        assert g["status"] == 200 and g["rst"] == 0, (j, g)
        length = int(g["headers"].get("content-length", g["n"]))
        if j.get("method") == "HEAD":
            assert g["n"] == 0, g
        elif j["path"] == "/json" and "headers" in j:
            assert g["n"] == len('{"a":1,"b":{"c":2},"pad":""}') + 400_000, g["n"]  # too long: as it came
        elif j["path"] == "/json":
            assert json.loads(g["body"]) == {"b": {"c": 2, "d": 3}, "x": "y", "pad": ""} and length == g["n"], g
        else:
            want = {"/big/100000": 40_000, "/big/99999": 5, "/big/70000": 1234, "/big/50000": 50_000, "/big/0": 11}[j["path"]]
            assert (g["n"], length) == (want, want), (j, g["n"], length)
    calls = rig.take(160)
    assert sum(c.fault == "f1" for c in calls) == 140, sum(c.fault == "f1" for c in calls)
    rig.rules(1, [], epoch=2)
    got = node.ask(rig, plan[:1])
    assert got[0]["n"] == 100_000


@with_node
def bodies_of_requests(node, rig):
    rig.rules(1, [hr("body", {"of": "request", "replace": "Q" * 50_000}, {"path": "/body", "header": {"x-do": "replace"}}),
                  hr("body", {"of": "request", "truncate": 10}, {"path": "/body", "header": {"x-do": "cut"}}),
                  hr("body", {"of": "request", "patch": {"k": 1}}, {"path": "/body", "header": {"x-do": "patch"}})])
    plan = [{"path": "/body", "method": "POST", "body": 300_000, "headers": {"x-do": "replace"}},
            {"path": "/body", "method": "POST", "body": 300_000, "headers": {"x-do": "cut", "content-length": "300000"}},
            {"path": "/body", "method": "POST", "text": '{"j": [1, 2]}', "headers": {"x-do": "patch", "content-length": "13"}},
            {"path": "/body", "method": "POST", "text": "no json", "headers": {"x-do": "patch"}},
            {"path": "/body", "method": "POST", "body": 100_000}, {"path": "/body", "headers": {"x-do": "replace"}}]
    got = node.ask(rig, plan * 3, rounds=4)
    for j, g in zip(plan * 12, got):
        do = j.get("headers", {}).get("x-do")
        assert g["status"] == 200 and g["rst"] == 0, (j, g)
        if do == "replace":
            assert g["n"] == (50_000 if "body" in j else 0), (j, g["n"])
            assert g["headers"].get("x-length", "") == ("50000" if "body" in j else ""), g["headers"]
        elif do == "cut":
            assert (g["body"], g["headers"]["x-length"]) == ("y" * 10, "10"), g
        elif do == "patch":
            assert g["body"] == ('{"j":[1,2],"k":1}' if j["text"][0] == "{" else "no json"), g
            assert g["headers"].get("x-length", "") == "", g
        else:
            assert g["n"] == 100_000, g
    assert sum(c.fault == "f1" for c in rig.take(72)) == 60


@with_node
def trailers_stay(node, rig):
    """gRPC: another body, and the trailers as they were."""
    call = {"method": "POST", "headers": {"content-type": "application/grpc", "te": "trailers"}, "body": 20}
    rig.rules(1, [hr("body", {"truncate": 5}, {"path": "/s/Cut"}), hr("body", {"replace": "z" * 20_000}, {"path": "/s/New"}),
                  hr("body", {"patch": {"a": 1}}, {"path": "/s/Patch"})])
    got = node.ask(rig, [dict(call, path="/s/" + p) for p in ("Cut", "New", "Patch", "Other")] * 3, rounds=3)
    for g in got:
        want = {"/s/Cut": 5, "/s/New": 20_000}.get(g["path"], 12)
        assert g["trailers"] == {"grpc-status": "0"} and g["n"] == want and g["rst"] == 0, g
    rig.take(36)


@with_node
def bodies_come_and_go(node, rig):
    """Rules that change while one connection works: each body is one of those that it may be, and none is missing."""
    p = subprocess.Popen([NODE, os.path.join(node.dir, "client.js"), rig.flow(node.addr), str(rig.edges[1][0]),
                          json.dumps({"rounds": 25, "list": [{"path": "/json"}, {"path": "/big/3000"}, {"path": "/body", "method": "POST", "text": "{}"}] * 7})],
                         stdout=open(os.path.join(node.dir, "out"), "w"))
    k = 0
    while p.poll() is None:
        k += 1
        kinds = [[hr("body", {"replace": "R" * 9000}, percent=50.0, seed=k), hr("body", {"of": "request", "replace": "Q"}, fault="f2")],
                 [hr("body", {"patch": {"p": 1}}, percent=50.0, seed=k), rule("latency", fault="f3", percent=20.0, delay=4 * MS)],
                 [hr("body", {"truncate": 7}, percent=40.0, seed=k), hr("body", {"of": "request", "patch": {"p": 1}}, fault="f4")], []]
        rig.rules(1, kinds[k % 4], epoch=k)
        time.sleep(0.02)
    rig.rules(1, [], epoch=999)
    got = json.load(open(os.path.join(node.dir, "out")))
    assert len(got) == 525, got if len(got) < 5 else len(got)
    json_ = '{"a":1,"b":{"c":2},"pad":""}'
    allowed = {"/json": {json_, json_[:7], json_[:-1] + ',"p":1}', "R" * 9000}, "/big/3000": {"x" * 3000, "x" * 7, "R" * 9000},
               "/body": {"{}", "Q", '{"p":1}', "R" * 9000, '{"p":1,"p":1}', "Q"[:7]}}
    bad = [g for g in got if g["status"] != 200 or g["rst"] or (g["body"] not in allowed[g["path"]] and g["n"] != 9000)]
    assert not bad and k > 3, bad[:2]
    rig.wait("all calls", lambda: len(rig.calls) >= 525)
    assert len(rig.calls) == 525


def bounded():
    """1,000 answers of ours that wait, of 60 KB each; a caller that asks and never reads: neither takes memory."""
    def server(c):
        c.sendall(frame(4, 0, 0))
        while c.recv(65536):
            pass
    srv, rig = Server(server), Rig()
    rig.edge(1)
    rig.rules(1, [hr("status", {"status": 503, "body": "b" * 60_000}, {"path": "/a"}), hr("delay", {}, fault="f2", delay=3000 * MS)])
    rig.wait("its figures", lambda: rig.stats)
    before = rig.stats[-1]["rss"]
    limit = (256 if "ASAN_OPTIONS" in os.environ else 12) << 20
    window = frame(4, 0, 0, b"\0\x04\x7f\xff\xff\xff") + frame(8, 0, 0, b"\x7f\0\0\0")
    a = b"\x82\x86\x04\x02/a"
    s = rig.connect(srv.addr)
    s.sendall(PREFACE + window + b"".join(frame(1, 5, 2 * i + 1, a) for i in range(1000)))

    def look(what):
        n = len(rig.stats)
        rig.wait("its figures", lambda: len(rig.stats) > n + 1)
        grown = rig.stats[-1]["rss"] - before
        assert grown < limit, (what, grown)
    look("they wait")
    got, end = 0, time.monotonic() + 15
    s.settimeout(10)
    while got < 1000 * 60_000 and time.monotonic() < end:
        got += len(s.recv(1 << 20))
    assert got >= 1000 * 60_000, got
    rig.take(1000)
    s.close()
    rig.rules(1, [hr("status", {"status": 503, "body": "b" * 60_000}, {"path": "/a"})], epoch=2)
    s = rig.connect(srv.addr)
    s.settimeout(1)
    sent = 0
    try:
        s.sendall(PREFACE + window)
        for i in range(0, 400_000, 100):
            s.sendall(b"".join(frame(1, 5, 2 * k + 1, a) for k in range(i, i + 100)))
            sent += 100
    except socket.timeout:
        pass
    look("nobody reads")
    s.close()
    rig.quit()


def at_exit(sig, frame_):
    sys.exit(1)


signal.signal(signal.SIGTERM, at_exit)
main([bodies_of_answers, bodies_of_requests, trailers_stay, bodies_come_and_go, bounded])
