#!/usr/bin/env python3
"""What squall probe --hlog writes is read by HdrHistogram's own reader (npm: hdr-histogram-js) to the last digit."""
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from squall import ROOT, SQUALL, die, install  # noqa: E402

HDR = os.path.join(ROOT, "tests", "hdr")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *a):
        pass


install(HDR)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
with tempfile.TemporaryDirectory() as d:
    log = os.path.join(d, "x.hlog")
    got = subprocess.run([SQUALL, "probe", "127.0.0.1:%d" % server.server_address[1], "-r", "200", "-t", "3s", "--poisson",
                          "--lateness", "20s", "--timeout", "20s", "--name", "cart", "--hlog", log, "--json", "-q"],
                         capture_output=True, text=True)
    if got.returncode != 0:
        die(f"squall probe: exit {got.returncode}: {got.stdout}{got.stderr}")
    want = json.loads(got.stdout)["latency"]
    got = subprocess.run(["node", os.path.join(HDR, "read.js"), log], capture_output=True, text=True)
    if got.returncode != 0:
        die(f"read.js: {got.stderr}")
    read = json.loads(got.stdout)
if read.pop("tag") != "cart" or read.pop("intervals") != 3:
    die(f"tags and intervals: {got.stdout}")
mean, expected = read.pop("mean"), want.pop("mean")
if read != want or abs(mean - expected) > 0.001 * expected:
    die(f"read {read}, mean {mean}; squall says {want}, mean {expected}")
print("ok")
