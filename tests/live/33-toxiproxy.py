#!/usr/bin/env python3
"""Toxiproxy's HTTP API of squalld: each route as Toxiproxy answers it, each toxic by what it does to bytes."""
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import injector_lib
from injector_lib import SQUALLD, Injector, alive, child_named, until
from proxy_rig import echo_server, reset_within


class Host(Injector):
    """A squalld of the host's kind, with Toxiproxy's API."""

    all = []

    def __init__(self, run_dir, *more, name=f"t-{os.getpid():x}"):
        with socket.create_server(("127.0.0.1", 0)) as s:
            self.port = s.getsockname()[1]
        self.run_dir = run_dir
        self.dir = os.path.join(run_dir, name)
        self.socket = os.path.join(self.dir, "api.sock")
        self.proc = subprocess.Popen([SQUALLD, "--dir", self.dir, "--toxiproxy", f"127.0.0.1:{self.port}", *more],
                                     env=dict(os.environ, SQUALL_RUN_DIR=run_dir))
        self.keeper = self.proc.pid
        Host.all.append(self)
        until("Toxiproxy's API answers", self.listens)
        self.pid = self.get("info")["pid"]

    def listens(self):
        if self.proc.poll() is not None:
            raise AssertionError(f"squalld ended with {self.proc.returncode}")
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except ConnectionError:
            return False

    def http(self, method, path, body=None, agent="test"):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        c.request(method, path, body if isinstance(body, (str, bytes, type(None))) else json.dumps(body), {"User-Agent": agent})
        r = c.getresponse()
        data = r.read()
        c.close()
        self.headers = r.headers
        return r.status, data

    def ask(self, method, path, body=None, want=200):
        status, data = self.http(method, path, body)
        assert status == want, (method, path, status, data)
        return json.loads(data) if data else None

    def fails(self, method, path, body, status, message):
        got, data = self.http(method, path, body)
        o = json.loads(data)
        assert got == status and o["status"] == status and o["error"].startswith(message), (got, data)
        return o

    def proxy(self, name, upstream, **more):
        p = self.ask("POST", "/proxies", {"name": name, "listen": "127.0.0.1:0", "upstream": "%s:%d" % upstream, **more}, 201)
        host, port = p["listen"].rsplit(":", 1)
        return host, int(port)

    def toxic(self, proxy, type, attributes=None, **more):
        return self.ask("POST", f"/proxies/{proxy}/toxics", {"type": type, "attributes": attributes or {}, **more})

    def plain_pid(self):
        return child_named(self.pid, "squall-plain")

    def done(self):
        self.proc.send_signal(signal.SIGTERM)
        assert self.wait() == 0, self.proc.returncode
        assert not os.path.exists(self.dir)


def client(at, timeout=10):
    s = socket.create_connection(at, timeout)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def echo(s, data=b"hello"):
    s.sendall(data)
    got = b""
    while len(got) < len(data):
        b = s.recv(65536)
        if not b:
            break
        got += b
    return got


def refused(at):
    try:
        client(at).close()
        return False
    except ConnectionRefusedError:
        return True


def proxies(run_dir):
    host, srv = Host(run_dir), echo_server()
    up = "%s:%d" % srv.addr
    status, data = host.http("GET", "/version")
    assert (status, data) == (200, b'{"version": "2.12.0"}\n') and host.headers["Content-Type"] == "application/json;charset=utf-8"
    assert host.headers["X-Toxiproxy-Request-Id"]
    assert host.ask("GET", "/proxies") == {}
    made = host.ask("POST", "/proxies", {"name": "a", "listen": "localhost:0", "upstream": up}, 201)
    assert made["listen"].startswith("127.0.0.1:") and not made["listen"].endswith(":0"), made
    assert made == {"name": "a", "listen": made["listen"], "upstream": up, "enabled": True, "toxics": []}, made
    assert host.ask("GET", "/proxies") == {"a": made} and host.ask("GET", "/proxies/a") == made
    at = ("127.0.0.1", int(made["listen"].rsplit(":", 1)[1]))
    s = client(at)
    assert echo(s) == b"hello"
    # Down, and its connections with it; up again on the same port.
    assert host.ask("POST", "/proxies/a", {"enabled": False})["enabled"] is False
    assert s.recv(1) == b"" and refused(at)
    assert host.ask("PATCH", "/proxies/a", {"enabled": True}) == made
    assert echo(client(at)) == b"hello"
    # The same address, written otherwise, changes nothing.
    s = client(at)
    assert host.ask("POST", "/proxies/a", {"listen": f"localhost:{at[1]}"}) == made and echo(s) == b"hello"
    # Another upstream does.
    other = echo_server()
    got = host.ask("POST", "/proxies/a", {"upstream": "%s:%d" % other.addr})
    assert got["upstream"] == "%s:%d" % other.addr and got["listen"] == made["listen"] and s.recv(1) == b"", got
    assert echo(client(at)) == b"hello" and other.accepted == 1
    off = host.ask("POST", "/proxies", {"name": "off", "upstream": up, "enabled": False, "listen": "127.0.0.1:1"}, 201)
    assert off["enabled"] is False and off["listen"] == "127.0.0.1:1", off
    assert host.ask("DELETE", "/proxies/a", None, 204) is None and refused(at)
    assert set(host.ask("GET", "/proxies")) == {"off"}
    host.done()


def errors(run_dir):
    host, srv = Host(run_dir), echo_server()
    up = "%s:%d" % srv.addr
    at = host.proxy("a", srv.addr)
    for method, path in (("GET", "/proxies/x"), ("POST", "/proxies/x"), ("PATCH", "/proxies/x"), ("DELETE", "/proxies/x"),
                         ("GET", "/proxies/x/toxics"), ("POST", "/proxies/x/toxics"), ("DELETE", "/proxies/x/toxics/y")):
        assert host.fails(method, path, "{}", 404, "proxy not found")["error"] == "proxy not found"
    for method in ("GET", "POST", "PATCH", "DELETE"):
        host.fails(method, "/proxies/a/toxics/y", "{}", 404, "toxic not found")
    for body in ("", "{", "[]", '"x"', '{"name":1}', '{"name":"b","upstream":"x:1","enabled":"yes"}'):
        host.fails("POST", "/proxies", body, 400, "bad request body: ")
    host.fails("POST", "/proxies", {"upstream": up}, 400, "missing required field: name")
    host.fails("POST", "/proxies", {"name": "b"}, 400, "missing required field: upstream")
    host.fails("POST", "/proxies", {"name": "a", "upstream": up}, 409, "proxy already exists")
    host.fails("POST", "/proxies", {"name": "b", "listen": "%s:%d" % at, "upstream": up}, 500, "listen tcp")
    host.fails("POST", "/proxies", {"name": "b", "listen": "192.0.2.1:80", "upstream": up}, 500, "listen tcp")
    assert set(host.ask("GET", "/proxies")) == {"a"}
    host.fails("POST", "/proxies/a/toxics", {"type": "nothing"}, 400, "invalid toxic type")
    host.fails("POST", "/proxies/a/toxics", {"type": "latency", "stream": "left"}, 400, "stream was invalid, can be either upstream or downstream")
    host.fails("POST", "/proxies/a/toxics", {"type": "latency", "attributes": {"latency": "1"}}, 400, "bad request body: ")
    host.fails("POST", "/proxies/a/toxics", {"type": "latency", "attributes": {"latency": 1.5}}, 400, "bad request body: ")
    host.toxic("a", "latency")
    host.fails("POST", "/proxies/a/toxics", {"type": "latency"}, 409, "toxic already exists")
    for body, at_ in (([{"upstream": up}], "name at proxy 1"), ([{"name": "q", "upstream": up}, {"name": "r"}], "upstream at proxy 2")):
        assert host.fails("POST", "/populate", body, 400, "missing required field: " + at_)["proxies"] is None
    assert host.http("GET", "/nope") == (404, b"404 page not found\n") and host.http("GET", "/metrics")[0] == 404
    assert host.http("PUT", "/proxies")[0] == 405 and host.http("GET", "/reset")[0] == 405
    assert host.http("GET", "/version", agent="Mozilla/5.0") == (403, b"User agent not allowed\n")
    status, data = host.http("POST", "/populate", b"[" + b" " * (2 << 20) + b"]")
    assert status == 413, (status, data)
    host.done()


def toxics(run_dir):
    """The fields of toxics: defaults, updates that leave alone what they do not say, order, names."""
    host, srv = Host(run_dir), echo_server()
    host.proxy("a", srv.addr)
    defaults = {"latency": {"latency": 0, "jitter": 0}, "bandwidth": {"rate": 0}, "slow_close": {"delay": 0},
                "timeout": {"timeout": 0}, "reset_peer": {"timeout": 0}, "limit_data": {"bytes": 0}, "noop": {},
                "slicer": {"average_size": 0, "size_variation": 0, "delay": 0}, "packet_loss": {"loss_rate": 0.1, "correlation": 0}}
    for type, attributes in defaults.items():
        want = {"attributes": attributes, "name": type + "_downstream", "type": type, "stream": "downstream", "toxicity": 1}
        assert host.toxic("a", type) == want
        assert host.ask("GET", f"/proxies/a/toxics/{type}_downstream") == want
    up = host.toxic("a", "latency", {"latency": 7, "jitter": 3}, stream="UPSTREAM", toxicity=0.5, name="mine")
    assert up == {"attributes": {"latency": 7, "jitter": 3}, "name": "mine", "type": "latency", "stream": "upstream", "toxicity": 0.5}
    all = host.ask("GET", "/proxies/a/toxics")
    assert all[0] == up and [x["type"] for x in all[1:]] == list(defaults), all
    assert host.ask("GET", "/proxies/a")["toxics"] == all
    got = host.ask("POST", "/proxies/a/toxics/mine", {"attributes": {"jitter": 1}, "name": "other", "stream": "downstream"})
    assert got == dict(up, attributes={"latency": 7, "jitter": 1}), got
    assert host.ask("PATCH", "/proxies/a/toxics/mine", {"toxicity": 1.0})["toxicity"] == 1
    assert host.ask("DELETE", "/proxies/a/toxics/mine", None, 204) is None
    host.ask("POST", "/proxies/a", {"enabled": False})
    host.toxic("a", "latency", name="asleep")
    assert host.ask("POST", "/reset", None, 204) is None
    got = host.ask("GET", "/proxies/a")
    assert got["enabled"] and got["toxics"] == [], got
    for i in range(16):
        host.toxic("a", "noop", name=f"n{i}")
    host.fails("POST", "/proxies/a/toxics", {"type": "noop", "name": "n16"}, 500, "the proxy has 16 toxics")
    host.done()


def effects(run_dir):
    """What each toxic does to bytes."""
    host, srv = Host(run_dir), echo_server()
    at = host.proxy("a", srv.addr)
    path = "/proxies/a/toxics/"

    def timed(f):
        t = time.monotonic()
        f()
        return time.monotonic() - t

    s = client(at)
    host.toxic("a", "latency", {"latency": 300}, stream="upstream")
    assert timed(lambda: echo(s)) >= 0.3
    host.ask("DELETE", path + "latency_upstream", None, 204)
    host.toxic("a", "bandwidth", {"rate": 1000})
    assert 0.98 <= timed(lambda: echo(s, b"x" * 1000000)) < 3
    host.ask("POST", path + "bandwidth_downstream", {"attributes": {"rate": 100000}})
    assert timed(lambda: echo(s, b"x" * 3000000)) < 2.5
    host.ask("POST", "/reset", None, 204)
    host.toxic("a", "slicer", {"average_size": 1000, "delay": 2000})
    assert timed(lambda: echo(s, b"x" * 200000)) >= 0.39
    host.ask("POST", "/reset", None, 204)
    host.toxic("a", "limit_data", {"bytes": 1000})
    s = client(at)
    assert len(echo(s, b"x" * 5000)) == 1000
    host.ask("POST", "/reset", None, 204)
    host.toxic("a", "slow_close", {"delay": 400})
    s = client(at)
    assert echo(s) == b"hello"
    s.shutdown(socket.SHUT_WR)
    assert timed(lambda: s.recv(1)) >= 0.35
    host.ask("POST", "/reset", None, 204)
    host.toxic("a", "timeout", {"timeout": 400})
    s = client(at)
    assert timed(lambda: echo(s)) >= 0.35
    host.ask("POST", "/reset", None, 204)
    host.toxic("a", "timeout")  # never by itself: at its end
    s = client(at, 0.5)
    try:
        echo(s)
        raise AssertionError("something came")
    except socket.timeout:
        pass
    host.ask("DELETE", path + "timeout_downstream", None, 204)
    s.settimeout(5)
    assert s.recv(1) == b""
    host.toxic("a", "reset_peer", {"timeout": 200})
    s = client(at)
    s.sendall(b"x")
    assert timed(lambda: reset_within(s, 5)) >= 0.19
    s = client(at)
    s.sendall(b"x")
    assert reset_within(s, 5)
    host.ask("POST", "/reset", None, 204)
    host.toxic("a", "packet_loss", {"loss_rate": 1.0})
    s = client(at, 0.5)
    try:
        echo(s)
        raise AssertionError("something came")
    except socket.timeout:
        pass
    host.ask("POST", "/reset", None, 204)
    s.settimeout(5)
    assert echo(s) == b"hello"
    # At toxicity 0 nothing happens to anybody, not even when connections end.
    host.toxic("a", "reset_peer", {"timeout": 0}, toxicity=0)
    for _ in range(20):
        s = client(at)
        assert echo(s) == b"hello"
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b""
    host.done()


def hit(at, n=60):
    """Which of n connections a reset_peer hits."""
    out = []
    for _ in range(n):
        s = client(at)
        try:
            out.append(echo(s) != b"hello")
        except ConnectionResetError:
            out.append(True)
        s.close()
    return out


def seed(run_dir):
    """The same seed hits the same connections, another one others."""
    srv = echo_server()
    seen = []
    for i, number in enumerate(("42", "42", "43")):
        host = Host(run_dir, "--toxiproxy-seed", number, name=f"t-{os.getpid():x}-{i}")
        at = host.proxy("a", srv.addr)
        host.toxic("a", "reset_peer", toxicity=0.5)
        seen.append(hit(at))
        host.done()
    assert seen[0] == seen[1] and seen[0] != seen[2] and 10 <= sum(seen[0]) <= 50, seen


def populate(run_dir):
    host, srv, other = Host(run_dir), echo_server(), echo_server()
    up = "%s:%d" % srv.addr
    at = host.proxy("a", srv.addr)
    s = client(at)
    assert echo(s) == b"hello"
    host.toxic("a", "latency", {"latency": 1})
    got = host.ask("POST", "/populate", [{"name": "a", "listen": "%s:%d" % at, "upstream": up},
                                         {"name": "b", "listen": "127.0.0.1:0", "upstream": up, "enabled": False}], 201)["proxies"]
    assert [p["name"] for p in got] == ["a", "b"] and len(got[0]["toxics"]) == 1 and not got[1]["enabled"], got
    assert echo(s) == b"hello"  # as it was
    host.ask("POST", "/populate", [{"name": "a", "listen": "%s:%d" % at, "upstream": "%s:%d" % other.addr}], 201)
    assert s.recv(1) == b"" and echo(client(at)) == b"hello" and other.accepted == 1
    assert host.ask("GET", "/proxies/a")["toxics"] == []
    assert host.ask("POST", "/populate", [], 201) == {"proxies": None}
    got = host.fails("POST", "/populate", [{"name": "c", "listen": "127.0.0.1:0", "upstream": up},
                                           {"name": "d", "listen": "%s:%d" % at, "upstream": up}], 500, "listen tcp")
    assert [p["name"] for p in got["proxies"]] == ["c"] and set(host.ask("GET", "/proxies")) == {"a", "b", "c"}, got
    host.done()


def config(run_dir):
    srv = echo_server()
    path = os.path.join(run_dir, "toxiproxy.json")
    with open(path, "w") as f:
        json.dump([{"name": "web", "listen": "[::1]:0", "upstream": "%s:%d" % srv.addr, "enabled": True}], f)
    host = Host(run_dir, "--toxiproxy-config", path, "--toxiproxy-metrics")
    p = host.ask("GET", "/proxies")["web"]
    assert p["listen"].startswith("[::1]:"), p
    assert echo(client(("::1", int(p["listen"].rsplit(":", 1)[1])))) == b"hello"
    status, data = host.http("GET", "/metrics")
    want = 'toxiproxy_proxy_sent_bytes_total{direction="upstream",listener="%s",proxy="web",upstream="%s:%d"} 5' % (p["listen"], *srv.addr)
    assert status == 200 and want.encode() in data, data
    host.done()
    with open(path, "w") as f:
        f.write('[{"name": "web"}]')
    got = subprocess.run([SQUALLD, "--dir", os.path.join(run_dir, "t-x"), "--toxiproxy", "127.0.0.1:0", "--toxiproxy-config", path],
                         env=dict(os.environ, SQUALL_RUN_DIR=run_dir), capture_output=True, text=True, timeout=20)
    assert got.returncode == 2 and "missing required field: upstream at proxy 1" in got.stderr, got
    for wrong in (["--toxiproxy-seed", "1"], ["--toxiproxy", "nowhere"], ["--toxiproxy", "127.0.0.1:0", "--private"],
                  ["--toxiproxy", "127.0.0.1:0", "--toxiproxy-seed", "x"]):
        got = subprocess.run([SQUALLD, "--dir", os.path.join(run_dir, "t-x"), *wrong], env=dict(os.environ, SQUALL_RUN_DIR=run_dir),
                             capture_output=True, text=True, timeout=20)
        assert got.returncode == 2 and "--toxiproxy" in got.stderr, (wrong, got)


def under_load(run_dir):
    """Toxics come and go while bytes run through twenty connections: nobody waits for anybody, nothing is lost."""
    host, srv = Host(run_dir), echo_server()
    at = host.proxy("a", srv.addr)
    stop, wrong, rounds = threading.Event(), [], [0] * 20

    def work(i):
        s = client(at)
        data = os.urandom(50000)
        while not stop.is_set():
            if echo(s, data) != data:
                wrong.append(i)
                return
            rounds[i] += 1
    threads = [threading.Thread(target=work, args=(i,)) for i in range(20)]
    for t in threads:
        t.start()
    slowest = 0
    for i in range(100):
        t0 = time.monotonic()
        host.toxic("a", "latency", {"latency": 5, "jitter": 5}, name="l", stream="upstream" if i % 2 else "downstream")
        host.toxic("a", "slicer", {"average_size": 5000, "size_variation": 100, "delay": 10}, name="s")
        host.ask("DELETE", "/proxies/a/toxics/l", None, 204)
        host.ask("DELETE", "/proxies/a/toxics/s", None, 204)
        slowest = max(slowest, time.monotonic() - t0)
    stop.set()
    for t in threads:
        t.join(20)
    assert not wrong and all(rounds) and not any(t.is_alive() for t in threads), (wrong, rounds)
    assert slowest < 5, slowest
    host.done()


def deaths(run_dir):
    """The process that carries connections dies: another one takes over, with all proxies and toxics. squalld dies: it
    ends, and all ports are free."""
    host, srv = Host(run_dir), echo_server()
    at = host.proxy("a", srv.addr)
    host.toxic("a", "latency", {"latency": 200})
    s = client(at)
    assert echo(s) == b"hello"
    pid = host.plain_pid()
    os.kill(pid, signal.SIGKILL)
    try:
        assert s.recv(1) == b""
    except ConnectionResetError:
        pass
    t = time.monotonic()
    assert echo(client(at)) == b"hello" and time.monotonic() - t >= 0.2
    again = host.plain_pid()
    assert again != pid
    s = client(at)
    assert echo(s) == b"hello"
    os.kill(host.pid, signal.SIGKILL)
    try:
        assert s.recv(1) == b""
    except ConnectionResetError:
        pass
    until("nobody listens", lambda: refused(at))
    until("the process is gone", lambda: not alive(again), 10)
    assert host.wait(20) == 5, host.proc.returncode


def names(run_dir):
    """Names are decoded as they come in a path; an upstream that is a name is looked up; one that is none is closed."""
    host, srv = Host(run_dir), echo_server()
    host.proxy("two words", ("localhost", srv.addr[1]))
    p = host.ask("GET", "/proxies/two%20words")
    assert p["name"] == "two words"
    assert echo(client(("127.0.0.1", int(p["listen"].rsplit(":", 1)[1])))) == b"hello"
    host.ask("DELETE", "/proxies/two%20words", None, 204)
    at = host.proxy("none", ("no-such-host.invalid", 80))
    assert client(at, 20).recv(1) == b""
    host.done()


def ended(test):
    def wrapped(run_dir):
        try:
            test(run_dir)
        finally:
            while Host.all:
                host = Host.all.pop()
                if host.proc.poll() is None:
                    host.end()
    wrapped.__name__ = test.__name__
    return wrapped


injector_lib.main([ended(t) for t in (proxies, errors, toxics, effects, seed, populate, config, under_load, deaths, names)])
