#!/usr/bin/env python3
"""squalld's Toxiproxy API by an existing client library, unchanged: toxiproxy-node-client."""
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from squall import ROOT, SQUALLD, install  # noqa: E402

NODE = os.path.join(ROOT, "tests", "node")

install(NODE)
run = tempfile.mkdtemp(prefix="squall-toxi-")
with socket.create_server(("127.0.0.1", 0)) as s:
    port = s.getsockname()[1]
squalld = subprocess.Popen([SQUALLD, "--dir", os.path.join(run, "d"), "--toxiproxy", f"127.0.0.1:{port}"],
                           env=dict(os.environ, SQUALL_RUN_DIR=run))
try:
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except ConnectionError:
            time.sleep(0.02)
    got = subprocess.run(["node", "toxiproxy.js", f"http://127.0.0.1:{port}"], cwd=NODE, capture_output=True, text=True, timeout=120)
    print(got.stdout, got.stderr, end="")
finally:
    squalld.terminate()
    ended = squalld.wait(20)
    shutil.rmtree(run, ignore_errors=True)
sys.exit(0 if got.returncode == 0 and got.stdout.strip() == "ok" and ended == 0 else 1)
