#!/usr/bin/env python3
"""Java (both its clients) and Go through each fault on calls; the others: tests/live/49-runtimes.py."""
import os, subprocess, sys

live = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "live", "49-runtimes.py")
sys.exit(subprocess.run([live, *(sys.argv[1:] or ["java", "java-old", "go"])]).returncode)
