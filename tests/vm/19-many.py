#!/usr/bin/env python3
"""A hundred netem faults with a thousand addresses each beside one another, where a system call takes a hundred times as
long as elsewhere: squalld's heart goes on beating while it looks at what is in the kernel, and all of it comes off."""
import os
import sys

import vm

vm.boot(__file__)
os.execv(sys.executable, [sys.executable, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                                                       "bench", "filters.py"), "100", "1000", "netem"])
