#!/usr/bin/env python3
"""Connections that a caller had before: counted, left alone, waited for, or reset, and no other one ever."""
import os
import socket
import sys
import threading
import time

from attach_lib import Attached, Program
from injector_lib import until
from intercept_lib import Dependency, main

TIMES = int(os.environ.get("TIMES", "6"))
OPEN = r"""
import threading
def opened(family, host, port):
    c = socket.socket(family)
    c.settimeout(10)
    c.connect((host, port))
    keep.append(c)
    return ask(c)
def ask(c):
    try:
        c.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        while b"real" not in got:
            b = c.recv(4096)
            if not b: return "end"
            got += b
        return "real"
    except OSError as x:
        return x.errno
"""


def held(prog, dep, host="127.0.0.1", family="AF_INET", n=1):
    for _ in range(n):
        assert prog.do(OPEN + f"result = opened(socket.{family}, {host!r}, {dep.port})") == "real"


def ask(prog, i):
    return prog.do(OPEN + f"result = ask(keep[{i}])")


def reset(run_dir):
    with Dependency() as dep, Dependency() as other_dep, Dependency(socket.AF_INET6, "::1") as dep6, \
            Program(run_dir) as prog, Program(run_dir, "other") as other:
        held(prog, dep, n=2)
        held(prog, dep, "::ffff:127.0.0.1", "AF_INET6")
        held(prog, dep6, "::1", "AF_INET6")
        held(prog, other_dep)
        held(other, dep, n=2)
        held(other, dep6, "::1", "AF_INET6")
        # One waits in recv(2), as a pool's reader does.
        prog.do(OPEN + f"opened(socket.AF_INET, '127.0.0.1', {dep.port}); keep[5].settimeout(None); global seen\n"
                "def wait(c):\n"
                "    try: keep.append(['end', c.recv(1)])\n"
                "    except OSError as x: keep.append(x.errno)\n"
                "threading.Thread(target=wait, args=(keep[5],), daemon=True).start()")
        to = [f"127.0.0.1:{dep.port}", f"[::1]:{dep6.port}"]
        rig = Attached(run_dir, {"pid": prog.pid}, to, existing="reset")
        assert rig.answer["existing"] == {"policy": "reset", "found": 5, "reset": 5, "left": 0}, rig.answer
        assert prog.do("time.sleep(0.2); result = keep[6]") == 104
        assert [ask(prog, i) for i in range(4)] == [104] * 4
        assert ask(prog, 4) == "real"
        assert [ask(other, i) for i in range(3)] == ["real"] * 3
        until("the dependency has heard of it", lambda: established(dep.port) == 4)  # both ends of the bystander's two
        # It connects again, through us.
        held(prog, dep)
        until("that is counted", lambda: len(rig.calls()) == 1)
        rig.fault("call/error")
        assert prog.do(f"result = attempt({dep.port})")["err"] == 111
        assert ask(prog, 4) == "real" and ask(other, 0) == "real"
        rig.end()


def established(port):
    """Ends of open connections to or from this port."""
    n = 0
    for name in ("tcp", "tcp6"):
        with open(f"/proc/net/{name}") as f:
            for line in f.readlines()[1:]:
                local, remote, state = line.split()[1:4]
                n += state == "01" and port in (int(local.split(":")[1], 16), int(remote.split(":")[1], 16))
    return n


def busy(run_dir):
    """Connections with traffic on them are reset, too; the traffic of others goes on."""
    loop = r"""
def work():
    c = keep[0]
    while True:
        r = ask(c)
        if r != "real":
            keep.append(r)
            return
threading.Thread(target=work, daemon=True).start()
"""
    inj = None
    for n in range(TIMES):
        with Dependency() as dep, Program(run_dir, f"prog{n}") as prog, Program(run_dir, f"other{n}") as other:
            for p in (prog, other):
                held(p, dep)
                p.do(OPEN + loop)
            rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{dep.port}"], existing="reset", injector=inj)
            inj = rig.inj
            assert rig.answer["existing"]["found"] == rig.answer["existing"]["reset"] == 1, rig.answer
            got = prog.do("time.sleep(0.1); result = keep[1]")
            assert got in (104, 32), got  # EPIPE: it was sending
            assert other.do("result = len(keep)") == 1
            assert inj.delete(f"runs/{rig.id}")["clean"]
    inj.post("quit")


def accepted(run_dir):
    """What it accepted from somebody at a port that the edge names is no call of its own."""
    with Program(run_dir) as prog, Program(run_dir, "client") as client:
        port = prog.do("l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(); keep.append(l); result = l.getsockname()[1]")
        mine = client.do(f"c = socket.create_connection(('127.0.0.1', {port})); keep.append(c); result = c.getsockname()[1]")
        prog.do("keep.append(keep[0].accept()[0])")
        rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{mine}-{mine}"], existing="reset")
        assert rig.answer["existing"]["found"] == 0, rig.answer
        client.do("keep[0].sendall(b'x')")
        assert prog.do("result = keep[1].recv(1).decode()") == "x"
        rig.end()


def wait(run_dir):
    with Dependency() as dep, Program(run_dir) as prog:
        held(prog, dep)
        rig = Attached(run_dir, {"pid": prog.pid}, ["127.0.0.1:1"], edge="app->none")
        timer = threading.Timer(2, lambda: prog.do("keep[0].close(); keep.clear()"))
        timer.start()
        t0 = time.monotonic()
        status, body = slow(rig, {"name": "app->dep", "from": "app", "to": [f"127.0.0.1:{dep.port}"], "existing": "wait"})
        took = time.monotonic() - t0
        assert status == 201, body
        assert body["existing"] == {"policy": "wait", "found": 1, "reset": 0, "left": 0}, body
        assert 1.5 < took < 9, took
        # One that never ends is an error; the edge is not there then, and what is open is whole.
        held(prog, dep)
        t0 = time.monotonic()
        with Dependency() as dep2:
            held(prog, dep2)
            status, body = slow(rig, {"name": "app->two", "from": "app", "to": [f"127.0.0.1:{dep2.port}"], "existing": "wait"})
            assert status == 409 and "1 connections from before are still open" in body["error"]["message"], body
            assert 9 < time.monotonic() - t0, time.monotonic() - t0
            assert ask(prog, 1) == "real"
            calls = len(rig.calls())
            assert prog.do(f"result = attempt({dep2.port})")["body"] == "real"
            time.sleep(0.3)
            assert len(rig.calls()) == calls
            # Nor is it there when its place is another caller's edge.
            with Program(run_dir, "other") as other:
                rig.inj.post(f"runs/{rig.id}/services", {"name": "web", "select": {"pid": other.pid}})
                rig.declare("web->none", ["127.0.0.1:1"], who="web")
                rig.edge = "web->none"
                f = rig.fault("call/error", {"errno": "EHOSTUNREACH"})
                assert prog.do(f"result = attempt({dep2.port})")["body"] == "real"
                rig.clear(f)
            # A run that ends meanwhile does not wait.
            answers = []
            t = threading.Thread(target=lambda: answers.append(slow(rig, {
                "name": "app->two", "from": "app", "to": [f"127.0.0.1:{dep2.port}"], "existing": "wait"})))
            t.start()
            time.sleep(0.5)
            rig.end()
            t.join(5)
            assert answers and answers[0][0] == 404, answers


def slow(rig, body):
    """As Injector.call, of what takes its time."""
    import json
    from injector_lib import Unix
    c = Unix(rig.inj.socket, timeout=30)
    try:
        c.request("POST", f"/v1/runs/{rig.id}/edges", json.dumps(body))
        r = c.getresponse()
        return r.status, json.loads(r.read())
    finally:
        c.close()


def leave(run_dir):
    with Dependency() as dep, Program(run_dir) as prog:
        held(prog, dep, n=2)
        rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{dep.port}"])
        assert rig.answer["existing"] == {"policy": "leave", "found": 2, "reset": 0, "left": 2}, rig.answer
        assert any("2 connections were open before" in e["text"] for e in rig.events("warning")), rig.events("warning")
        rig.fault("call/error")
        assert [ask(prog, i) for i in range(2)] == ["real"] * 2
        assert prog.do(f"result = attempt({dep.port})")["err"] == 111
        plan = rig.inj.post(f"runs/{rig.id}/plan", {"select": {"pid": os.getpid()}, "to": [f"127.0.0.1:{dep.port}"]})
        assert [h["pid"] for h in plan["hit"]] == [os.getpid()] and plan["connections"] == 2, plan
        assert plan["processes"] == 2, plan  # our child as well; not squalld, which is one, too
        rig.end()


if os.geteuid() != 0:
    print("skipped: the calls of programs that run already are for root")
    sys.exit(0)
main([reset, busy, accepted, wait, leave])
