#!/usr/bin/env python3
"""Callers by systemd unit, cgroup and container: whoever is in it, now and later, also when it is made anew."""
import os
import signal
import sys

from attach_lib import Attached, Program, hooks_of
from injector_lib import alive, remove_cgroup, state, until
from intercept_lib import Dependency, main
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from squall import cgroup2

TOP = cgroup2()


class Cgroup:
    def __init__(self, name):
        self.name = f"sqt-attach-{os.getpid()}-{name}"
        if "/" in name or "docker" in name:
            self.name = name
        self.path = os.path.join(TOP, self.name)

    def make(self):
        os.makedirs(self.path, exist_ok=True)
        return self

    def remove(self):
        remove_cgroup(self.path)

    def __enter__(self):
        return self.make()

    def __exit__(self, *unused):
        self.remove()


def call(port):
    return f"result = attempt({port})"


def unit(run_dir):
    with Dependency() as dep, Cgroup("slice") as above, Cgroup(above.name + f"/sqt-{os.getpid()}@a.service") as group, \
            Cgroup(group.name + "/below") as below, Program(run_dir, "other") as other:
        with Program(run_dir, "first", group.path) as first:
            name = os.path.basename(group.path)
            rig = Attached(run_dir, {"unit": name[:-len(".service")]}, [f"127.0.0.1:{dep.port}"])
            one = rig.taken["instances"]
            assert len(one) == 1 and one[0]["name"] == "app.0" and one[0]["cgroup"] == group.path, one
            assert one[0]["processes"] == 1, one
            f = rig.fault("call/error")
            assert first.do(call(dep.port))["err"] == 111
            # Who comes later belongs to it, and who is below it.
            with Program(run_dir, "second", group.path) as second, Program(run_dir, "third", below.path) as third:
                assert second.do(call(dep.port))["err"] == 111
                assert third.do(call(dep.port))["err"] == 111
                assert other.do(call(dep.port))["body"] == "real"
                rig.clear(f)
                for p in (first, second, third):
                    assert p.do(call(dep.port))["body"] == "real"
                until("they are counted", lambda: len(rig.calls()) == 6)
                assert {e["instance"] for e in rig.events("calls")} == {"app.0"}
                pause = rig.inj.post(f"runs/{rig.id}/faults", {"uses": "process/pause",
                                                               "target": {"unit": name, "count": "all"}})
                assert {h["pid"] for h in pause["hit"]} == {first.pid, second.pid, third.pid}, pause
                assert [state(p.pid) for p in (first, second, third, other)] == ["T", "T", "T", state(other.pid)]
                rig.clear(pause)
                assert "T" not in [state(p.pid) for p in (first, second, third)]
        until("the unit's end is told", lambda: [e["state"] for e in rig.events("service")] == ["attached", "exited"])
        # Started again, in a cgroup that is another one by the same name.
        below.remove()
        group.remove()
        group.make()
        with Program(run_dir, "again", group.path) as again:
            until("it is taken again", lambda: "restarted" in [e["state"] for e in rig.events("service")])
            rig.fault("call/error", {"errno": "EHOSTUNREACH"})
            assert again.do(call(dep.port))["err"] == 113
            assert other.do(call(dep.port))["body"] == "real"
            rig.end()
            assert again.do(call(dep.port))["body"] == "real"


def container(run_dir):
    identity = "%064x" % (os.getpid() * 0x9E3779B97F4A7C15 << 100)
    with Dependency() as dep, Cgroup(f"docker-{identity[-64:]}.scope") as group, Program(run_dir, "other") as other, \
            Program(run_dir, "main", group.path) as first:
        rig = Attached(run_dir, {"container": identity[-64:][:20]}, [f"127.0.0.1:{dep.port}"], existing="reset")
        assert rig.taken["instances"][0]["cgroup"] == group.path, rig.taken
        rig.fault("call/error")
        assert first.do(call(dep.port))["err"] == 111
        assert other.do(call(dep.port))["body"] == "real"
        os.kill(rig.proxy_pid(), signal.SIGKILL)
        until("calls go direct", lambda: first.do(call(dep.port))["body"] == "real", 2)
        until("the hooks are gone", lambda: not hooks_of(rig))
        rig.end()


def path(run_dir):
    """By path; squalld and its keeper are killed together."""
    with Dependency() as dep, Cgroup("path") as group, Program(run_dir, "main", group.path) as first:
        rig = Attached(run_dir, {"cgroup": "/" + group.name}, [f"127.0.0.1:{dep.port}"])
        rig.fault("call/blackhole")
        assert first.do(f"result = attempt({dep.port}, timeout=0.3)")["err"] == 110
        status, body = rig.inj.call("POST", f"runs/{rig.id}/services", {"name": "b", "select": {"pid": first.pid}})
        assert status == 409 and "intercepted already" in body["error"]["message"], body
        assert rig.inj.get(f"runs/{rig.id}/services")["instances"][0]["state"] == "running"
        pid = rig.proxy_pid()
        for p in (rig.inj.keeper, rig.inj.pid):
            os.kill(p, signal.SIGKILL)
        until("calls go direct", lambda: first.do(call(dep.port))["body"] == "real", 3)
        until("the proxy leaves", lambda: not alive(pid))
        until("the hooks are gone", lambda: not hooks_of(rig))
        rig.gone()


if os.geteuid() != 0 or not TOP:
    print("skipped: the calls of programs that run already are for root, and need cgroup2")
    sys.exit(0)
main([unit, container, path])
