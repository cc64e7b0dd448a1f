#!/usr/bin/env python3
"""Whom an edge takes: host names whose addresses change while the run goes on, port ranges, exceptions, edges that overlap,
several Unix sockets; by BPF and by seccomp alike."""
import os
import socket
import sys
import time

from injector_lib import until
from intercept_lib import Dependency, Rig, Without, main

# /etc/hosts of its own, so that names mean what the test says; without BPF also no cgroup2 to attach to.
HOSTS = "mount --bind {hosts} /etc/hosts && "
NO_BPF = "for m in $(awk '$3 == \"cgroup2\" {print $2}' /proc/mounts); do umount -l $m; done; "


def rig_for(run_dir, mode, to, hosts="", **kw):
    path = os.path.join(run_dir, "hosts")
    with open(path, "w") as f:
        f.write("127.0.0.1 localhost\n" + hosts)
    script = HOSTS.format(hosts=path) + (NO_BPF if mode == "seccomp" else "") + 'exec "$@"'
    return Rig(run_dir, to, mode=mode, injector=Without(run_dir, ["unshare", "-m", "sh", "-c", script, "sh"]), **kw)


def say(rig, text):
    with open(os.path.join(rig.run_dir, "hosts"), "w") as f:  # in place: it is mounted
        f.write("127.0.0.1 localhost\n" + text)


def free_port(*hosts):
    for _ in range(50):
        socks = [socket.socket() for _ in hosts]
        try:
            port = 0
            for s, host in zip(socks, hosts):
                s.bind((host, port))
                port = s.getsockname()[1]
            return port
        except OSError:
            continue
        finally:
            for s in socks:
                s.close()
    raise AssertionError("no port is free on all of " + " ".join(hosts))


def both(test):
    """The same test in both ways."""

    def bpf(run_dir):
        test(run_dir, "bpf")

    def seccomp(run_dir):
        test(run_dir, "seccomp")

    bpf.__name__ = test.__name__ + "_bpf"
    seccomp.__name__ = test.__name__ + "_seccomp"
    return [bpf, seccomp]


def errs(rig, *dests):
    """errno of a connect to each (host, port)."""
    return rig.do("result = [attempt(p, host=h, ask=False)['err'] for h, p in %r]" % (list(dests),))


def names(run_dir, mode):
    """A name's addresses change: the new one is taken within seconds, the old one stays; no call is lost or counted twice."""
    old, new, other = "127.46.0.1", "127.46.0.2", "127.46.0.3"
    port = free_port(old, new, other)
    with Dependency(host=old, port=port), Dependency(host=new, port=port), Dependency(host=other, port=port):
        rig = rig_for(run_dir, mode, [f"db.sqt:{port}"], f"{old} db.sqt\n")
        assert rig.answer["names"] == {"db.sqt": [old]}, rig.answer
        f = rig.fault("call/error")
        assert errs(rig, (old, port), (new, port), (other, port)) == [111, 0, 0]
        say(rig, f"{new} db.sqt\n")
        until("the change is told", lambda: rig.events("hosts"), 15)
        told = rig.events("hosts")[0]
        assert told["edge"] == "app->dep" and told["names"] == {"db.sqt": [new]} and told["addresses"] == 2, told
        assert errs(rig, (old, port), (new, port), (other, port)) == [111, 111, 0]
        rig.clear(f)
        n = 60
        say(rig, f"{other} db.sqt\n")
        got = rig.do(f"result = []\n"
                     f"for i in range({n}): result.append(attempt({port}, host='{old}')['body']); time.sleep(0.1)")
        assert got == ["real"] * n, got
        until("the second change is told", lambda: len(rig.events("hosts")) == 2, 10)
        until("every call is counted once", lambda: len([c for c in rig.calls() if c[1] == 0]) == n)
        time.sleep(0.3)
        assert len([c for c in rig.calls() if c[1] == 0]) == n
        assert len([c for c in rig.calls() if c[1:3] == [1, 1]]) == 3, rig.calls()  # those that the fault failed
        say(rig, "")
        until("a name without address is told", lambda: any("db.sqt" in e["text"] for e in rig.events("warning")), 15)
        f = rig.fault("call/error")
        assert errs(rig, (old, port), (new, port), (other, port)) == [111, 111, 111]
        rig.end()


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
main(both(names) + both(unresolvable) + both(exceptions) + [sockets])
