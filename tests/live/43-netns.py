#!/usr/bin/env python3
"""Callers in another network namespace: taken there, and their dependencies reached as they would reach them."""
import os
import socket
import sys

from attach_lib import Attached, Own, Program
from injector_lib import alive, until
from intercept_lib import Dependency, Rig, main
from netns_lib import Net, enter, there, until_no_makers, makers


class Inside(Program):
    """A program in a namespace."""

    def __init__(self, run_dir, ns, name="prog"):
        self.ns = ns
        super().__init__(run_dir, name)

    def listens(self):
        return super().listens()


def program(run_dir, ns, name="prog"):
    return there(ns, lambda: Program(run_dir, name))


def call(port, host="127.0.0.1", **kw):
    more = "".join(f", {k}={v}" for k, v in kw.items())
    return f"result = attempt({port}, {host!r}{more})"


def passes(run_dir):
    """On its loopback, where this host has nobody; and across a veth."""
    with Net() as net, there(net.c, Dependency) as near, there(net.d, lambda: Dependency(host="10.99.0.2")) as far, \
            program(run_dir, net.c) as prog:
        rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{near.port}", f"10.99.0.2:{far.port}"])
        for dep, host in ((near, "127.0.0.1"), (far, "10.99.0.2")):
            r = prog.do(call(dep.port, host))
            assert r["body"] == "real" and r["peer"] == [host, dep.port], r
        until("both calls are counted", lambda: len(rig.calls()) == 2)
        assert not rig.events("warning"), rig.events("warning")
        assert len(makers(rig.inj.pid)) == 1
        f = rig.fault("call/latency", {"delay": "300ms"})
        r = prog.do(call(near.port))
        assert r["body"] == "real" and 290 <= r["ms"] < 1500, r
        r = prog.do(call(near.port, timeout=0.1))
        assert r["err"] == 110, r
        rig.clear(f)
        pid = rig.inj.pid
        assert rig.inj.delete(f"runs/{rig.id}")["clean"]
        until_no_makers(pid)
        assert prog.do(call(near.port))["body"] == "real"
        rig.inj.post("quit")
        assert rig.inj.wait() == 0


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("needs root")
        sys.exit(77)
    main([passes])
