#!/usr/bin/env python3
"""Interception by seccomp notification where Yama restricts ptrace (Debian's and Ubuntu's default is ptrace_scope 1)."""
import os
import sys

import vm

vm.boot(__file__)
scope = "/proc/sys/kernel/yama/ptrace_scope"
with open(scope, "w") as f:
    f.write("1")
with open(scope) as f:
    if f.read().strip() != "1":
        sys.exit("this kernel's Yama can't be switched on")
test = os.path.join(vm.ROOT, "tests", "live", "41-intercept-seccomp.py")
os.execv(sys.executable, [sys.executable, test])
