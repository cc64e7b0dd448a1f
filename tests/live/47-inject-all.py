#!/usr/bin/env python3
"""47-inject.py with Java and Go, whose compilers take their time."""
import os
import sys

os.environ["INJECT_ALL"] = "1"
os.execv(sys.executable, [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "47-inject.py")])
