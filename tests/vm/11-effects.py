#!/usr/bin/env python3
"""What network faults do to packets, measured by netem (tests/live/21-network-effects.py does the same by the packet backend)."""
import os
import sys

import vm

vm.boot(__file__)
os.execv(sys.executable, [sys.executable, os.path.join(vm.HERE, "effects.py"), "netem"])
