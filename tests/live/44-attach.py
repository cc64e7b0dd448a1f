#!/usr/bin/env python3
"""Callers that ran before: taken with their children, by themselves alone, and given back the moment anything dies."""
import os
import signal
import subprocess
import sys
import time

from attach_lib import Attached, Program, hooks
from injector_lib import alive, until
from intercept_lib import Dependency, main


def passes(run_dir):
    with Dependency() as dep:
        prog = Program(run_dir)
        other = Program(run_dir, "other")
        rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{dep.port}"])
        assert rig.taken["instances"][0]["pid"] == prog.pid and rig.answer["mode"] == "bpf", (rig.taken, rig.answer)
        assert rig.answer["existing"] == {"policy": "leave", "found": 0, "reset": 0, "left": 0}, rig.answer
        r = prog.do(f"result = attempt({dep.port})")
        assert r["body"] == "real" and r["peer"] == ["127.0.0.1", dep.port], r
        assert other.do(f"result = attempt({dep.port})")["body"] == "real"
        until("the call is counted", lambda: len(rig.calls()) == 1)
        f = rig.fault("call/error", {"errno": "EHOSTUNREACH"})
        assert prog.do(f"result = attempt({dep.port})")["err"] == 113
        assert other.do(f"result = attempt({dep.port})")["body"] == "real"
        rig.clear(f)
        assert prog.do(f"result = attempt({dep.port})")["body"] == "real"
        prog.end()
        other.end()
        rig.end()


if os.geteuid() != 0:
    print("skipped: the calls of programs that run already are for root")
    sys.exit(0)
main([passes])
