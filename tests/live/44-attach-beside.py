#!/usr/bin/env python3
"""Two injectors on a host, one of which takes the calls of a program that runs already: what the other one says of the
host has none of it, and so its run stays clean."""
import os
import sys

from attach_lib import Attached, Program
from injector_lib import Injector
from intercept_lib import Dependency, NAME, main


def beside(run_dir):
    os.mkdir(os.path.join(run_dir, "other"))
    other = Injector(os.path.join(run_dir, "other"), NAME + "-other")
    try:
        with Dependency() as dep:
            prog = Program(run_dir)
            try:
                rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{dep.port}"])
                mine, its = rig.inj.get("snapshot"), other.get("snapshot")
                assert {link["program"] for link in mine["bpf"]} >= {"sq_connect4", "sq_connect6"}, mine
                assert its["bpf"] == [], its
                rig.end()
            finally:
                prog.end()
    finally:
        other.end()


if os.geteuid() != 0:
    print("skipped: the calls of programs that run already are for root")
    sys.exit(0)
main([beside])
