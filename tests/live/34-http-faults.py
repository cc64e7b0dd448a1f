#!/usr/bin/env python3
"""Faults on HTTP/1.1 requests, in the proxy itself: who is hit, what the caller gets, and that nobody else is touched."""
import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from proxy_rig import (ANSWERED, FAILED, MS, REQUEST, Rig, Server, get, main, reset_within, rule)

SEED = 20261121


def hr(kind, do=None, match=None, **kw):
    return rule("http_" + kind, http=do or {}, match=match or {}, **kw)


class Web(Server):
    """A server that tells what it got: request lines with bodies, in order. /chunked and /close are framed so."""

    def __init__(self, body=b'{"a":1,"b":[2,3]}'):
        self.got, self.body, self.lock = [], body, threading.Lock()
        super().__init__(self.serve)

    def serve(self, c):
        f = c.makefile("rb")
        while True:
            line = f.readline()
            if not line:
                return
            head = {}
            while True:
                h = f.readline()
                if h in (b"\r\n", b"\n", b""):
                    break
                k, _, v = h.partition(b":")
                head[k.strip().lower().decode()] = v.strip().decode()
            if head.get("expect") == "100-continue":
                c.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = f.read(int(head.get("content-length", 0)))
            while head.get("transfer-encoding"):
                n = int(f.readline(), 16)
                body += f.read(n)
                f.readline()
                if n == 0:
                    break
            with self.lock:
                self.got.append((line.decode().strip(), head, body))
            path = line.split()[1]
            if path.startswith(b"/chunked"):
                c.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n")
                if line.startswith(b"HEAD"):
                    continue
                for i in range(0, len(self.body), 5):
                    c.sendall(b"%x;x=y\r\n%s\r\n" % (len(self.body[i:i + 5]), self.body[i:i + 5]))
                c.sendall(b"0\r\nX-Trailer: t\r\n\r\n")
            elif path.startswith(b"/close"):
                c.sendall(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n" + self.body)
                return
            else:
                no = line.startswith(b"HEAD")
                c.sendall(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: %d\r\n\r\n" % len(self.body) + (b"" if no else self.body))
            if head.get("connection") == "close":
                return

    def lines(self):
        with self.lock:
            out, self.got = [g[0] for g in self.got], []
        return out


def setup(body=None, **kw):
    web, rig = Web(body) if body is not None else Web(), Rig()
    rig.edge(1, **kw)
    return web, rig


def client(rig, web):
    c = http.client.HTTPConnection("127.0.0.1", 1, timeout=10)
    c.sock = rig.connect(web.addr)
    return c


def ask(c, method="GET", path="/", body=None, headers=None):
    c.request(method, path, body, headers or {})
    r = c.getresponse()
    return r.status, dict(r.getheaders()), r.read()


def answer(f):
    """One answer of a stream of them."""
    status, n, chunked, body = int(f.readline().split()[1]), 0, False, b""
    while True:
        h = f.readline().strip().lower()
        if not h:
            break
        n = int(h.split(b":")[1]) if h.startswith(b"content-length") else n
        chunked = chunked or h.startswith(b"transfer-encoding")
    body = f.read(n)
    while chunked:
        n = int(f.readline().split(b";")[0], 16)
        body += f.read(n)
        while f.readline() != b"\r\n" and n == 0:
            pass
        if n == 0:
            break
    return status, body


def count(rig):
    n = len(rig.acks)
    rig.send({"op": "ask", "edge": 1})
    rig.wait("the ack", lambda: len(rig.acks) > n)
    return rig.acks[-1]["rules"]


def statuses_by_match():
    """Method, path and header; a hit request never arrives, its connection stays."""
    web, rig = setup()
    c = client(rig, web)
    assert ask(c)[0] == 200
    acts = 0
    for do, match, hit, missed in (
            ({"status": 503, "body": "no", "headers": {"Retry-After": "1"}}, {"path": "/a*"},
             [("GET", "/a", {}), ("POST", "/a/b?q", {})], [("GET", "/b", {}), ("GET", "/", {})]),
            ({"status": 429}, {"method": ["POST", "PUT"]}, [("POST", "/", {}), ("PUT", "/x", {})], [("GET", "/", {})]),
            ({"status": 404}, {"path": "/a?x=*"}, [("GET", "/a?x=1", {})], [("GET", "/a", {}), ("GET", "/a?y=1", {})]),
            ({"status": 500}, {"header": {"X-Squall": "probe"}}, [("GET", "/", {"x-squall": "probe"})],
             [("GET", "/", {}), ("GET", "/", {"x-squall": "probes"})]),
            ({"status": 500}, {"header": {"cookie": True, "x": False}}, [("GET", "/", {"Cookie": "a=b"})],
             [("GET", "/", {}), ("GET", "/", {"Cookie": "a", "X": "1"})]),
            ({"status": 204}, {"header": {"x": "a*z"}}, [("GET", "/", {"X": "abcz"})], [("GET", "/", {"X": "abc"})])):
        rig.rules(1, [hr("status", do, match)])
        web.lines()
        for method, path, headers in hit:
            status, head, body = ask(c, method, path, b"hello" if method in ("POST", "PUT") else None, headers)
            assert status == do["status"] and body == do.get("body", "").encode(), (status, head, body)
            assert all(head.get(k) == v for k, v in do.get("headers", {}).items()), head
        assert web.lines() == [], "a request that was hit arrived"
        for method, path, headers in missed:
            assert ask(c, method, path, b"hello" if method == "POST" else None, headers)[0] == 200
        assert len(web.lines()) == len(missed)
        acts += len(hit)
        assert count(rig)[0]["acts"] == acts, count(rig)
    assert web.accepted == 1
    rig.rules(1, [])
    assert ask(c, "GET", "/a")[0] == 200
    c.close()
    rig.wait("the last call", lambda: len(rig.calls) >= 20)
    for x in rig.calls:
        assert x.kind == REQUEST and (x.fault == "f1") == (x.status != 200), x
        assert x.outcome == (FAILED if x.status >= 400 else ANSWERED), x
    rig.quit()


def in_its_turn():
    """Pipelined: every answer in its place, whoever gives it; at every cut of the stream."""
    web, rig = setup()
    rig.rules(1, [hr("status", {"status": 503, "body": "no"}, {"path": "/a*"})])
    plan = ["/b", "/a", "/a", "/c", "/chunked", "/a", "/d"]
    stream = b"".join(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nxyz" % p.encode() for p in plan)
    chunked = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;e\r\nabc\r\n0\r\nT: r\r\n\r\n"
    stream += chunked + b"GET /last HTTP/1.1\r\nHost: x\r\n\r\n"
    want = [503 if p.startswith("/a") else 200 for p in plan] + [503, 200]
    for cut in list(range(1, len(stream), 7)) + [0]:
        s = rig.connect(web.addr)
        if cut:
            s.sendall(stream[:cut])
            time.sleep(0.002)
        s.sendall(stream[cut:])
        f, got = s.makefile("rb"), []
        for _ in want:
            got.append(answer(f)[0])
        assert got == want, (cut, got)
        f.close()
        s.close()
        lines = [l.split()[1] for l in web.lines()]
        assert lines == [p for p in plan if not p.startswith("/a")] + ["/last"], (cut, lines)
    rig.quit()


def the_shapes_of_requests():
    """HEAD, 204, Connection: close, HTTP/1.0, Expect, a big body, folded fields, absolute targets."""
    web, rig = setup()
    rig.rules(1, [hr("status", {"status": 503, "body": "12345"})])
    c = client(rig, web)
    status, head, body = ask(c, "HEAD")
    assert status == 503 and head["Content-Length"] == "5" and body == b"", (status, head, body)
    assert ask(c, "POST", "/", os.urandom(3_000_000))[0] == 503
    assert ask(c)[2] == b"12345"
    status, head, _ = ask(c, "GET", "/", None, {"Connection": "close"})
    assert status == 503 and head["Connection"] == "close" and c.sock is None
    for raw, more in ((b"GET / HTTP/1.0\r\n\r\n", b""), (b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", b"hello"),
                      (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", b"")):
        s = rig.connect(web.addr)
        s.sendall(raw)
        got = b""
        while True:
            d = s.recv(4096)
            if not d:
                break
            got += d
            s.sendall(more)
            more = b""
        assert got.startswith(b"HTTP/1.1 503 ") and b"Connection: close" in got and got.endswith(b"12345"), got
        s.close()
    s = rig.connect(web.addr)
    s.sendall(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    time.sleep(0.2)
    assert b"Connection: keep-alive" in s.recv(4096)
    rig.rules(1, [hr("status", {"status": 503}, {"path": "/p", "header": {"x": "a b"}})])
    for raw in (b"GET http://h:1/p HTTP/1.1\r\nX: a\r\n  b\r\n\r\n", b"GET /p?q=http://x HTTP/1.1\nX:\ta b  \n\n"):
        s.sendall(raw)
        time.sleep(0.1)
        assert s.recv(4096).startswith(b"HTTP/1.1 503 "), raw
    s.close()
    assert web.lines() == []
    rig.quit()


def aborts():
    """The connection is reset, behind the answers that were under way."""
    web, rig = setup()
    rig.rules(1, [hr("abort", {}, {"path": "/a"})])
    s = rig.connect(web.addr)
    assert get(s)[0] == b"HTTP/1.1 200 OK"
    s.sendall(b"GET /x HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\n\r\n")
    got = b""
    try:
        while True:
            d = s.recv(4096)
            assert d, "an end in place of a reset"
            got += d
    except ConnectionResetError:
        pass
    assert got.count(b"HTTP/1.1 200 OK") == 1, got
    assert [l.split()[1] for l in web.lines()] == ["/", "/x"]
    calls = rig.take(3)
    assert [(x.outcome, x.fault) for x in calls] == [(ANSWERED, ""), (ANSWERED, ""), (FAILED, "f1")], calls
    rig.quit()


def delays():
    web, rig = setup()
    c = client(rig, web)
    other = client(rig, web)
    rig.rules(1, [hr("delay", {}, {"path": "/slow"}, delay=300 * MS)])
    t = time.monotonic()
    c.request("GET", "/slow")
    for _ in range(5):
        assert ask(other)[0] == 200
    assert time.monotonic() - t < 0.29 or os.getloadavg()[0] > 2, "others are slowed down"
    c.getresponse().read()
    assert time.monotonic() - t >= 0.3
    calls = rig.take(6)
    slow = [x for x in calls if x.fault]
    assert len(slow) == 1 and slow[0].held >= 295 * MS and slow[0].outcome == ANSWERED, calls
    c.close()
    other.close()
    rig.quit()


def heads_are_changed():
    web, rig = setup()
    c = client(rig, web)
    rig.rules(1, [hr("header", {"of": "answer", "set": {"X-New": "1", "x-a": "2"}, "remove": ["server"]}, {"path": "/[^b]"}),
                  hr("header", {"of": "answer", "set": {"X-A": "9"}}, {"path": "/*"}, fault="f2"),
                  hr("header", {"of": "request", "set": {"X-User": "7"}, "remove": ["cookie"]}, {"path": "/r*"}, fault="f3")])
    status, head, body = ask(c, "GET", "/q")
    assert status == 200 and head["X-A"] == "9" and "X-New" not in head and body == web.body, head
    ask(c, "POST", "/r", b"hello", {"Cookie": "a=b", "X-User": "1"})
    line, head, body = web.got[-1]
    assert head["x-user"] == "7" and "cookie" not in head and body == b"hello" and head["content-length"] == "5", head
    assert ask(c, "HEAD", "/q")[1]["X-A"] == "9" and ask(c)[2] == web.body
    c.close()
    rig.quit()


def bodies_are_changed():
    """Every framing of the answer, HTTP/1.1's and the end of the connection; the requests' too."""
    web, rig = setup()

    def same(body, want):
        return body == want or (want[:1] == b"{" and body[-1:] == b"}" and json.loads(body) == json.loads(want))
    for do, want in (({"replace": "hi there"}, b"hi there"), ({"truncate": 4}, web.body[:4]), ({"truncate": 0}, b""),
                     ({"truncate": 4000}, web.body), ({"patch": {"a": None, "c": {"d": 1, "e": None}}}, b'{"b":[2,3],"c":{"d":1}}')):
        c = client(rig, web)
        rig.rules(1, [hr("body", dict(do, of="answer"))])
        for path in ("/", "/chunked", "/"):
            status, head, body = ask(c, "GET", path)
            assert status == 200 and same(body, want), (do, path, head, body)
            assert ask(c, "HEAD", path)[2] == b""
        assert same(ask(c, "GET", "/close")[2], want), do
        rig.rules(1, [hr("body", dict(do, of="request"))])
        c = client(rig, web)
        for headers in ({"Content-Length": str(len(web.body))}, {"Transfer-Encoding": "chunked"}):
            body = web.body if "Content-Length" in headers else iter([web.body[:3], web.body[3:]])
            c.request("POST", "/", body, headers, encode_chunked="Content-Length" not in headers)
            c.getresponse().read()
            assert same(web.got[-1][2], want), (do, headers, web.got[-1])
        assert ask(c)[0] == 200
        c.close()
    assert count(rig)[0]["acts"] == 5 * (7 + 3) and count(rig)[0]["unjudged"] == 0, count(rig)
    # what is no JSON, or encoded, stays as it is, and is said
    web.body = b"plain text"
    rig.rules(1, [hr("body", {"of": "answer", "patch": {"a": 1}}, fault="f9")])
    c = client(rig, web)
    assert ask(c)[2] == b"plain text" and count(rig)[0]["unjudged"] == 1
    c.close()
    rig.quit()


def hostile():
    """Heads that never end, 100,000 fields, one byte at a time, nonsense, TLS: passed on as they came, at bounded cost."""
    web, rig = setup()
    rig.rules(1, [hr("status", {"status": 503}, {"path": "/never"})])
    rig.wait("its figures", lambda: rig.stats)
    before = rig.stats[-1]["rss"]
    big = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %d\r\n" % (i, i) for i in range(100_000)) + b"\r\n"
    for _ in range(5):
        s = rig.connect(web.addr)
        s.sendall(big)
        s.settimeout(20)
        assert s.recv(12) == b"HTTP/1.1 200"
        s.close()
    assert len(web.got[-1][1]) == 100_000
    slow = [rig.connect(web.addr) for _ in range(200)]
    for s in slow:
        s.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 60_000)
    for b in b"yyyyyyyy\r\n":
        for s in slow[:20]:
            s.sendall(bytes([b]))
    n = len(rig.stats)
    rig.wait("its figures", lambda: len(rig.stats) > n + 1)
    # a sanitizer keeps what was freed
    assert rig.stats[-1]["rss"] - before < (256 if "ASAN_OPTIONS" in os.environ else 64) << 20, (before, rig.stats[-1])
    for s in slow:
        s.sendall(b"\r\n\r\n")
        assert s.recv(12) == b"HTTP/1.1 200"
        s.close()
    n = count(rig)[0]["unjudged"]
    assert n >= 5, n
    rig.quit()

    seen = []

    def swallow(c):
        while True:
            d = c.recv(65536)
            if not d:
                return
            seen.append(d)
            c.sendall(b"ok")
    raw, rig = Server(swallow), Rig()
    rig.edge(1)
    rig.rules(1, [hr("status", {"status": 503})])
    for junk in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"t" * 500, b"*1\r\n$4\r\nPING\r\n", b"GET \x00 HTTP/1.1\r\n\r\n"):
        del seen[:]
        s = rig.connect(raw.addr)
        s.sendall(junk)
        assert s.recv(2) == b"ok"
        s.close()
        assert b"".join(seen) == junk
    r = count(rig)[0]
    assert r["tls"] == 1 and r["unjudged"] == 2 and r["acts"] == 0, r
    rig.quit()


def comes_and_goes():
    """A fault begins and ends again and again under load: no call is lost, none is doubled, none gets another's answer."""
    web, rig = setup(b"")
    stop, bad, n = time.monotonic() + 3, [], [0, 0]

    def load(k):
        rng = random.Random(SEED + k)
        c = client(rig, web)
        while time.monotonic() < stop:
            n[0] += 1
            name = "%d-%d" % (k, n[0])
            try:
                status, _, body = ask(c, "POST", "/" + name, b"x" * rng.choice((0, 10, 70_000)), {"X-N": name})
            except Exception as e:
                bad.append((name, repr(e)))
                return
            n[1] += status == 503
            if status not in (200, 503) or (status == 503) != (body == b"no"):
                bad.append((name, status, body))
    ts = [threading.Thread(target=load, args=(k,)) for k in range(4)]
    for t in ts:
        t.start()
    k = 0
    while time.monotonic() < stop:
        k += 1
        rig.rules(1, [hr("status", {"status": 503, "body": "no"}, percent=50.0, seed=k)] if k % 2 else [], epoch=k)
        time.sleep(0.01)
    for t in ts:
        t.join()
    assert not bad, bad[:3]
    time.sleep(0.3)
    rig.wait("all calls", lambda: len(rig.calls) >= n[0])
    names = [g[0].split()[1] for g in web.got]
    assert len(rig.calls) == n[0] and len(names) == len(set(names)) == n[0] - n[1], (len(rig.calls), n, len(names))
    assert sum(c.status == 503 for c in rig.calls) == n[1] > 20, n
    rig.quit()


def curl():
    """A real client: uploads with Expect, retries, and a proxy of the kind that people point it at."""
    web, rig = setup()
    rig.rules(1, [hr("status", {"status": 503, "body": "no"}, {"path": "/a"})])
    at = "http://%s:%d" % (rig.flow(web.addr), rig.edges[1][0])
    with open("/dev/urandom", "rb") as f:
        data = f.read(2_000_000)
    for args in (["-d", "@-"], ["-T", "-"], ["-H", "Expect: 100-continue", "-d", "@-"], ["-0", "-d", "@-"], []):
        r = subprocess.run(["curl", "-sS", "--max-time", "10", "-w", "%{http_code}", *args, at + "/a"], input=data,
                           capture_output=True)
        assert r.stdout == b"no503" and r.returncode == 0, (args, r)
    assert web.lines() == []
    r = subprocess.run(["curl", "-sS", "--max-time", "10", at + "/b", at + "/a", at + "/b"], capture_output=True)
    assert r.stdout == web.body + b"no" + web.body, r
    rig.quit()


def edge_is_dropped():
    """In the middle of a request that a fault took: nobody will answer it, and its caller does not wait for that."""
    web, rig = setup()
    rig.rules(1, [hr("status", {"status": 503, "body": "no"}, {"path": "/a"})])
    other, s = rig.connect(web.addr), rig.connect(web.addr)
    assert get(other)[0].startswith(b"HTTP/1.1 200")
    s.sendall(b"POST /a HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf")
    rig.wait("that it is hit", lambda: count(rig)[0]["acts"] == 1)
    rig.send({"op": "unedge", "id": 1})
    assert reset_within(s, 5)
    assert get(other)[0].startswith(b"HTTP/1.1 200")
    other.close()
    rig.quit()


main([statuses_by_match, in_its_turn, the_shapes_of_requests, aborts, delays, heads_are_changed, bodies_are_changed,
      hostile, comes_and_goes, edge_is_dropped, curl])
