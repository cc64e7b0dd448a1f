#!/usr/bin/env python3
"""tc of this machine still sends what tests/golden/netem.txt says (which test_netem compares our bytes with): each of its
combinations is captured anew. Nothing is applied: tc runs in a network namespace of its own."""
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
os.environ["PATH"] += ":/usr/sbin:/sbin"


def skip(why):
    print(why)
    sys.exit(77)


if os.geteuid() != 0:
    skip("needs root for a network namespace")
for program in ("tc", "strace", "unshare"):
    if not shutil.which(program):
        skip(f"needs {program}")
version = subprocess.run(["tc", "-V"], stdout=subprocess.PIPE, text=True).stdout.strip()
if "iproute2-6.1." not in version:
    skip(f"{version} may send other bytes than iproute2 6.1, which was captured")
r = subprocess.run([sys.executable, f"{HERE}/../golden/netem-capture.py", "--check"])
sys.exit(r.returncode)
