#!/usr/bin/env python3
"""Interception by cgroup-BPF: calls pass, fail, wait and vanish as asked, and nothing of it outlives the proxy."""
import os
import signal
import socket
import subprocess
import sys
import time

from injector_lib import alive, until
from intercept_lib import Dependency, Rig, main


def passes(run_dir):
    with Dependency() as dep:
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="bpf")
        assert rig.answer["delays_connect"], rig.answer
        r = rig.do(f"result = attempt({dep.port}, prepare=lambda c: c.setsockopt(6, 1, 1))")
        assert r["err"] == 0 and r["body"] == "real" and r["nodelay"] == 1, r
        assert r["peer"] == ["127.0.0.1", dep.port], r
        until("the call is counted", lambda: len(rig.calls()) == 1)
        call = rig.calls()[0]
        assert call[1] == 0 and call[2] == 0 and call[3] == 200, call
        event = rig.events("calls")[0]
        assert event["edge"] == "app->dep" and event["instance"] == "app.0", event
        rig.end()


def errno(run_dir):
    with Dependency() as dep:
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="bpf")
        for name, number in (("ECONNREFUSED", 111), ("ETIMEDOUT", 110), ("EHOSTUNREACH", 113), ("ECONNRESET", 104)):
            f = rig.fault("call/error", {"errno": name})
            assert f["readback"]["errno"] == number and f["readback"]["kind"] == "error", f
            assert rig.do(f"result = attempt({dep.port})")["err"] == number
            assert rig.do(f"result = blocking({dep.port})")["err"] == number
            rig.clear(f)
            assert rig.do(f"result = attempt({dep.port})")["body"] == "real"
        until("the failed connects are counted", lambda: len([c for c in rig.calls() if c[1] == 1 and c[2] == 1]) == 8)
        assert {c[6] for c in rig.calls() if c[1] == 1} == {"f1", "f2", "f3", "f4"}, rig.calls()
        status, body = rig.inj.call("POST", f"runs/{rig.id}/faults", {
            "uses": "call/error", "target": {"edge": "app->dep"}, "with": {"errno": "EINTR"}})
        assert status == 400, body
        status, body = rig.inj.call("POST", f"runs/{rig.id}/faults", {
            "uses": "call/error", "target": {"edge": "app->nothing"}})
        assert status == 404 and "app->nothing" in body["error"]["message"], body
        rig.end()


def percent(run_dir):
    with Dependency() as dep:
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="bpf")
        rig.fault("call/error", percent="30%")
        n = rig.do(f"result = sum(attempt({dep.port}, ask=False)['err'] == 111 for _ in range(1000))")
        assert 230 <= n <= 370, n  # 30 % of 1,000: more than 4.8 standard deviations off happens once in a million
        hit = rig.do(f"result = sum(attempt({dep.port})['err'] != 0 for _ in range(400))")
        # A connect and its first request share one draw: with two it would be 51 %.
        assert 80 <= hit <= 165, hit
        rig.end()


def latency(run_dir):
    with Dependency() as dep:
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="bpf")
        plan = rig.inj.post(f"runs/{rig.id}/plan", {"uses": "call/latency", "target": {"edge": "app->dep"},
                                                    "with": {"delay": "200ms"}})
        assert plan["hit"] == [{"edge": "app->dep", "mode": "bpf", "instances": ["app.0"], "delays_connect": True}], plan
        f = rig.fault("call/latency", {"delay": "200ms"})
        assert f["readback"]["delay"] == 200 * 10**6, f
        r = rig.do(f"result = attempt({dep.port})")
        assert r["body"] == "real" and 190 < r["ms"] < 400, r
        r = rig.do(f"result = attempt({dep.port}, prepare=lambda c: c.setsockopt(1, 25, b'lo'))")  # bound to a device
        assert r["body"] == "real" and r["ms"] > 190, r
        r = rig.do(f"result = attempt({dep.port}, timeout=0.1)")
        assert r["err"] == 110 and r["ms"] < 190, r  # the caller's own timeout fires
        status, got = rig.inj.call("PATCH", f"runs/{rig.id}/faults/{f['fault']}", {"with": {"delay": "20ms"}})
        assert status == 200 and got["readback"]["delay"] == 20 * 10**6, got
        assert rig.do(f"result = attempt({dep.port})")["ms"] < 150
        rig.clear(f)
        r = rig.do(f"result = attempt({dep.port})")
        assert r["ms"] < 100 and r["body"] == "real", r
        rig.end()


def blackhole(run_dir):
    with Dependency() as dep:
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="bpf")
        f = rig.fault("call/blackhole")
        r = rig.do(f"result = attempt({dep.port}, timeout=0.3)")
        assert r["err"] == 110 and r["ms"] >= 290, r
        r = rig.do(f"result = blocking({dep.port}, timeout=0.3)")
        assert r["err"] == 115, r
        rig.clear(f)
        assert rig.do(f"result = attempt({dep.port})")["body"] == "real"
        rig.end()


def instance(run_dir):
    with Dependency() as dep:
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="bpf", instances=2)
        one = os.path.join(run_dir, "agent-%d.sock")
        until("the callers listen", lambda: all(os.path.exists(one % i) for i in (0, 1)))
        time.sleep(0.1)
        f = rig.fault("call/error", instance=1)
        assert f["hit"][0]["instances"] == ["app.1"], f
        rig.control = one % 0
        assert rig.do(f"result = attempt({dep.port})")["body"] == "real"
        rig.control = one % 1
        assert rig.do(f"result = attempt({dep.port})")["err"] == 111
        rig.clear(f)
        assert rig.do(f"result = attempt({dep.port})")["body"] == "real"
        rig.end()


def families(run_dir):
    with Dependency() as dep, Dependency(socket.AF_INET6, "::1") as dep6:
        rig = Rig(run_dir, [f"127.0.0.0/8:{dep.port}", f"[::1]:{dep6.port}"], mode="bpf")
        mapped = f'result = attempt({dep.port}, host="::ffff:127.0.0.1", family=socket.AF_INET6)'
        v6 = f'result = attempt({dep6.port}, host="::1", family=socket.AF_INET6)'
        only = (f'result = attempt({dep6.port}, host="::1", family=socket.AF_INET6,'
                ' prepare=lambda c: c.setsockopt(41, 26, 1))')
        udp = f'u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); result = u.connect_ex(("127.0.0.1", {dep.port}))'
        device = f'result = attempt({dep.port}, prepare=lambda c: c.setsockopt(1, 25, b"lo"))'
        r = rig.do(mapped)
        assert r["body"] == "real" and r["peer"] == ["::ffff:127.0.0.1", dep.port], r
        r = rig.do(v6)
        assert r["body"] == "real" and r["peer"] == ["::1", dep6.port], r
        until("both are counted", lambda: len(rig.calls()) == 2)
        assert rig.do(only)["body"] == "real"
        until("that of one that can speak IPv6 only, too", lambda: len(rig.calls()) == 3)
        assert not rig.events("warning"), rig.events("warning")
        assert rig.do(device)["body"] == "real"
        rig.fault("call/error", {"errno": "EHOSTUNREACH"})
        for code in (mapped, v6, only, device):
            assert rig.do(code)["err"] == 113, code
        assert rig.do(udp) == 0
        other = rig.do(f'l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(); result = attempt(l.getsockname()[1], ask=False)')
        assert other["err"] == 0, other
        rig.end()


def programs(run_dir):
    """curl and Node.js, which nobody here wrote, as callers."""
    with Dependency() as dep:
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="bpf")
        curl = (f'p = subprocess.run(["curl", "-sS", "-m", "5", "http://127.0.0.1:{dep.port}/"], capture_output=True, text=True);'
                ' result = [p.returncode, p.stdout]')
        js = (f"fetch('http://127.0.0.1:{dep.port}/').then(r => r.text()).then(t => console.log(t),"
              " e => console.log(e.cause.code))")
        node = f'p = subprocess.run(["node", "-e", {js!r}], capture_output=True, text=True); result = p.stdout.strip()'
        assert rig.do(curl) == [0, "real"], rig.do(curl)
        assert rig.do(node) == "real"
        f = rig.fault("call/error")
        assert rig.do(curl)[0] == 7
        assert rig.do(node) == "ECONNREFUSED"
        rig.clear(f)
        assert rig.do(curl) == [0, "real"]
        rig.end()


def mixed(run_dir):
    """An edge with a TCP and a Unix destination: BPF takes the one, seccomp the other, one rule hits both."""
    path = os.path.join(run_dir, "dep.sock")
    with Dependency() as dep, Dependency(socket.AF_UNIX, path=path):
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}", f"unix:{path}"], mode="bpf")
        local = (f"c = socket.socket(socket.AF_UNIX); result = c.connect_ex({path!r})\n"
                 "if not result: c.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); result = c.recv(99)[:4].decode()")
        assert rig.do(f"result = attempt({dep.port})")["body"] == "real"
        assert rig.do(local) == "HTTP"
        until("both are counted", lambda: len(rig.calls()) == 2)
        f = rig.fault("call/error", {"errno": "ETIMEDOUT"})
        assert rig.do(f"result = attempt({dep.port})")["err"] == 110
        assert rig.do(local) == 110
        rig.clear(f)
        assert rig.do(f"result = attempt({dep.port})")["body"] == "real"
        assert rig.do(local) == "HTTP"
        until("both failures are counted", lambda: len([c for c in rig.calls() if c[1:3] == [1, 1]]) == 2)
        rig.end()


def again(run_dir):
    """A proxy that died takes its run with it, not the injector: the next run has another one."""
    with Dependency() as dep:
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="bpf")
        os.kill(rig.proxy_pid(), signal.SIGKILL)
        until("its death is told", lambda: any(e["state"] == "died" for e in rig.events("proxy")))
        assert rig.inj.delete(f"runs/{rig.id}")["clean"]
        os.unlink(rig.control)
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="bpf", injector=rig.inj)
        f = rig.fault("call/error")
        assert rig.do(f"result = attempt({dep.port})")["err"] == 111
        rig.clear(f)
        assert rig.do(f"result = attempt({dep.port})")["body"] == "real"
        until("it is counted", lambda: len(rig.calls()) == 2)
        rig.end()


def proxy_dies(run_dir):
    with Dependency() as dep:
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="bpf")
        f = rig.fault("call/blackhole")
        assert rig.do(f"result = attempt({dep.port}, timeout=0.2)")["err"] == 110
        pid = rig.proxy_pid()
        assert open(f"/proc/{pid}/status").read().split("Uid:")[1].split()[0] == "65534"
        assert os.getsid(pid) == pid
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
        r = rig.do(f"result = attempt({dep.port})")
        assert r["body"] == "real" and r["peer"] == ["127.0.0.1", dep.port], r
        until("its death is told", lambda: any(e["state"] == "died" for e in rig.events("proxy")))
        assert any("SIGKILL" in e["text"] for e in rig.events("warning")), rig.events("warning")
        r = rig.inj.call("POST", f"runs/{rig.id}/faults", {"uses": "call/error", "target": {"edge": "app->dep"}})
        assert r[0] >= 400 and "proxy" in r[1]["error"]["message"], r
        assert not alive(pid)
        rig.clear(f)
        rig.end()


def injector_dies(run_dir):
    """squalld and its keeper killed: the proxy passes everything on, and new calls go direct."""
    with Dependency() as dep:
        rig = Rig(run_dir, [f"127.0.0.1:{dep.port}"], mode="bpf")
        rig.fault("call/error")
        pid = rig.proxy_pid()
        with open(f"/proc/{rig.pid}/stat") as f:
            assert f.read()
        os.kill(rig.inj.keeper, signal.SIGKILL)
        os.kill(rig.inj.pid, signal.SIGKILL)
        time.sleep(0.2)
        try:
            r = rig.do(f"result = attempt({dep.port})")
            assert r["body"] == "real", r
        finally:
            subprocess.run([os.path.join(os.environ.get("SQUALL_BUILD", "build"), "squalld"), "sweep"],
                           env=dict(os.environ, SQUALL_RUN_DIR=run_dir), check=False, capture_output=True)
        until("the proxy leaves", lambda: not alive(pid))


if os.geteuid() != 0:
    print("skipped: cgroup-BPF needs root")
    sys.exit(0)
main([passes, errno, percent, latency, blackhole, instance, families, programs, mixed, again, proxy_dies, injector_dies])
