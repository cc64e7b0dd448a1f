#!/usr/bin/env python3
"""curl, Python and Node.js through each fault on calls, launched (by cgroup-BPF and by seccomp) and already running. (Java and Go: tests/long.)"""
import os
import shutil
import sys
import tempfile

import runtimes_lib

dir = tempfile.mkdtemp(prefix="squall-test-")
os.chmod(dir, 0o755)
try:
    bad = runtimes_lib.matrix(sys.argv[1:] or ["curl", "python", "node"], ["bpf", "seccomp", "running"], dir)
finally:
    shutil.rmtree(dir, ignore_errors=True)
for line in bad:
    print(line, file=sys.stderr)
sys.exit(1 if bad else 0)
