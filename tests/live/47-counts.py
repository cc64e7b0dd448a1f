#!/usr/bin/env python3
"""Faults that count (first, every, after): exactly those calls are hit, whoever decides: the connect hook, the supervisor
or the proxy, over one connection or many, with many processes at once."""
import os
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from injector_lib import until
from intercept_lib import NO_BPF, Dependency, Rig, Without, main


# What the caller runs beside the agent's own attempt().
CALLER = r"""
import threading
class Client:
    # One kept connection; told of a reset it opens another one, but does not try again.
    def __init__(self): self.c = None
    def get(self, timeout=10.0):
        t0 = time.monotonic()
        try:
            if not self.c:
                self.c = socket.create_connection(("127.0.0.1", PORT), timeout)
            self.c.settimeout(timeout)
            self.c.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            got = b""
            while not got.endswith(b"real"):
                b = self.c.recv(4096)
                if not b: raise ConnectionResetError(104, "end")
                got += b
            return [0, (time.monotonic() - t0) * 1000]
        except socket.timeout:
            err = 110
        except OSError as x:
            err = x.errno or -1
        if self.c: self.c.close()
        self.c = None
        return [err, (time.monotonic() - t0) * 1000]
def connects(n):
    return [attempt(PORT, ask=False)["err"] for _ in range(n)]
def many(processes, threads, each, fn):
    # Results of all threads of all processes, each a list.
    pipes = []
    for _ in range(processes):
        r, w = os.pipe()
        if os.fork() == 0:
            out = []
            ts = [threading.Thread(target=lambda: out.append(fn(each))) for _ in range(threads)]
            [t.start() for t in ts]; [t.join() for t in ts]
            with os.fdopen(w, "w") as f: f.write(json.dumps([x for o in out for x in o]))
            os._exit(0)
        os.close(w); pipes.append(r)
    got = []
    for r in pipes:
        with os.fdopen(r) as f: got += json.loads(f.read())
        os.wait()
    return got
def kept(n):
    c = Client()
    return [c.get() for _ in range(n)]
"""


class Place:
    """A rig in one mode, over a dependency."""

    def __init__(self, run_dir, mode, dep, **kw):
        os.chmod(run_dir, 0o755)
        inj = Without(run_dir, NO_BPF) if mode == "seccomp" else None
        self.rig = Rig(run_dir, [f"127.0.0.1:{dep}"], mode=mode, injector=inj, **kw)
        self.port = dep

    def do(self, code, timeout=60):
        return self.rig.do(f"PORT = {self.port}\n{CALLER}\n{code}", timeout)

    def hits(self, fault):
        return sum(c[6] == fault["fault"] for c in self.rig.calls())

    def marked(self, code, n):
        """Run it: N calls, one after the other. Which faults their records name, and what the caller saw."""
        before = len(self.rig.calls())
        got = self.do(code)
        until("the calls are in the evidence", lambda: len(self.rig.calls()) >= before + n)
        calls = sorted(self.rig.calls()[before:])  # by their start: a delayed one ends late
        assert len(calls) == n, calls
        return [c[6] for c in calls], got

    def end_of(self, fault):
        self.rig.clear(fault)
        return [e for e in self.rig.events("fault") if e["fault"] == fault["fault"] and e["state"] == "reverted"][0]


def both(test):
    def by(mode):
        def run(run_dir):
            test(run_dir, mode)
        run.__name__ = f"{test.__name__}_{mode}"
        return run
    return [by("bpf"), by("seccomp")]


def connects_fail_by_number(run_dir, mode):
    R = 111
    with Dependency() as dep:
        p = Place(run_dir, mode, dep.port)
        for target, n, want in (({"first": 3}, 10, [R] * 3 + [0] * 7),
                                ({"every": 2}, 10, [0, R] * 5),
                                ({"after": 5}, 8, [0] * 5 + [R] * 3),
                                ({"after": 2, "every": 3, "first": 2}, 13, [0] * 4 + [R] + [0] * 2 + [R] + [0] * 5),
                                ({"first": 1}, 4, [R, 0, 0, 0])):
            f = p.rig.fault("call/error", {"errno": "ECONNREFUSED"}, **target)
            assert {k: f["readback"][k] for k in target} == target, f
            assert f["hit"][0]["counts"], f
            got = p.do(f"result = connects({n})")
            assert got == want, (target, got)
            until("the hits are in the evidence", lambda: p.hits(f) == want.count(R))
            end = p.end_of(f)
            assert end["seen"] == n and end["hits"] == want.count(R), end
        # A share first, then the count: of the calls that percent draws.
        f = p.rig.fault("call/error", percent="50%", first=5)
        assert p.do("result = connects(100)").count(R) == 5
        end = p.end_of(f)
        assert end["hits"] == 5 and 20 <= end["seen"] <= 80, end
        for bad in ({"first": 0}, {"every": 0}, {"after": -1}, {"first": 2000000000}):
            status, body = p.rig.inj.call("POST", f"runs/{p.rig.id}/faults",
                                          {"uses": "call/error", "target": {"edge": "app->dep", **bad}})
            assert status == 400 and list(bad)[0] in body["error"]["message"], (bad, status, body)
        p.rig.end()


def exact_under_many_at_once(run_dir, mode):
    with Dependency() as dep:
        p = Place(run_dir, mode, dep.port)
        for target, want in (({"first": 100}, 100), ({"every": 3}, 200), ({"after": 250, "every": 7}, 50)):
            f = p.rig.fault("call/error", **target)
            got = p.do("result = many(4, 3, 50, connects)")
            assert len(got) == 600 and got.count(111) == want and got.count(0) == 600 - want, (target, len(got), got.count(111))
            end = p.end_of(f)
            assert end["seen"] == 600 and end["hits"] == want, end
        # Requests over kept connections and connects take their tickets from the same counter.
        f = p.rig.fault("call/error", first=40)
        got = p.do("result = many(2, 4, 30, kept)")
        assert len(got) == 240 and sum(e != 0 for e, _ in got) == 40, got
        until("the hits are in the evidence", lambda: p.hits(f) == 40)
        end = p.end_of(f)
        assert end["seen"] == 240 and end["hits"] == 40, end
        p.rig.end()


def requests_of_a_kept_connection(run_dir, mode):
    with Dependency() as dep:
        p = Place(run_dir, mode, dep.port)
        f = p.rig.fault("call/latency", {"delay": "150ms"}, every=2)
        marks, got = p.marked("result = kept(9)", 9)
        assert marks == ["", f["fault"]] * 4 + [""] and all(e == 0 for e, _ in got), (marks, got)
        assert all(ms >= 145 for _, ms in got[1::2]), (marks, got)
        end = p.end_of(f)
        assert end["seen"] == 9 and end["hits"] == 4, end
        # The very first one is its connect's: held once, counted once. Others of the same edge count for themselves.
        f, g = (p.rig.fault("call/latency", {"delay": d}, **t) for d, t in (("150ms", {"first": 1}), ("100ms", {"after": 2})))
        marks, got = p.marked("result = kept(4)", 4)
        assert marks == [f["fault"], "", g["fault"], g["fault"]], marks
        assert got[0][1] >= 295 and min(got[2][1], got[3][1]) >= 95, got  # the connect is held, and the answer
        assert [p.end_of(x)["hits"] for x in (f, g)] == [1, 2]
        # New parameters do not begin to count anew.
        f = p.rig.fault("call/latency", {"delay": "150ms"}, first=3)
        assert p.marked("result = kept(2)", 2)[0] == [f["fault"]] * 2
        status, got = p.rig.inj.call("PATCH", f"runs/{p.rig.id}/faults/{f['fault']}", {"with": {"delay": "200ms"}})
        assert status == 200 and got["readback"]["first"] == 3, got
        assert p.marked("result = kept(4)", 4)[0] == [f["fault"], "", "", ""]
        end = p.end_of(f)
        assert end["seen"] == 6 and end["hits"] == 3, end
        p.rig.end()


def one_retry_is_enough(run_dir, mode):
    """The first attempt fails exactly once: by an errno, by a black hole, by a reset of the connection."""
    with Dependency() as dep:
        p = Place(run_dir, mode, dep.port)
        retry = "def tries():\n    for i in range(5):\n        e, ms = Client().get(0.7)\n        if e == 0: return i\n"
        for uses, with_ in (("call/error", {}), ("call/blackhole", {}), ("call/reset", {})):
            f = p.rig.fault(uses, with_, first=1)
            assert p.do(retry + "result = [tries() for _ in range(3)]") == [1, 0, 0], uses
            end = p.end_of(f)
            assert end["hits"] == 1 and end["seen"] == 4, (uses, end)
        # In an open connection, too: the third request of it fails, and one more connection is enough.
        f = p.rig.fault("call/error", first=1, after=2)
        got = p.do("result = kept(5)")
        assert [e != 0 for e, _ in got] == [False, False, True, False, False], got
        assert p.end_of(f)["hits"] == 1
        p.rig.end()


def connections_that_are_not_http(run_dir, mode):
    """Counted one by one: latency holds every second one, a limit on bytes cuts off the second and the third."""
    srv = socket.create_server(("127.0.0.1", 0), backlog=64)

    def serve():
        while True:
            c, _ = srv.accept()
            threading.Thread(target=echo, args=(c,), daemon=True).start()

    def echo(c):
        try:
            while b := c.recv(4096):
                c.sendall(b)
        except OSError:
            pass
        c.close()

    threading.Thread(target=serve, daemon=True).start()
    p = Place(run_dir, mode, srv.getsockname()[1], protocol="tcp")
    talk = ("def talk():\n    c = socket.create_connection(('127.0.0.1', PORT), 10)\n    t0 = time.monotonic(); n = 0\n"
            "    try:\n        for _ in range(3):\n            c.sendall(b'ping'); b = c.recv(100); n += len(b)\n"
            "            if not b: break\n    except OSError: pass\n"  # it sends to one that was cut off
            "    c.close(); return [n, (time.monotonic() - t0) * 1000]\n")
    f = p.rig.fault("call/latency", {"delay": "60ms"}, every=2)
    marks, got = p.marked(talk + "result = [talk() for _ in range(6)]", 6)
    assert marks == ["", f["fault"]] * 3 and all(n == 12 for n, _ in got), (marks, got)
    assert all(ms >= 175 for _, ms in got[1::2]), got
    end = p.end_of(f)
    assert end["seen"] == 6 and end["hits"] == 3, end
    # All have ended: an open one would be the first to count.
    f = p.rig.fault("call/limit_data", {"bytes": 6, "stream": "downstream"}, after=1, first=2)
    got = p.do(talk + "result = [talk()[0] for _ in range(5)]")
    assert got == [12, 6, 6, 12, 12], got
    end = p.end_of(f)
    assert end["seen"] == 5 and end["hits"] == 2 and end["acts"] == 2, end
    p.rig.end()
    srv.close()


def each_instance_for_itself(run_dir, mode):
    with Dependency() as dep:
        p = Place(run_dir, mode, dep.port, instances=2)
        controls = [os.path.join(run_dir, f"agent-{i}.sock") for i in range(2)]
        until("the callers listen", lambda: all(os.path.exists(c) for c in controls))
        time.sleep(0.1)
        f = p.rig.fault("call/error", first=2)
        for p.rig.control in controls:
            assert p.do("result = connects(4)") == [111, 111, 0, 0]
        end = p.end_of(f)
        assert end["seen"] == 8 and end["hits"] == 4, end
        p.rig.end()


main(sum((both(t) for t in (connects_fail_by_number, exact_under_many_at_once, requests_of_a_kept_connection,
                            one_retry_is_enough, connections_that_are_not_http, each_instance_for_itself)), []))
