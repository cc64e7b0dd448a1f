#!/usr/bin/env python3
"""The packet process (`squalld packet`) on a TAP: delays, shares, forms of frames, its end and squalld's, hostile
messages. Each case in a network namespace and a process of its own (packet_process.c)."""
import os
import subprocess
import sys

tool = os.path.join(os.environ.get("SQUALL_BUILD", "build"), "tests/live/packet_process")
if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
    print("kernel lacks a network namespace or a TAP for this user")
    sys.exit(77)
cases = subprocess.run([tool], capture_output=True, text=True, check=True).stdout.split()
assert len(cases) >= 14, cases
failed = 0
for case in sys.argv[1:] or cases:
    r = subprocess.run([tool, case], capture_output=True, text=True, timeout=50)
    print(f"{'ok' if r.returncode == 0 else 'FAIL'} {case} {r.stdout}{r.stderr}".strip(), flush=True)
    failed += r.returncode != 0
sys.exit(1 if failed else 0)
