#!/usr/bin/env python3
"""Services, process/kill and process/pause of a real squalld: whole trees end, restarts come, the peer's rights decide."""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from injector_lib import Injector, SQUALLD, alive, state, until

NOBODY = 65534
ROOT = os.geteuid() == 0
# A first process that ignores SIGTERM, and a grandchild in another session whose parent is gone.
TREE = "trap '' TERM; setsid sh -c 'sleep 300 & echo $! > {f}'; while :; do echo x; sleep 0.1; done"


def pid_in(path):
    until(f"{path} holds a pid", lambda: os.path.exists(path) and open(path).read().endswith("\n"))
    return int(open(path).read())


def tree(inj, run, work, **more):
    path = tempfile.mktemp(dir=work)
    got = inj.post(f"runs/{run}/services", dict({"name": "t", "command": ["sh", "-c", TREE.format(f=path)]}, **more))
    inst = got["instances"][0]
    return inst, pid_in(path)


def events(inj, run, state_=None):
    got = inj.get(f"runs/{run}/events?after=0")["events"]
    return [e for e in got if e["type"] == "service" and state_ in (None, e["state"])]


def whole_tree(inj, work):
    run = inj.run()
    inst, grandchild = tree(inj, run, work)
    t0 = time.monotonic()
    inj.delete(f"runs/{run}/services/t")
    took = time.monotonic() - t0
    assert not alive(inst["pid"]) and not alive(grandchild)
    assert 2.5 < took < 6, took  # SIGTERM was ignored: 3 s, then SIGKILL
    assert not (inst["cgroup"] and os.path.exists(inst["cgroup"]))
    inj.delete(f"runs/{run}")


def restarts(inj, work):
    run = inj.run()
    got = inj.post(f"runs/{run}/services", {"name": "p", "command": ["sleep", "300"], "instances": 3, "restart": "always"})
    pids = {i["name"]: i["pid"] for i in got["instances"]}
    f = inj.post(f"runs/{run}/faults", {"uses": "process/kill", "target": {"service": "p", "count": 1}, "with": {"signal": "KILL"}})
    hit = [h for h in f["hit"] if h["chosen"]]
    assert len(f["hit"]) == 3 and len(hit) == 1, f
    victim = hit[0]["instance"]
    assert f["readback"]["processes"] == [{"pid": pids[victim], "state": "gone"}], f
    until("it is restarted", lambda: events(inj, run, "restarted"))
    now = {i["name"]: i for i in inj.get(f"runs/{run}/services")["instances"]}
    for name, pid in pids.items():
        assert (now[name]["pid"] != pid) == (name == victim), now
        assert now[name]["state"] == "running" and now[name]["restarts"] == (1 if name == victim else 0), now
    exited = events(inj, run, "exited")
    assert len(exited) == 1 and exited[0]["signal"] == 9 and exited[0]["exit"] is None, exited
    inj.delete(f"runs/{run}")

    run = inj.run()
    got = inj.post(f"runs/{run}/services", {"name": "p", "command": ["sleep", "300"], "restart": "after_fault"})
    f = inj.post(f"runs/{run}/faults", {"uses": "process/kill", "target": {"service": "p"}})
    time.sleep(0.5)
    assert not events(inj, run, "restarted")
    inj.delete(f"runs/{run}/faults/{f['fault']}")
    until("it is restarted after the fault", lambda: events(inj, run, "restarted"))
    inj.delete(f"runs/{run}")


def frozen(inst):
    if inst["cgroup"] and os.path.exists(inst["cgroup"]):
        return "frozen 1" in open(inst["cgroup"] + "/cgroup.events").read()
    return state(inst["pid"]) == "T"


def pauses(inj, work):
    run = inj.run()
    inst, grandchild = tree(inj, run, work)
    f = inj.post(f"runs/{run}/faults", {"uses": "process/pause", "target": {"service": "t"}})
    assert frozen(inst)
    assert inj.get(f"runs/{run}/services")["instances"][0]["state"] == "stopped"
    assert f["readback"]["processes"][0]["method"] == ("freezer" if inst["cgroup"] else "signal"), f
    inj.delete(f"runs/{run}/faults/{f['fault']}")
    assert not frozen(inst) and alive(inst["pid"])
    # Stopped by somebody else before: stays so.
    p = subprocess.Popen(["sleep", "300"])
    os.kill(p.pid, signal.SIGSTOP)
    until("it is stopped", lambda: state(p.pid) == "T")
    f = inj.post(f"runs/{run}/faults", {"uses": "process/pause", "target": {"pid": p.pid}})
    inj.delete(f"runs/{run}/faults/{f['fault']}")
    time.sleep(0.1)
    assert state(p.pid) == "T"
    p.kill()
    p.wait()
    inj.delete(f"runs/{run}")
    assert not alive(grandchild)


def refusals(inj, work):
    run = inj.run()
    status, got = inj.call("POST", f"runs/{run}/services", {"name": "x", "command": ["/no/such/program"]})
    assert status == 400 and "cannot execute /no/such/program: No such file or directory" in got["error"]["message"], got
    for target, want in (({}, 400), ({"pid": 1}, 400), ({"pid": inj.pid}, 400), ({"pid": inj.keeper}, 400),
                         ({"pattern": "no such [x]command line"}, 404), ({"service": "none"}, 404)):
        status, got = inj.call("POST", f"runs/{run}/faults", {"uses": "process/kill", "target": target})
        assert status == want, (target, status, got)
    status, got = inj.call("POST", f"runs/{run}/faults", {"uses": "process/kill", "target": {"pid": os.getpid()}, "with": {"signal": "STOP"}})
    assert status == 400 and "process/pause" in got["error"]["hint"], got
    inj.delete(f"runs/{run}")


def execs(inj, work):
    run = inj.run()
    got = inj.post(f"runs/{run}/exec", {"name": "mine"})
    args = [SQUALLD, "launch", "--connect", got["socket"], "--token", got["token"], "--"]
    out = subprocess.run(args + ["sh", "-c", "echo $SQUALL_INSTANCE; exit 9"], stdout=subprocess.PIPE, timeout=10)
    assert out.returncode == 9 and out.stdout.decode().startswith(f"{run}/mine."), out
    out = subprocess.run(args + ["true"], stderr=subprocess.PIPE, timeout=10)
    assert out.returncode == 126 and b"does not know this token" in out.stderr, out
    got = inj.post(f"runs/{run}/exec")
    args[3], args[5] = got["socket"], got["token"]
    mine = subprocess.Popen(args + ["sleep", "300"])
    until("it is started", lambda: any(e.get("exec") and e["pid"] == mine.pid for e in events(inj, run, "started")))
    inj.delete(f"runs/{run}")
    assert alive(mine.pid)  # a person's command
    if ROOT:
        assert "squall-" not in open(f"/proc/{mine.pid}/cgroup").read()
    mine.kill()
    mine.wait()
    args[3] = os.path.join(work, "nobody-listens.sock")
    out = subprocess.run(args + ["echo", "ran"], capture_output=True, timeout=10)
    assert out.returncode != 0 and out.stdout == b"" and b"no injector answers" in out.stderr, out


def as_peer(inj, calls):
    """Make API calls as nobody; their statuses and answers."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            own = subprocess.Popen(["sleep", "300"])
            out, run = [], ""
            for method, path, body in calls:
                body = json.loads(json.dumps(body).replace('"OWN"', str(own.pid)))
                status, got = inj.call(method, path.replace("RUN", run), body)
                run = got.get("run", run)
                out.append([status, got])
            own.kill()
            own.wait()
            os.write(w, json.dumps(out).encode())
        finally:
            os._exit(0)
    os.close(w)
    with os.fdopen(r) as f:
        out = json.loads(f.read())
    os.waitpid(pid, 0)
    return out


def peers_rights(inj, work):
    roots = subprocess.Popen(["sleep", "300"])
    os.chmod(inj.dir, 0o755)  # as if nobody were in the group of a host's injector
    os.chmod(inj.socket, 0o666)
    kill = {"uses": "process/kill", "target": {"pid": roots.pid}}
    got = as_peer(inj, [
        ("POST", "runs", {"name": "n"}),
        ("POST", "runs/RUN/faults", kill),
        ("POST", "runs/RUN/faults", dict(kill, uses="process/pause")),
        ("POST", "runs/RUN/faults", dict(kill, target={"pid": "OWN"})),
        ("POST", "runs/RUN/services", {"name": "id", "command": ["sh", "-c", "id; id -G; grep CapEff /proc/self/status; exit 3"]}),
        ("POST", "runs/RUN/services", {"name": "z", "command": ["cat", "/etc/shadow"], "restart": "never"}),
    ])
    assert [s for s, _ in got] == [201, 403, 403, 201, 201, 201], got
    assert str(roots.pid) in got[1][1]["error"]["message"], got[1]
    assert state(roots.pid) == "S"
    run = got[0][1]["run"]
    until("both ended", lambda: len(events(inj, run, "exited")) == 2)
    tails = {e["service"]: e["tail"] for e in events(inj, run, "exited")}
    assert "uid=65534" in tails["id"] and "\n65534\n" in tails["id"] and "CapEff:\t0000000000000000" in tails["id"], tails
    assert "Permission denied" in tails["z"], tails
    inj.delete(f"runs/{run}")
    roots.kill()
    roots.wait()


def killed_with_a_paused_tree(run_dir, work):
    inj = Injector(run_dir, "p-k")
    run = inj.run(lease="3s")
    inst, grandchild = tree(inj, run, work, restart="always")
    inj.post(f"runs/{run}/faults", {"uses": "process/pause", "target": {"service": "t"}})
    os.kill(inj.pid, signal.SIGKILL)
    until("the pause is over", lambda: not frozen(inst), 2)
    time.sleep(0.5)
    assert alive(inst["pid"])  # it goes on printing, though nobody reads it, until the lease ends
    until("the tree is gone", lambda: not alive(inst["pid"]) and not alive(grandchild))
    assert inj.wait() == 5
    assert not (inst["cgroup"] and os.path.exists(inst["cgroup"]))
    assert not os.path.exists(inj.dir)


def both_killed_then_swept(run_dir, work):
    inj = Injector(run_dir, "p-s")
    run = inj.run(lease="1h")
    inst, grandchild = tree(inj, run, work)
    os.kill(inj.keeper, signal.SIGKILL)
    os.kill(inj.pid, signal.SIGKILL)
    inj.wait()
    time.sleep(0.3)
    out = subprocess.run([SQUALLD, "sweep"], env=dict(os.environ, SQUALL_RUN_DIR=run_dir), capture_output=True, timeout=20)
    assert out.returncode == 0, out
    until("the tree is gone", lambda: not alive(inst["pid"]) and not alive(grandchild))
    assert not (inst["cgroup"] and os.path.exists(inst["cgroup"]))


def all_of_it():
    work = tempfile.mkdtemp(prefix="squall-20-")
    run_dir = os.path.join(work, "run")
    os.mkdir(run_dir, 0o755)
    os.chmod(work, 0o755)
    inj = Injector(run_dir)
    inj.run(lease="60s")  # a private injector without a run would leave
    try:
        steps = [whole_tree, restarts, pauses, refusals, execs] + ([peers_rights] if ROOT else [])
        for step in steps:
            t0 = time.monotonic()
            step(inj, work)
            print(f"{'root' if ROOT else 'user'}: {step.__name__} ({time.monotonic() - t0:.1f} s)", flush=True)
    finally:
        inj.end()
        try:
            inj.wait()
        except subprocess.TimeoutExpired:
            inj.proc.kill()
    for step in (killed_with_a_paused_tree, both_killed_then_swept):
        step(run_dir, work)
        print(f"{'root' if ROOT else 'user'}: {step.__name__}", flush=True)
    shutil.rmtree(work)


if __name__ == "__main__":
    all_of_it()
    if ROOT and len(sys.argv) == 1:  # and again as an ordinary user, where there are no cgroups for us
        shared = tempfile.mkdtemp(prefix="squall-20-bin-")
        os.chmod(shared, 0o755)
        shutil.copy(SQUALLD, shared)
        shutil.copy(os.path.abspath(__file__), shared)
        shutil.copy(os.path.join(os.path.dirname(os.path.abspath(__file__)), "injector_lib.py"), shared)
        env = dict(os.environ, SQUALL_BUILD=shared, HOME="/", TMPDIR="/tmp", PYTHONDONTWRITEBYTECODE="1")
        script = os.path.join(shared, os.path.basename(__file__))
        done = subprocess.run(["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "/usr/bin/python3", script, "again"],
                              env=env, cwd="/", timeout=50)
        shutil.rmtree(shared)
        sys.exit(done.returncode)
