#!/usr/bin/env python3
"""Whom an edge takes: port ranges, exceptions, edges that overlap, sockets that can speak IPv6 only, several Unix sockets; what
can't be taken is refused or told of. By BPF and by seccomp alike."""
import os
import socket
import sys

from destinations_lib import both, errs, free_port, rig_for
from injector_lib import until
from intercept_lib import Dependency, main


def unresolvable(run_dir, mode):
    rig = rig_for(run_dir, mode, ["127.0.0.1:1"])
    status, got = rig.inj.call("POST", f"runs/{rig.id}/edges", {"name": "app->x", "from": "app", "to": ["none.sqt.invalid:1"]})
    assert status == 404 and "none.sqt.invalid" in got["error"]["message"], got
    status, got = rig.inj.call("POST", f"runs/{rig.id}/edges",
                               {"name": "app->x", "from": "app", "to": ["127.0.0.1:2"], "except": ["none.sqt.invalid:1"]})
    assert status == 404, got
    plan = rig.inj.post(f"runs/{rig.id}/plan", {"edge": {"name": "app->x", "from": "app", "to": ["localhost:7-9"]}})
    assert "127.0.0.1" in plan["names"]["localhost"], plan
    status, got = rig.inj.call("POST", f"runs/{rig.id}/plan",
                               {"edge": {"name": "app->x", "from": "app", "to": ["none.sqt.invalid:1"]}})
    assert status == 404, got
    for to in (["127.0.0.1"], ["a b:1"], ["127.0.0.1:9-1"], []):
        assert rig.inj.call("POST", f"runs/{rig.id}/edges", {"name": "app->x", "from": "app", "to": to})[0] == 400, to
    many = [f"10.{i // 250}.{i % 250}.1:1" for i in range(257)]
    assert rig.inj.call("POST", f"runs/{rig.id}/edges", {"name": "app->x", "from": "app", "to": many})[0] == 400
    rig.end()


def exceptions(run_dir, mode):
    """Ranges, an excepted address, and a second edge that overlaps: the most specific one wins, and what one edge excepts
    may be another's."""
    a, b, c = "127.46.1.1", "127.46.1.2", "127.46.1.3"
    port = free_port(a, b, c)
    with Dependency(host=a, port=port), Dependency(host=b, port=port), Dependency(host=c, port=port):
        rig = rig_for(run_dir, mode, [f"127.46.1.0/24:{port - 3}-{port + 3}"], f"{b} spared.sqt\n",
                      more={"except": [f"spared.sqt:{port}", f"{c}:{port}"]})
        rig.inj.post(f"runs/{rig.id}/edges", {"name": "app->c", "from": "app", "to": [f"{c}:{port}"]})
        rig.inj.post(f"runs/{rig.id}/edges", {"name": "app->late", "from": "app", "to": [f"127.46.1.0/24:{port - 3}-{port + 3}"]})
        f = rig.fault("call/error", {"errno": "EHOSTUNREACH"})
        rig.inj.post(f"runs/{rig.id}/faults", {"uses": "call/error", "target": {"edge": "app->c"}, "with": {"errno": "ETIMEDOUT"}})
        assert errs(rig, (a, port), (b, port), (c, port)) == [113, 0, 110]
        rig.clear(f)
        assert errs(rig, (a, port), (b, port), (c, port)) == [0, 0, 110]
        until("the edges are told apart", lambda: {e["edge"] for e in rig.events("calls")} == {"app->dep", "app->c", "app->late"})
        rig.end()


def only_v6(run_dir, mode):
    """Sockets that can't reach a v4-mapped address: IPv6 only, or bound to an IPv6 address. Many at a time, each is led to
    its own destination; one that is bound to a device is told of."""
    with Dependency(socket.AF_INET6, "::1") as dep, Dependency(socket.AF_INET6, "::1") as other:
        rig = rig_for(run_dir, mode, [f"[::1]:{dep.port}", f"[::1]:{other.port}"])
        call = "attempt(%d, host='::1', family=socket.AF_INET6, prepare=lambda c: %s)"
        ways = ("c.setsockopt(41, 26, 1)", "c.bind(('::1', 0))", "(c.setsockopt(41, 26, 1), c.setsockopt(1, 25, b'lo'))")
        for n, way in enumerate(ways):
            r = rig.do("result = " + call % (dep.port, way))
            assert r["body"] == "real" and (mode == "seccomp" or r["peer"] == ["::1", dep.port]), (way, r)
            until("it is counted", lambda: len([c for c in rig.calls() if c[1] == 0]) == n + 1)
        got = rig.do("import threading\nresult = []\n"
                     "def one(p): result.append([p, %s['body']])\n"
                     "ts = [threading.Thread(target=one, args=(%d + i %% 2 * %d,)) for i in range(40)]\n"
                     "[t.start() for t in ts]; [t.join() for t in ts]"
                     % ((call % (0, ways[0])).replace("attempt(0", "attempt(p"), dep.port, other.port - dep.port))
        assert len(got) == 40 and all(body == "real" for _, body in got), got
        until("all are counted", lambda: len([c for c in rig.calls() if c[1] == 0]) == 43)
        assert (dep.requests, other.requests) == (23, 20), (dep.requests, other.requests)
        f = rig.fault("call/latency", {"delay": "200ms"})
        r = rig.do("result = " + call % (dep.port, ways[0]))
        assert r["body"] == "real" and 190 < r["ms"] < 1500, r
        rig.clear(f)
        f = rig.fault("call/error")
        assert [rig.do("result = " + call % (dep.port, way))["err"] for way in ways] == [111] * 3
        rig.clear(f)
        devices = [d for d in os.listdir("/sys/class/net") if d != "lo"]
        if devices:
            rig.do("result = " + call % (dep.port, "c.setsockopt(1, 25, %r)" % devices[0].encode()))
            until("the reason is told", lambda: any("bound to a device" in e["text"] for e in rig.events("warning")))
        assert len(rig.events("warning")) == (1 if devices else 0), rig.events("warning")
        rig.end()


def sockets(run_dir):
    """Several Unix sockets of one edge, each led to its own server."""
    paths = [os.path.join(run_dir, f"dep{i}.sock") for i in range(3)]
    deps = [Dependency(socket.AF_UNIX, path=p) for p in paths]
    rig = rig_for(run_dir, "seccomp", [f"unix:{p}" for p in paths[:2]])
    rig.inj.post(f"runs/{rig.id}/edges", {"name": "app->third", "from": "app", "to": [f"unix:{paths[2]}"]})
    local = ("result = []\nfor p in %r:\n c = socket.socket(socket.AF_UNIX); e = c.connect_ex(p)\n"
             " if not e: c.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); e = c.recv(99)[:4].decode()\n"
             " result.append(e); c.close()" % paths)
    # Edges of a caller that runs already have no stand-in for their sockets: that one goes direct.
    assert rig.do(local) == ["HTTP"] * 3
    assert [d.requests for d in deps] == [1, 1, 1], [d.requests for d in deps]
    until("two are counted", lambda: len(rig.calls()) == 2)
    f = rig.fault("call/error")
    assert rig.do(local) == [111, 111, "HTTP"]
    rig.clear(f)
    assert rig.do(local) == ["HTTP"] * 3
    assert [d.requests for d in deps] == [2, 2, 3], [d.requests for d in deps]
    rig.end()
    for d in deps:
        d.__exit__()


if os.geteuid() != 0:
    print("skipped: it needs root for a mount namespace")
    sys.exit(0)
main(both(unresolvable) + both(exceptions) + both(only_v6) + [sockets])
