#!/usr/bin/env python3
"""squalld, its keeper and its leases: whoever is killed or stopped, no process stays stopped."""
import os
import signal
import stat
import subprocess
import time

from injector_lib import SQUALLD, Injector, Victim, alive, main, state, until


def api(run_dir):
    inj = Injector(run_dir)
    assert stat.S_IMODE(os.stat(inj.socket).st_mode) in (0o600, 0o660)
    assert inj.locked()
    assert inj.get("info")["private"] is True
    checks = {c["name"]: c for c in inj.get("doctor")["checks"]}
    names = set(checks)
    if os.geteuid() == 0 and os.uname().machine == "x86_64":
        for name in "attach", "attach-filtered":
            assert checks[name]["ok"] or checks[name]["why"], checks[name]
    else:
        assert not checks["attach"]["ok"] and checks["attach"]["why"], checks["attach"]
    assert {"process/pause", "call/latency", "network/latency", "root", "cgroup2", "keeper"} <= names, names
    for method, path, raw, want in [
        ("GET", "nope", None, 404), ("DELETE", "info", None, 404), ("GET", "runs/r9/events", None, 404),
        ("POST", "runs", '{"lease":"1ms"}', 400), ("POST", "runs", "[1", 400), ("POST", "runs", "[]", 400),
        ("POST", "runs", '{"seed":1,"seed":2}', 400), ("POST", "runs", '{"lease":true}', 400),
        ("POST", "runs", "x" * (2 << 20), 400), ("GET", "x" * 9000, None, 400), ("GET", "%00", None, 404),
    ]:
        status, body = inj.call(method, path, raw=raw)
        assert status == want and body["error"]["message"], (method, path[:20], status, body)
    run = inj.run()
    status, body = inj.call("POST", f"runs/{run}/faults", {"uses": "process/paus", "target": {"pid": 1}})
    assert status == 400 and "process/pause" in body["error"]["hint"], body
    status, body = inj.call("POST", f"runs/{run}/faults", {"uses": "process/pause", "target": {"pid": 4000000}})
    assert status == 404, (status, body)
    assert inj.get(f"runs/{run}/snapshot")["journal"] == 0
    assert inj.post(f"runs/{run}/renew")["expires_in_ns"] == 10 * 10**9
    assert inj.delete(f"runs/{run}") == {"clean": True, "left": []}
    assert inj.call("POST", f"runs/{run}/renew")[0] == 404
    inj.post("quit")
    assert inj.wait() == 0
    assert not os.path.exists(inj.dir)


def fault_by_request(run_dir):
    inj = Injector(run_dir)
    with Victim() as v:
        run = inj.run()
        plan = inj.post(f"runs/{run}/plan", {"uses": "process/pause", "target": {"pid": v.pid}})
        assert plan["hit"][0]["pid"] == v.pid and state(v.pid) == "S", plan
        fault = inj.pause(run, v.pid)
        snap = inj.get(f"runs/{run}/snapshot")
        assert snap["journal"] == 1 and snap["faults"][0]["fault"] == fault, snap
        assert [s["pid"] for s in snap["stopped"]] == [v.pid], snap
        gone = inj.delete(f"runs/{run}/faults/{fault}")
        assert gone["clean"] and gone["left"] == [] and state(v.pid) == "S", gone
        assert inj.call("DELETE", f"runs/{run}/faults/{fault}")[0] == 404
        inj.pause(run, v.pid)
        assert inj.delete(f"runs/{run}")["clean"] and state(v.pid) == "S"
        events = inj.get(f"runs/{run}/events?after=0")
        got = [(e["state"], e.get("by")) for e in events["events"] if e["type"] == "fault"]
        assert got == [("applied", "request"), ("reverted", "request")] * 2, got
        assert inj.get(f"runs/{run}/events?after={events['next']}")["events"] == []
        assert inj.get("snapshot")["journal"] == 0
    inj.post("quit")
    assert inj.wait() == 0


def lease(run_dir):
    inj = Injector(run_dir)
    with Victim() as v:
        run = inj.run(lease="1s")
        inj.pause(run, v.pid)
        for _ in range(8):  # renewed, it lives on
            time.sleep(0.25)
            inj.post(f"runs/{run}/renew")
        assert state(v.pid) == "T"
        took = until("the lease's end lets it go", lambda: state(v.pid) == "S", 3)
        assert took > 0.5, took
        assert inj.wait() == 0  # a private injector has nothing more to do
        assert not os.path.exists(inj.dir)


def halt(run_dir):
    inj = Injector(run_dir)
    with Victim() as v, Victim() as w:
        for x in (v, w):
            inj.pause(inj.run(), x.pid)
        got = inj.post("halt")
        assert got == {"runs": 2, "faults": 2, "clean": True, "left": []}, got
        assert state(v.pid) == state(w.pid) == "S"
    inj.end()


def hit(inj, pid, sig, limit, status):
    """Signal squalld or its keeper in the middle of a fault: it must be taken back, and all of it must leave."""
    with Victim() as v:
        inj.pause(inj.run(lease="5s"), v.pid)
        os.kill(pid, sig)
        until(f"the process goes on after signal {sig}", lambda: state(v.pid) == "S", limit)
    got = inj.wait()
    assert got == status, got
    until("squalld is gone", lambda: not alive(inj.pid), 12)


def squalld_killed(run_dir):
    inj = Injector(run_dir)
    hit(inj, inj.pid, signal.SIGKILL, 1, 5)
    assert not os.path.exists(inj.dir)


def squalld_stopped(run_dir):
    inj = Injector(run_dir)
    hit(inj, inj.pid, signal.SIGSTOP, 4, 5)
    assert not os.path.exists(inj.dir)


def squalld_terminated(run_dir):
    inj = Injector(run_dir)
    hit(inj, inj.pid, signal.SIGTERM, 1, 0)
    assert not os.path.exists(inj.dir)


def keeper_terminated(run_dir):
    inj = Injector(run_dir)
    hit(inj, inj.keeper, signal.SIGTERM, 1, 0)
    assert not os.path.exists(inj.dir)


def keeper_killed(run_dir):
    inj = Injector(run_dir)
    hit(inj, inj.keeper, signal.SIGKILL, 1, -9)


def keeper_stopped(run_dir):
    inj = Injector(run_dir)
    hit(inj, inj.keeper, signal.SIGSTOP, 4, -9)


def both_killed(run_dir):
    inj = Injector(run_dir)
    with Victim() as v, Victim() as already:
        inj.pause(inj.run(), v.pid)
        os.kill(inj.keeper, signal.SIGSTOP)
        os.kill(inj.pid, signal.SIGKILL)
        os.kill(inj.keeper, signal.SIGKILL)
        inj.wait()
        time.sleep(0.3)
        assert state(v.pid) == "T"  # nobody is left to let it go, but a record
        other = subprocess.run([SQUALLD, "sweep"], env=dict(os.environ, SQUALL_RUN_DIR=run_dir), timeout=20,
                               stdout=subprocess.PIPE, text=True)
        assert other.returncode == 0 and "process/pause" in other.stdout, other
        until("the sweep let it go", lambda: state(v.pid) == "S", 1)
        assert not os.path.exists(inj.dir)
        assert alive(already.pid)


def sweep_spares_the_living(run_dir):
    inj = Injector(run_dir)
    with Victim() as v:
        inj.pause(inj.run(), v.pid)
        got = subprocess.run([SQUALLD, "sweep"], env=dict(os.environ, SQUALL_RUN_DIR=run_dir), timeout=20)
        assert got.returncode == 0
        assert state(v.pid) == "T" and inj.get("info")
        inj.post("halt")
    inj.end()


def only_one_for_the_host(run_dir):
    inj = Injector(run_dir, "squalld", private=False)
    env = dict(os.environ, SQUALL_RUN_DIR=run_dir)
    got = subprocess.run([SQUALLD], env=env, timeout=10, stderr=subprocess.PIPE, text=True)
    assert got.returncode == 5 and "already" in got.stderr, got
    assert inj.call("POST", "quit")[0] == 403
    inj.end()
    assert inj.proc.returncode == 0


def usage(run_dir):
    env = dict(os.environ, SQUALL_RUN_DIR=run_dir)
    for args, want in [(["--help"], 0), (["--version"], 0), (["--nope"], 2), (["nope"], 2), (["--dir", "x"], 2)]:
        got = subprocess.run([SQUALLD] + args, env=env, timeout=10, capture_output=True)
        assert got.returncode == want, (args, got)
    assert os.listdir(run_dir) == []


main([usage, api, fault_by_request, lease, halt, squalld_killed, squalld_stopped, squalld_terminated, keeper_terminated,
      keeper_killed, keeper_stopped, both_killed, sweep_spares_the_living, only_one_for_the_host])
