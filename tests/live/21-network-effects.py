#!/usr/bin/env python3
"""What network faults do to packets, measured on this kernel by the packet backend (tests/vm does the same for netem)."""
import os, sys

here = os.path.dirname(os.path.abspath(__file__))
if os.geteuid() != 0:
    print("21-network-effects: needs root")
    sys.exit(1)
# in a network of its own, which goes with it
os.execvp("unshare", ["unshare", "-n", sys.executable, os.path.join(here, "..", "vm", "effects.py"), "packet"])
