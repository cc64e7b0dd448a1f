#!/usr/bin/env python3
"""Faults on calls of HTTP/2 without TLS, each stream for itself: Node.js, h2load with nghttpd, gRPC."""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from h2_lib import hr, with_node, until_listened
from proxy_rig import ANSWERED, FAILED, GAVE_UP, MS, Rig, main, rule

GRPC_CLIENT = r"""
import json, sys, time
import grpc
at, n, timeout = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
out = []
with grpc.insecure_channel(at) as ch:
    call = ch.unary_unary("/s.S/Echo")
    todo = []
    for i in range(n):
        t = time.monotonic()
        f = call.future(b"%d" % i + b"." * 3000, timeout=timeout)
        todo.append((i, t, f))
        f.add_done_callback(lambda f, t=t, i=i: out.append((i, f.code().value[0], time.monotonic() - t)))
    for i, t, f in todo:
        try:
            if f.result() != b"%d" % i + b"." * 3000:
                out.append((i, 99, 0))
        except grpc.RpcError:
            pass
    end = time.monotonic() + 5
    while len({i for i, _, _ in out}) < n and time.monotonic() < end:
        time.sleep(0.01)
print(json.dumps(out))
"""
GRPC_SERVER = r"""
import sys
from concurrent import futures
import grpc
h = grpc.method_handlers_generic_handler("s.S", {"Echo": grpc.unary_unary_rpc_method_handler(lambda r, c: r)})
s = grpc.server(futures.ThreadPoolExecutor(8), handlers=(h,))
print(s.add_insecure_port("127.0.0.1:0"), flush=True)
s.start()
s.wait_for_termination()
"""
PYTHON = "/usr/bin/python3"  # the distribution's, which has its grpc


def near(hits, n, share):
    """Within 5 standard deviations."""
    return abs(hits - n * share) <= 5 * (n * share * (1 - share)) ** 0.5


@with_node
def a_share_is_slow(node, rig):
    """A latency of 30 % of the calls: those, and none of the others on the same connection."""
    rig.rules(1, [rule("latency", delay=300 * MS, percent=30.0)])
    got = node.ask(rig, [{"path": "/%d" % i} for i in range(50)], rounds=6)
    assert all(g["status"] == 200 for g in got), got[:3]
    calls = rig.take(300)
    hit = [c for c in calls if c.fault == "f1"]
    assert near(len(hit), 300, 0.3) and all(c.held >= 300 * MS and c.outcome == ANSWERED for c in hit), len(hit)
    assert sum(g["ms"] >= 299 for g in got) >= len(hit)
    quick = sorted(g["ms"] for g in got)[:300 - len(hit)]
    assert quick[len(quick) // 2] < 250, quick[len(quick) // 2]  # the median of the spared ones does not wait
    assert all(c.held == 0 for c in calls if c.fault == ""), calls[:3]


@with_node
def a_share_fails(node, rig):
    """An error of 30 %: a reset of the stream; the others are answered, on one connection."""
    rig.rules(1, [rule("error", percent=30.0)])
    got = node.ask(rig, [{"path": "/e%d" % i, "method": "POST", "body": 3000} for i in range(50)], rounds=6)
    hit = [g for g in got if g["rst"] == 2]
    assert near(len(hit), 300, 0.3) and all(g["status"] == 0 for g in hit), len(hit)
    assert all(g["status"] == 200 and g["body"] == "3000" for g in got if g["rst"] == 0), got[:3]
    calls = rig.take(300)
    assert sum(c.fault == "f1" and c.outcome == FAILED for c in calls) == len(hit)
    rig.rules(1, [])
    seen = node.seen(rig)
    assert sum(v for k, v in seen.items() if k.startswith("/e")) == 300 - len(hit)


@with_node
def a_share_in_a_hole(node, rig):
    """A black hole for 30 %: never answered and never seen by the dependency, however much they send; the others flow."""
    rig.rules(1, [rule("blackhole", percent=30.0)])
    jobs = [{"path": "/h%d" % i, "method": "POST", "body": 200_000, "timeout": 4000} for i in range(40)]
    got = node.ask(rig, jobs, window=65535)
    lost = [g for g in got if g["rst"] == 8]
    assert near(len(lost), 40, 0.3) and lost, len(lost)
    assert all(g["status"] == 200 and g["body"] == "200000" for g in got if g["rst"] == 0), got[:3]
    calls = rig.take(40)
    assert sum(c.fault == "f1" and c.outcome == GAVE_UP and c.held > 0 for c in calls) == len(lost), calls[:3]
    rig.rules(1, [])
    assert sum(k.startswith("/h") for k in node.seen(rig)) == 40 - len(lost)


@with_node
def holes_end(node, rig):
    """When it ends: a request that was not passed on is told so (REFUSED_STREAM), an answer that was held comes."""
    rig.rules(1, [rule("blackhole", percent=99.999)])
    out = {}

    def ask(name, path):
        out[name] = node.ask(rig, [{"path": path, "timeout": 15_000}])[0]
    t = threading.Thread(target=ask, args=("new", "/new"))
    t.start()
    time.sleep(1.5)
    assert not out
    rig.rules(1, [], epoch=2)
    t.join()
    assert out["new"]["rst"] == 7, out  # or before it had begun, were this machine too slow
    c = rig.take(1)[0]
    assert c.outcome == FAILED and c.fault == "f1" and c.held > 0, c
    t = threading.Thread(target=ask, args=("late", "/late"))
    t.start()
    n = len(rig.stats)
    rig.wait("its connection", lambda: len(rig.stats) > n + 1 and rig.stats[-1]["open"] > 0)
    rig.rules(1, [rule("blackhole", fault="f2", percent=99.999)], epoch=4)
    time.sleep(4.5)
    assert "late" not in out, out
    rig.rules(1, [], epoch=5)
    t.join()
    assert out["late"]["status"] == 200 and out["late"]["body"] == "late" and out["late"]["ms"] >= 3500, out
    c = rig.take(1)[0]
    assert c.outcome == ANSWERED and c.fault == "f2" and c.held > 0, c
    assert "/new" not in node.seen(rig)


@with_node
def counted(node, rig):
    """first, every, after: exact, by request, also for those that were under way."""
    rig.rules(1, [rule("error", first=5, every=3, after=2, tally=0)])
    got = node.ask(rig, [{"path": "/%d" % i} for i in range(10)], rounds=4)
    assert sum(g["rst"] == 2 for g in got) == 5 and sum(g["status"] == 200 for g in got) == 35, got[:5]
    rig.take(40)
    rig.rules(1, [rule("latency", fault="f2", first=7, delay=50 * MS, tally=1)], epoch=2)
    got = node.ask(rig, [{"path": "/%d" % i} for i in range(10)], rounds=4)
    assert sum(c.fault == "f2" and c.held >= 50 * MS for c in rig.take(40)) == 7
    assert all(g["status"] == 200 for g in got)


@with_node
def all_of_them(node, rig):
    """An error for every call resets the connection, as ever; a black hole for every call holds all its bytes."""
    rig.rules(1, [rule("error")])
    got = node.ask(rig, [{"path": "/x"}])
    assert "conn" in got or (got[0]["status"] == 0 and got[0]["rst"] != 0), got
    rig.rules(1, [rule("blackhole", fault="f2")], epoch=2)
    done = []
    t = threading.Thread(target=lambda: done.append(node.ask(rig, [{"path": "/held"}])))
    t.start()
    time.sleep(1.2)
    assert not done
    rig.rules(1, [], epoch=3)
    t.join()
    assert done[0][0]["status"] == 200, done
    rig.wait("its call", lambda: any(c.status == 200 and c.fault == "f2" and c.outcome == ANSWERED for c in rig.calls))


def grpc_calls():
    """A real gRPC client and server, one channel: shares of latency, error and black hole; its own deadline ends the latter."""
    if subprocess.run([PYTHON, "-c", "import grpc"], stderr=subprocess.DEVNULL).returncode:
        print("     python3-grpcio is not here: not tested with it")
        return
    srv = subprocess.Popen([PYTHON, "-c", GRPC_SERVER], stdout=subprocess.PIPE, text=True)
    try:
        port = int(srv.stdout.readline())
        rig = Rig()
        rig.edge(1)

        def calls(n, timeout=8.0):
            at = "%s:%d" % (rig.flow(("127.0.0.1", port)), rig.edges[1][0])
            r = subprocess.run([PYTHON, "-c", GRPC_CLIENT, at, str(n), str(timeout)], capture_output=True, text=True, timeout=24)
            assert r.returncode == 0 and r.stdout, r
            return json.loads(r.stdout), rig.take(n)
        got, seen = calls(100)
        assert [c for _, c, _ in got] == [0] * 100 and all(c.outcome == ANSWERED for c in seen), got
        rig.rules(1, [rule("latency", percent=30.0, delay=400 * MS)], epoch=2)
        got, seen = calls(100)
        hit = sum(c.fault == "f1" and c.held >= 400 * MS for c in seen)
        assert [c for _, c, _ in got] == [0] * 100 and near(hit, 100, 0.3), hit
        assert sum(s >= 0.4 for _, _, s in got) >= hit
        rig.rules(1, [rule("error", percent=30.0)], epoch=3)
        got, seen = calls(100)
        hit = sum(c.fault == "f1" and c.outcome == FAILED for c in seen)
        assert sorted({c for _, c, _ in got}) == [0, 13] and sum(c == 13 for _, c, _ in got) == hit and near(hit, 100, 0.3), got
        rig.rules(1, [rule("blackhole", percent=30.0)], epoch=4)
        got, seen = calls(100, 3.0)
        hit = sum(c.fault == "f1" and c.outcome == GAVE_UP for c in seen)
        assert sorted({c for _, c, _ in got}) == [0, 4] and sum(c == 4 for _, c, _ in got) == hit and near(hit, 100, 0.3), got
        rig.rules(1, [hr("body", {"truncate": 3})], epoch=5)
        got, seen = calls(20)
        assert {i for i, c, _ in got if c} == set(range(20)), got  # half a message is none
        rig.rules(1, [hr("status", {"grpc_status": 14, "body": "later"}, percent=50.0)], epoch=6)
        got, seen = calls(100)
        assert near(sum(c == 14 for _, c, _ in got), 100, 0.5) and {c for _, c, _ in got} == {0, 14}, got
        rig.quit()
    finally:
        srv.kill()
        srv.wait()


def load():
    """h2load against nghttpd: shares of everything at once, and each request is told once."""
    d = tempfile.mkdtemp()
    with open(os.path.join(d, "b"), "w") as f:
        f.write("hello" * 1000)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    p = subprocess.Popen(["nghttpd", "--no-tls", "-d", d, "-a", "127.0.0.1", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_listened(port)
        rig = Rig()
        rig.edge(1)
        rig.rules(1, [rule("latency", percent=20.0, delay=3 * MS), hr("body", {"replace": "R" * 70}, fault="f2", percent=25.0, seed=8),
                      hr("status", {"status": 503, "body": "no"}, fault="f3", percent=10.0, seed=9)])
        at = "http://%s:%d/b" % (rig.flow(("127.0.0.1", port)), rig.edges[1][0])
        r = subprocess.run(["h2load", "-n", "4000", "-c", "4", "-m", "25", at], capture_output=True, text=True, timeout=22)
        assert "4000 done" in r.stdout and "0 errored, 0 timeout" in r.stdout, r.stdout
        rig.wait("its calls", lambda: len(rig.calls) >= 4000)
        failed = sum(c.outcome == FAILED for c in rig.calls)
        data = int(re.search(r"\((\d+)\) data", r.stdout).group(1))
        assert near(failed, 4000, 0.1) and " %d 5xx" % failed in r.stdout, r.stdout
        replaced = round((5000 * (4000 - failed) + 2 * failed - data) / 4930)
        assert near(replaced, 4000 - failed, 0.25) and data == 5000 * (4000 - failed - replaced) + 70 * replaced + 2 * failed, (data, failed, replaced, r.stdout)
        assert near(sum(c.held >= 3 * MS for c in rig.calls), 4000, 0.2)
        rig.quit()
    finally:
        p.kill()
        p.wait()


def at_exit(sig, frame_):
    sys.exit(1)


signal.signal(signal.SIGTERM, at_exit)
main([a_share_is_slow, a_share_fails, a_share_in_a_hole, holes_end, counted, all_of_them, grpc_calls, load])
