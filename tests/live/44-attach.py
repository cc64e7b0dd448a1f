#!/usr/bin/env python3
"""Callers that ran before: taken with their children, by themselves alone, and given back the moment anything dies."""
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

from attach_lib import Attached, Own, Program, hooks_of, links_of
from injector_lib import alive, until
from intercept_lib import Dependency, main

CHILD = r"""
import os, sys
def child(control):
    # Forks a process that serves CONTROL as we do, and leaves it behind.
    if os.fork(): return
    os.setsid()
    os.execv(sys.executable, [sys.executable, sys.argv[0], control])
"""


def call(port):
    return f"result = attempt({port})"


def passes(run_dir):
    with Dependency() as dep, Program(run_dir) as prog, Program(run_dir, "other") as other:
        rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{dep.port}"])
        assert rig.taken["instances"] == [{"name": "app.0", "pid": prog.pid, "processes": 1,
                                           "cmd": rig.taken["instances"][0]["cmd"]}], rig.taken
        assert rig.answer["mode"] == "bpf" and rig.answer["delays_connect"], rig.answer
        assert rig.answer["existing"] == {"policy": "leave", "found": 0, "reset": 0, "left": 0}, rig.answer
        r = prog.do(call(dep.port))
        assert r["body"] == "real" and r["peer"] == ["127.0.0.1", dep.port], r
        assert other.do(call(dep.port))["body"] == "real"
        until("the call is counted", lambda: len(rig.calls()) == 1)
        event = rig.events("calls")[0]
        assert event["edge"] == "app->dep" and event["instance"] == "app.0", event
        listed = rig.inj.get(f"runs/{rig.id}/services")["instances"]
        assert [(i["name"], i["state"], i["pid"]) for i in listed] == [("app.0", "running", prog.pid)], listed
        f = rig.fault("call/error", {"errno": "EHOSTUNREACH"})
        assert prog.do(call(dep.port))["err"] == 113
        assert other.do(call(dep.port))["body"] == "real"
        rig.clear(f)
        assert prog.do(call(dep.port))["body"] == "real"
        assert len(hooks_of(rig)) >= 6, hooks_of(rig)
        rig.end()
        r = prog.do(call(dep.port))
        assert r["body"] == "real", r
        assert not hooks_of(rig), hooks_of(rig)


def faults(run_dir):
    """Each of them on the program; a bystander that does the same at the same time feels none."""
    with Dependency() as dep, Program(run_dir) as prog, Program(run_dir, "other") as other:
        rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{dep.port}"])

        def bystander():
            r = other.do(call(dep.port))
            assert r["body"] == "real" and r["peer"] == ["127.0.0.1", dep.port], r

        f = rig.fault("call/latency", {"delay": "300ms"})
        r = prog.do(call(dep.port))
        assert r["body"] == "real" and r["ms"] >= 290, r
        t0 = time.monotonic()
        quick = min(other.do(call(dep.port))["total_ms"] for _ in range(5))
        assert quick < 150, (quick, time.monotonic() - t0)
        rig.clear(f)
        f = rig.fault("call/blackhole")
        r = prog.do(f"result = attempt({dep.port}, timeout=0.4)")
        assert r["err"] == 110, r
        bystander()
        rig.clear(f)
        f = rig.fault("call/bandwidth", {"rate": "2kbps"})
        r = prog.do(f"result = attempt({dep.port}, timeout=20)")
        bystander()
        rig.clear(f)
        f = rig.fault("call/reset")
        assert prog.do(call(dep.port))["err"] == 104
        bystander()
        rig.clear(f)
        f = rig.fault("call/error", {"errno": "ETIMEDOUT"}, percent="30%")
        n = prog.do(f"result = sum(attempt({dep.port}, ask=False)['err'] == 110 for _ in range(500))")
        assert 100 <= n <= 205, n  # 4.9 standard deviations
        assert other.do(f"result = sum(attempt({dep.port}, ask=False)['err'] != 0 for _ in range(300))") == 0
        rig.clear(f)
        assert prog.do(call(dep.port))["body"] == "real"
        rig.end()


def children(run_dir):
    """Forked before, forked after, and the children of children."""
    with Dependency() as dep, Program(run_dir) as prog:
        before, after, deep = (os.path.join(run_dir, n) for n in ("before.sock", "after.sock", "deep.sock"))
        prog.do(CHILD + f"child({before!r})")
        with Own(before) as b:
            rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{dep.port}"])
            assert rig.taken["instances"][0]["processes"] == 2, rig.taken
            prog.do(CHILD + f"child({after!r})")
            with Own(after) as a:
                b.do(CHILD + f"child({deep!r})")
                with Own(deep) as d:
                    for who in (prog, b, a, d):
                        assert who.do(call(dep.port))["body"] == "real"
                    until("all four are counted", lambda: len(rig.calls()) == 4)
                    f = rig.fault("call/error")
                    for who in (prog, b, a, d):
                        assert who.do(call(dep.port))["err"] == 111
                        curl = who.do(f'p = subprocess.run(["curl", "-sS", "-m", "5", "http://127.0.0.1:{dep.port}/"],'
                                      ' capture_output=True); result = p.returncode')
                        assert curl == 7, curl
                    rig.clear(f)
                    # What it forks and does not wait for is followed, though its parent is gone.
                    os.kill(prog.pid, signal.SIGKILL)
                    prog.proc.wait()
                    until("its end is told", lambda: [e["state"] for e in rig.events("service")] == ["attached", "exited"])
                    assert rig.inj.get(f"runs/{rig.id}/services")["instances"][0]["processes"] == 3
                    rig.fault("call/error", {"errno": "EHOSTUNREACH"})
                    for who in (b, a, d):
                        assert who.do(call(dep.port))["err"] == 113
                    rig.end()
                    for who in (b, a, d):
                        assert who.do(call(dep.port))["body"] == "real"


def datagrams(run_dir):
    """UDP of a program that runs already; a bystander's is left alone, also while nobody's is wanted."""
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind(("127.0.0.1", 0))
    port = echo.getsockname()[1]

    def serve():
        while True:
            try:
                data, who = echo.recvfrom(2000)
            except OSError:
                return
            echo.sendto(data, who)

    threading.Thread(target=serve, daemon=True).start()
    ask = ("s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(%s); s.connect(('127.0.0.1', %d));"
           " s.send(b'x')\ntry: result = s.recv(9).decode()\nexcept OSError: result = ''")
    with Dependency() as dep, Program(run_dir) as prog, Program(run_dir, "other") as other:
        rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{dep.port}"])
        streams = len(links_of(rig.proxy_pid()))
        assert rig.declare("app->echo", [f"127.0.0.1:{port}"], protocol="udp")["mode"] == "bpf"
        until("datagrams have hooks of their own", lambda: len(links_of(rig.proxy_pid())) > streams)
        rig.hooks = links_of(rig.proxy_pid())
        assert prog.do(ask % (5, port)) == "x" and other.do(ask % (5, port)) == "x"
        rig.edge = "app->echo"
        f = rig.fault("call/loss", {"loss": "100%"})
        assert prog.do(ask % (0.5, port)) == ""
        assert other.do(ask % (5, port)) == "x"
        rig.clear(f)
        assert prog.do(ask % (5, port)) == "x"
        until("it is counted", lambda: any(e["edge"] == "app->echo" for e in rig.events("calls")))
        rig.end()
        assert prog.do(ask % (5, port)) == "x"
        assert not hooks_of(rig), hooks_of(rig)
    echo.close()


def threads(run_dir):
    """The first thread of a process ends before the others: those are the same process still."""
    late = r"""
import ctypes, json, threading
if os.fork() == 0:
    os.setsid()
    def rest():
        time.sleep(0.5)
        with open(PATH + ".new", "w") as f: f.write(json.dumps(attempt(PORT)["err"]))
        os.rename(PATH + ".new", PATH)
        os._exit(0)
    threading.Thread(target=rest).start()
    ctypes.CDLL(None).syscall(60, 0)  # exit(2): of this thread alone
"""
    with Dependency() as dep, Program(run_dir) as prog:
        rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{dep.port}"])
        rig.fault("call/error", {"errno": "EHOSTUNREACH"})
        path = os.path.join(run_dir, "late")
        prog.do(f"PATH, PORT = {path!r}, {dep.port}" + late)
        until("the thread has called", lambda: os.path.exists(path))
        with open(path) as f:
            assert f.read() == "113"
        rig.end()


def several(run_dir):
    """By pattern: each that matches is an instance, a fault can mean one of them; by port: who listens."""
    with Dependency() as dep, Program(run_dir, "one", arg="sqt-attach-%d" % os.getpid()) as one, \
            Program(run_dir, "two", arg="sqt-attach-%d" % os.getpid()) as two, Program(run_dir, "other") as other:
        rig = Attached(run_dir, {"pattern": "sqt-attach-%d$" % os.getpid()}, [f"127.0.0.1:{dep.port}"])
        first, second = sorted((one, two), key=lambda p: p.pid)
        assert [(i["name"], i["pid"]) for i in rig.taken["instances"]] == [("app.0", first.pid), ("app.1", second.pid)]
        f = rig.fault("call/error", instance=1)
        assert f["hit"][0]["instances"] == ["app.1"], f
        assert first.do(call(dep.port))["body"] == "real"
        assert second.do(call(dep.port))["err"] == 111
        assert other.do(call(dep.port))["body"] == "real"
        rig.clear(f)
        until("both are told apart", lambda: {e["instance"] for e in rig.events("calls")} == {"app.0", "app.1"})
        counted = rig.inj.get(f"runs/{rig.id}/edges")["edges"][0]["instances"]
        assert {i["instance"]: i["connects"] for i in counted} == {"app.0": 1, "app.1": 1}, counted
        status, body = rig.inj.call("POST", f"runs/{rig.id}/services", {"name": "more", "select": {"pid": one.pid}})
        assert status == 409 and "already" in body["error"]["message"], body
        port = other.do("l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(); keep.append(l);"
                        " result = l.getsockname()[1]")
        got = rig.inj.post(f"runs/{rig.id}/services", {"name": "web", "select": {"port": port}})
        assert [i["pid"] for i in got["instances"]] == [other.pid], got
        rig.declare("web->dep", [f"127.0.0.1:{dep.port}"], who="web")
        rig.edge = "web->dep"
        f = rig.fault("call/error", {"errno": "EHOSTUNREACH"})
        assert other.do(call(dep.port))["err"] == 113
        assert first.do(call(dep.port))["body"] == "real"
        assert rig.inj.delete(f"runs/{rig.id}/services/web")["clean"]
        assert other.do(call(dep.port))["body"] == "real"
        rig.end()


def refused(run_dir):
    """Nothing is touched by what is wrong."""
    with Dependency() as dep, Program(run_dir) as prog:
        rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{dep.port}"])
        taken = hooks_of(rig)

        def no(status, text, path, **body):
            got, answer = rig.inj.call("POST", f"runs/{rig.id}/{path}", body)
            assert got == status and text in answer["error"]["message"], (got, answer)

        no(404, "there is no process", "services", name="x", select={"pid": 4194303})
        no(404, "no process's command line", "services", name="x", select={"pattern": "there is nobody like this \\(\\)"})
        no(404, "nobody listens", "services", name="x", select={"port": 1})
        no(404, "no process runs in the systemd unit", "services", name="x", select={"unit": "sqt-none.service"})
        no(404, "there is no cgroup2", "services", name="x", select={"cgroup": "/sqt-none"})
        no(404, "no running container", "services", name="x", select={"container": "0123456789abcdef"})
        no(409, "holds Squall itself", "services", name="x", select={"cgroup": "/"})
        no(400, "no plain path", "services", name="x", select={"cgroup": "/.."})
        no(400, "no plain path", "services", name="x", select={"cgroup": "../cgroup"})
        no(400, "belongs to Squall", "services", name="x", select={"pid": rig.inj.pid})
        no(400, "exactly one", "services", name="x", select={"pid": 1, "port": 2})
        no(400, "exactly one", "services", name="x", select={})
        no(400, "nothing else", "services", name="x", select={"pid": prog.pid}, command=["x"])
        no(409, "already", "services", name="app", select={"pid": prog.pid})
        no(409, "already", "services", name="app", command=["sleep", "1"])
        no(501, "Unix socket", "edges", name="e", **{"from": "app"}, to=["unix:/run/x.sock"])
        no(400, "existing must be", "edges", name="e", **{"from": "app"}, to=["127.0.0.1:1"], existing="kill")
        no(400, "no connections yet", "edges", name="e", **{"from": "later"}, to=["127.0.0.1:1"], existing="reset")
        rig.inj.post(f"runs/{rig.id}/edges", {"name": "e", "from": "later", "to": ["127.0.0.1:1"]})
        no(409, "before its edges", "services", name="later", select={"pid": prog.pid})
        assert hooks_of(rig) == taken
        if shutil.which("setpriv"):
            code = ("import json, socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
                    f"b = json.dumps(dict(name='x', select=dict(pid={prog.pid})));"
                    f"s.sendall(('POST /v1/runs/{rig.id}/services HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: %d\\r\\n\\r\\n%s'"
                    " % (len(b), b)).encode()); print(s.recv(9999).decode())")
            os.chmod(run_dir, 0o755)
            os.chmod(rig.inj.dir, 0o755)
            os.chmod(rig.inj.socket, 0o666)
            got = subprocess.run(["setpriv", "--reuid", "65534", "--clear-groups", "/usr/bin/python3", "-c", code,
                                  rig.inj.socket], capture_output=True, text=True)
            assert " 403 " in got.stdout, got
        assert prog.do(call(dep.port))["body"] == "real"
        rig.end()


def deaths(run_dir):
    """kill -9 of squalld, of the proxy, of the keeper, of squalld and its keeper: calls go direct at once."""
    with Dependency() as dep, Program(run_dir) as prog:
        for n, names in enumerate((["squalld"], ["proxy"], ["keeper"], ["keeper", "squalld"])):
            where = os.path.join(run_dir, str(n))
            os.mkdir(where)
            rig = Attached(where, {"pid": prog.pid}, [f"127.0.0.1:{dep.port}"])
            rig.fault("call/error")
            assert prog.do(call(dep.port))["err"] == 111
            mine = {"squalld": rig.inj.pid, "proxy": rig.proxy_pid(), "keeper": rig.inj.keeper}
            for name in names:
                os.kill(mine[name], signal.SIGKILL)
            until(f"{names}: calls go direct", lambda: prog.do(call(dep.port))["body"] == "real", 2)
            if names != ["proxy"]:
                until(f"{names}: all leave", lambda: not any(alive(p) for p in mine.values()), 10)
            until(f"{names}: the hooks are gone", lambda: not hooks_of(rig), 5)
            child = prog.do(f'p = subprocess.run(["curl", "-sS", "-m", "5", "http://127.0.0.1:{dep.port}/"],'
                            ' capture_output=True, text=True); result = p.stdout')
            assert child == "real", child
            if names != ["proxy"]:
                rig.gone()
            else:
                rig.end()


if os.geteuid() != 0:
    print("skipped: the calls of programs that run already are for root")
    sys.exit(0)
main([passes, faults, children, datagrams, threads, several, refused, deaths])
