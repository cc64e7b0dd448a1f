#!/usr/bin/env python3
"""`squall exec`: counts calls, fails them, passes on status, signals and terminal, and ends with the command."""
import http.server
import os
import signal
import sys
import threading
import time

from run_lib import Place, check


class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *a):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
server.handle_error = lambda *a: None  # resets are what we cause
threading.Thread(target=server.serve_forever, daemon=True).start()
PORT = server.server_address[1]

CLIENT = f"""
import http.client, sys, time
n = ok = bad = 0
for i in range(int(sys.argv[1])):
    c = http.client.HTTPConnection("127.0.0.1", {PORT}, timeout=5)
    t = time.monotonic()
    try:
        c.request("GET", "/")
        ok += c.getresponse().read() == b"ok"
    except OSError as e:
        bad += 1
        last = e.errno
    n = max(n, time.monotonic() - t)
print(ok, bad, round(n, 2), last if bad else 0)
sys.exit(7)
"""

with Place() as p:
    client = os.path.join(p.dir, "client.py")
    open(client, "w").write(CLIENT)
    me = sys.executable

    rc, out, err = p.run("exec", "--edge", f"api=127.0.0.1:{PORT}", "--", me, client, "10")
    check(rc == 7, f"exit {rc}: {out}{err}")
    check(out.split()[:2] == ["10", "0"], f"plain: {out}")
    check("api: 10 calls, 0 hit" in err, f"counts: {err}")

    rc, out, err = p.run("exec", "--edge", f"api=127.0.0.1:{PORT}", "--fault", "call/error", "--with", "errno=ECONNREFUSED", "--",
                         me, client, "10")
    check(rc == 7 and out.split()[:2] == ["0", "10"] and out.split()[3] == "111", f"error: {rc} {out}{err}")
    check("api: 10 calls, 10 hit" in err, f"counts: {err}")

    rc, out, err = p.run("exec", "--edge", f"api=127.0.0.1:{PORT}", "--fault", "call/latency", "--with", "delay=300ms",
                         "--percent", "100%", "--", me, client, "3")
    check(rc == 7 and out.split()[:2] == ["3", "0"] and float(out.split()[2]) >= 0.3, f"latency: {rc} {out}{err}")

    # A fault of 1 s that begins after 3 s: refused in between, well before and after.
    rc, out, err = p.run("exec", "--edge", f"api=127.0.0.1:{PORT}", "--fault", "call/error", "--with", "errno=ECONNREFUSED",
                         "--after", "3s", "--duration", "1s", "--", me, "-c", f"""
import http.client, time
r = ""
for i in range(60):
    c = http.client.HTTPConnection("127.0.0.1", {PORT}, timeout=5)
    try:
        c.request("GET", "/"); c.getresponse().read(); r += "."
    except OSError:
        r += "x"
    time.sleep(0.1)
print(r)
""")
    r = out.strip()
    check(rc == 0 and r.startswith(".") and r.endswith("...") and 4 <= r.count("x") <= 16, f"window: {rc} {r} {err}")

    rc, out, err = p.run("exec", "--", "/bin/sh", "-c", "kill -TERM $$")
    check(rc == 128 + signal.SIGTERM, f"signal: {rc}")
    rc, out, err = p.run("exec", "--", "/nonexistent/program")
    check(rc == 127 and "nonexistent" in err, f"not found: {rc} {err}")
    check("Traceback" not in err, err)

    # What can't be is refused before anything starts.
    for args, word in ((["--fault", "call/latencyy", "--", "true"], "did you mean"), (["--with", "a=b", "--", "true"], "--fault"),
                       (["--fault", "call/error", "--", "true"], "edge"), (["--edge", "x", "--", "true"], "edge"),
                       (["--edge", "x=127.0.0.1:1", "--fault", "call/latency", "--with", "dellay=1s", "--", "true"], "delay"),
                       (["--fault", "network/latency", "--", "true"], "interface"), ([], "COMMAND")):
        rc, out, err = p.run("exec", *args)
        check(rc == 2 and word in err, f"{args}: {rc} {err}")

    # A Ctrl-C of the terminal goes to the command, which decides; squall ends after it.
    proc = p.start("exec", "--", "/bin/sh", "-c", "trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.1; done",
                   start_new_session=True)
    check(proc.stdout.readline() == "up\n", "the command did not start")
    os.killpg(proc.pid, signal.SIGINT)
    out, err = proc.communicate(timeout=20)
    check(proc.returncode == 9 and "caught" in out, f"SIGINT: {proc.returncode} {out}{err}")

    # squalld killed under it: the command goes on, its calls too.
    proc = p.start("exec", "--edge", f"api=127.0.0.1:{PORT}", "--fault", "call/error", "--with", "errno=ECONNREFUSED",
                   "--", me, "-c", f"""
import http.client, time
print("up", flush=True)
end = time.time() + 8
while time.time() < end:
    c = http.client.HTTPConnection("127.0.0.1", {PORT}, timeout=5)
    try:
        c.request("GET", "/"); c.getresponse().read(); print("ok"); break
    except OSError:
        time.sleep(0.1)
""")
    check(proc.stdout.readline() == "up\n", "the command did not start")
    time.sleep(0.5)
    worker, keeper = p.injector_pids()
    os.kill(worker, signal.SIGKILL)
    out, err = proc.communicate(timeout=30)
    check(proc.returncode == 0 and out == "ok\n", f"squalld killed: {proc.returncode} {out!r} {err}")
    check(not p.gone(5), f"{p.leftovers()}")
