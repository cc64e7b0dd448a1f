#!/usr/bin/env python3
"""Each of the combinations of tests/golden/netem.txt is taken by a kernel that has netem, and reads back the same."""
import os
import subprocess
import sys

import vm

vm.boot(__file__)
test = os.path.join(os.environ["SQUALL_BUILD"], "tests", "unit", "test_netem")
got = subprocess.run([test], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
print(got.stdout)
if got.returncode or "kernel_agrees" not in got.stdout or "SKIPPED" in got.stdout:
    sys.exit("the kernel does not agree")
