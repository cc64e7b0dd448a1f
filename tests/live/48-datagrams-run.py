#!/usr/bin/env python3
"""A whole `squall run` with an edge of datagrams and one of DNS: faults are felt, counted, and over when they end."""
import json
import os
import socket
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from dns_lib import Server
from run_lib import Place, check

# Asks a resolver and an echo service at each request; answers 200 whatever they do: a fallback.
APP = r"""
import http.server, socket, struct, sys
port, ns, echo = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def udp(to, data):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.3)
        s.connect(to)
        s.send(data)
        return s.recv(2000)
def query(name):
    q = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0)
    for l in name.split("."): q += bytes([len(l)]) + l.encode()
    return q + b"\0\0\1\0\1"
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = []
        for name in ("db.test", "other.test"):
            try: said.append(udp((ns, 53), query(name))[3] & 15)
            except OSError: said.append(-1)
        try: said.append(len(udp(("127.0.0.1", echo), b"hello")))
        except OSError: said.append(-1)
        body = repr(said).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), H).serve_forever()
"""

echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind(("127.0.0.1", 0))


def serve():
    while True:
        data, peer = echo.recvfrom(2000)
        echo.sendto(data, peer)


threading.Thread(target=serve, daemon=True).start()
server = Server()
with Place() as p:
    app = os.path.join(p.dir, "app.py")
    with open(app, "w") as f:
        f.write(APP)
    port = p.port
    with open(os.path.join(p.dir, "s.yaml"), "w") as f:
        f.write(f"""apiVersion: squall/v1
kind: Scenario
metadata: {{name: datagrams}}
spec:
  services:
    app: {{command: [{sys.executable}, {app}, "${{port}}", {server.host}, "{echo.getsockname()[1]}"], port: {port}, ready: {{http: /, within: 10s}}}}
  edges:
    app->dns: {{from: app, to: resolvers, protocol: dns}}
    app->echo: {{from: app, to: ["127.0.0.1:{echo.getsockname()[1]}"], protocol: udp}}
  load:
    page:
      executor: constant-arrival-rate
      rate: 20/s
      request: {{url: "http://127.0.0.1:{port}/", timeout: 3s}}
  lateness: {{over: 2s, share: 50%}}
  steady_state: {{for: 2s, thresholds: ["error_rate<50%"]}}
  steps:
    - {{id: gone, uses: call/dns, target: {{edge: app->dns}}, with: {{answer: nxdomain, names: [db.test]}}, duration: 3s, settle: 1s}}
    - {{id: slow, uses: call/latency, target: {{edge: app->echo}}, with: {{delay: 100ms}}, duration: 3s, settle: 1s}}
    - {{id: lossy, uses: call/loss, target: {{edge: app->echo}}, with: {{loss: 50%}}, duration: 3s, settle: 1s}}
    - {{id: hole, uses: call/blackhole, target: {{edge: app->echo}}, duration: 3s, settle: 1s}}
  verify:
    - {{check: fault_felt, step: "*", tolerance: 60%}}
    - {{check: clean}}
""")
    rc, out, err = p.run("check", os.path.join(p.dir, "s.yaml"))
    check(rc == 0, f"check: {rc} {out}{err}")
    rc, out, err = p.run("run", os.path.join(p.dir, "s.yaml"), timeout=100)
    verdict = json.dumps([r for r in p.records("verdict")]) if rc else ""
    check(rc == 0, f"exit {rc}\n{out}{err}{verdict}")
    edges = {e["edge"]: e for e in p.records("edge")}
    check(all(e["mode"] == "bpf" and not e["delays_connect"] for e in edges.values()), f"{edges}")
    ends = {f["step"]: f for f in p.records("fault", state="reverted")}
    check(ends["gone"]["acts"] >= 20 and ends["lossy"]["acts"] >= 10, f"{ends}")
    calls = [(c, e["edge"]) for e in p.records("calls") for c in e["calls"]]
    dns = [c for c, e in calls if e == "app->dns"]
    check(any(c[2] == 1 and c[3] == 3 for c in dns), "no NXDOMAIN in the evidence")
    check(not any(c[2] == 1 and c[3] != 3 for c in dns), "another answer than asked for")
    hit = sum(1 for c in dns if c[6])
    begin, end = p.records("fault", state="applied")[0]["t"], ends["gone"]["t"]
    other = sum(1 for c in dns if not c[6] and begin * 1000 + 200 < c[0] < end * 1000 - 200)
    check(hit >= 20 and other >= 20, f"db.test {hit}, other.test {other}")
    check(any(c[2] == 6 for c, e in calls if e == "app->echo"), "no call without an answer")
server.close()
