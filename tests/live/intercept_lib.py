"""What the live tests of interception share: a dependency, and a caller under interception that does as it is told."""
import functools
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time

import injector_lib
from injector_lib import Injector, until

AGENT = r"""
import json, os, select, socket, struct, subprocess, sys, time
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(8)

def attempt(port, host="127.0.0.1", timeout=3.0, family=socket.AF_INET, prepare=None, ask=True, fd=None):
    # One call as an event loop does it: non-blocking connect, epoll registered before it.
    c = socket.socket(family, socket.SOCK_STREAM)
    r = {"err": 0, "ms": 0.0, "body": ""}
    try:
        if prepare: prepare(c)
        c.setblocking(False)
        ep = select.epoll(); ep.register(c, select.EPOLLOUT)
        t0 = time.monotonic()
        e = c.connect_ex((host, port))
        if e == 115:
            if not ep.poll(timeout): e = 110
            else: e = c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        r["ms"] = (time.monotonic() - t0) * 1000
        r["err"] = e
        ep.close()
        if e: return r
        r["peer"] = c.getpeername()[:2]
        r["nodelay"] = c.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        if ask:
            c.setblocking(True); c.settimeout(timeout)
            c.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            got = b""
            while True:
                b = c.recv(4096)
                if not b: break
                got += b
            r["body"] = got.split(b"\r\n\r\n", 1)[-1].decode()
        r["total_ms"] = (time.monotonic() - t0) * 1000
        return r
    except OSError as x:
        r["err"] = x.errno or 110
        r["total_ms"] = (time.monotonic() - t0) * 1000
        return r
    finally:
        c.close()

def blocking(port, host="127.0.0.1", timeout=None):
    c = socket.socket()
    if timeout: c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout), int(timeout % 1 * 1e6)))
    t0 = time.monotonic()
    try:
        c.connect((host, port)); e = 0
    except OSError as x:
        e = x.errno
    r = {"err": e, "ms": (time.monotonic() - t0) * 1000, "blocking": os.get_blocking(c.fileno())}
    c.close()
    return r

while True:
    c, _ = s.accept()
    code = b""
    while not code.endswith(b"\0"):
        b = c.recv(65536)
        if not b: break
        code += b
    g = dict(globals())
    try:
        exec(code.rstrip(b"\0").decode(), g); out = {"ok": g.get("result")}
    except BaseException as x:
        import traceback; out = {"error": traceback.format_exc()}
    c.sendall(json.dumps(out).encode()); c.close()
"""


# The cgroups of an injector bear its name: one of our own, for other tests may run at the same time.
NAME = f"p-{os.getpid():x}"
# One that any user may execute.
PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable


class Dependency:
    """A small HTTP server: TCP on a port of its own (IPv4 or IPv6), or a Unix socket."""

    def __init__(self, family=socket.AF_INET, host="127.0.0.1", path=None, port=0):
        outer = self
        self.requests = 0
        self.peers = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.requests += 1
                self.send_response(200)
                self.send_header("Content-Length", "4")
                self.end_headers()
                self.wfile.write(b"real")

            def log_message(self, *unused):
                pass

            def address_string(self):
                return "x"

        class Server(http.server.ThreadingHTTPServer):
            address_family = family
            daemon_threads = True
            request_queue_size = 128

            def server_bind(self):
                self.socket.bind(path if path else (host, port))
                self.server_name, self.server_port = "x", 0

            def handle_error(self, *unused):
                pass  # resets are what these tests are about

            def get_request(self):
                c, a = self.socket.accept()
                if family == socket.AF_UNIX:
                    outer.peers.append(c.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                return c, ("x", 0)

        self.server = Server(None, Handler)
        self.port = 0 if path else self.server.socket.getsockname()[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.server.shutdown()
        self.server.server_close()


def told(control, code, timeout=30):
    """What the AGENT that serves CONTROL gets from CODE."""
    with socket.socket(socket.AF_UNIX) as c:
        c.settimeout(timeout)
        c.connect(control)
        c.sendall(code.encode() + b"\0")
        got = json.loads(b"".join(iter(lambda: c.recv(1 << 20), b"")))
    assert "ok" in got, got["error"]
    return got["ok"]


# Runs a command as root where no cgroup2 is mounted to attach cgroup-BPF to.
NO_CGROUP2 = "for m in $(awk '$3 == \"cgroup2\" {print $2}' /proc/mounts); do umount -l $m; done; "
NO_BPF = ["unshare", "-m", "sh", "-c", NO_CGROUP2 + 'exec "$@"', "sh"]
# For an agent: a child that was there before, and calls the port it is told.
CHILD = """
a, b = socket.socketpair(); sys.modules['child'] = a
if os.fork() == 0:
    n = b.fileno(); os.closerange(3, n); os.closerange(n + 1, 256)
    while True:
        p = b.recv(16)
        if not p: os._exit(0)
        b.send(str(attempt(int(p))['err']).encode())
b.close(); result = 1
"""
ASK_CHILD = "c = sys.modules['child']; c.settimeout(5); c.send(b'%d'); result = int(c.recv(16))"
NEW_CHILD = ("p = subprocess.run([sys.executable, '-c', 'import socket, sys; c = socket.socket();'"
             " 'sys.exit(c.connect_ex((\"127.0.0.1\", %d)))']); result = p.returncode")


class Without(Injector):
    """A squalld that is started through another command: without some capabilities, or as another user."""

    def __init__(self, run_dir, prefix):
        self.run_dir = run_dir
        self.dir = os.path.join(run_dir, NAME)
        self.socket = os.path.join(self.dir, "api.sock")
        self.proc = subprocess.Popen(prefix + [injector_lib.SQUALLD, "--dir", self.dir, "--private"],
                                     env=dict(os.environ, SQUALL_RUN_DIR=run_dir))
        self.keeper = self.proc.pid
        until("the API answers", self.answers)
        self.pid = self.get("info")["pid"]


class Rig:
    """An injector with one run, one edge and one caller."""

    all = []  # injectors that were started

    def __init__(self, run_dir, to, mode=None, edge="app->dep", protocol="auto", injector=None, instances=1, lease="60s",
                 more=None, wrap=()):
        self.inj = injector or Injector(run_dir, NAME)
        Rig.all.append(self.inj)
        self.run_dir = run_dir
        self.id = self.inj.run(lease=lease)
        self.edge = edge
        self.answer = self.inj.post(f"runs/{self.id}/edges", {"name": edge, "from": "app", "to": to, "protocol": protocol,
                                                                  **(more or {})})
        if mode:
            assert self.answer["mode"] == mode, self.answer
        self.control = os.path.join(run_dir, "agent-${instance}.sock" if instances > 1 else "agent.sock")
        self.agent = os.path.join(run_dir, "agent.py")
        with open(self.agent, "w") as f:
            f.write(AGENT)
        os.chmod(run_dir, 0o755)
        got = self.inj.post(f"runs/{self.id}/services",
                            {"name": "app", "command": [*wrap, PYTHON, self.agent, self.control], "instances": instances})
        self.pid = got["instances"][0]["pid"]
        if instances == 1:
            until("the caller listens", lambda: os.path.exists(self.control))
            time.sleep(0.05)

    def do(self, code, timeout=30):
        return told(self.control, code, timeout)

    def fault(self, uses, with_=None, percent="100%", want=(200, 201), **target):
        return self.inj.post(f"runs/{self.id}/faults",
                             {"uses": uses, "target": {"edge": self.edge, "percent": percent, **target}, "with": with_ or {}},
                             want)

    def clear(self, fault):
        got = self.inj.delete(f"runs/{self.id}/faults/{fault['fault']}")
        assert got["clean"], got
        return got

    def events(self, kind=None):
        out, after = [], 0
        while True:
            got = self.inj.get(f"runs/{self.id}/events?after={after}")
            out += got["events"]
            if not got["events"]:
                break
            after = got["next"]
        return [e for e in out if kind is None or e["type"] == kind]

    def calls(self):
        return [c for e in self.events("calls") for c in e["calls"]]

    def proxy_pid(self):
        return injector_lib.child_named(self.inj.pid, "squall-proxy")

    def end(self):
        try:
            assert self.inj.delete(f"runs/{self.id}")["clean"]
            self.inj.post("quit")
            assert self.inj.wait() == 0, self.inj.proc.returncode
        finally:
            self.inj.end()


def main(tests):
    """As injector_lib.main; a test that fails leaves no injector behind."""

    def ended(test):
        @functools.wraps(test)
        def wrapped(run_dir):
            try:
                test(run_dir)
            finally:
                while Rig.all:
                    Rig.all.pop().end()

        return wrapped

    injector_lib.main([ended(t) for t in tests])
