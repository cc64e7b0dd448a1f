#!/usr/bin/env python3
"""squall probe as a person uses it: on a terminal, in a pipe, in CI; what it says when something is wrong. Needs no root."""
import concurrent.futures
import fcntl
import http.server
import json
import os
import pty
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

# A busy machine voids figures, as it should; that is not what is tested here.
PATIENT = ["--lateness", "20s", "--timeout", "25s"]
SQUALL = os.path.join(os.path.abspath(os.environ.get("SQUALL_BUILD", "build")), "squall")


def die(text):
    sys.exit("FAIL: " + text)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.send_response(503 if self.path == "/sick" else 200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"hello\n")

    def log_message(self, *a):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *a):
        pass


def serve(tls=None):
    server = Server(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def environment(**more):
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "LC_ALL", "LC_CTYPE")}
    return {**env, "LANG": "C.UTF-8", "TERM": "xterm-256color", **more}


def probe(*args, want=None, timeout=60, **more):
    r = subprocess.run([SQUALL, "probe", *args, *PATIENT], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
                       env=environment(**more))
    if want is not None and r.returncode != want:
        die("%s: exit %d, wanted %d:\n%s%s" % (args, r.returncode, want, r.stdout, r.stderr))
    return r


class Screen:
    """What a terminal of so many columns would show: just as much of VT100 as is used. A line that is too long wraps."""

    def __init__(self, columns):
        self.columns, self.rows, self.x, self.y, self.wrapped, self.colours = columns, [""], 0, 0, 0, 0

    def put(self, c):
        if self.x == self.columns:
            self.x, self.y, self.wrapped = 0, self.y + 1, self.wrapped + 1
        while len(self.rows) <= self.y:
            self.rows.append("")
        row = self.rows[self.y].ljust(self.x)
        self.rows[self.y] = row[:self.x] + c + row[self.x + 1:]
        self.x += 1

    def feed(self, text):
        for m in re.finditer(r"\x1b\[(\d*)([A-Za-z])|(.)", text, re.S):
            number, code, c = m.groups()
            if code == "A":
                self.y -= int(number or 1)
                if self.y < 0:
                    die("the cursor went above what was drawn")
            elif code == "K":
                self.rows[self.y] = self.rows[self.y][:self.x]
            elif code == "J":
                self.rows[self.y:] = [self.rows[self.y][:self.x]] if self.y < len(self.rows) else []
            elif code == "m":
                self.colours += 1
            elif code:
                die("an escape sequence that nobody asked for: %r" % m.group(0))
            elif c == "\r":
                self.x = 0
            elif c == "\n":
                self.y += 1
                while len(self.rows) <= self.y:
                    self.rows.append("")
            else:
                self.put(c)


def terminal(columns, *args, interrupt=None, **more):
    """Runs it on a terminal; INTERRUPT(text so far): time for Ctrl-C? Gives the status, all bytes as text."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(SQUALL, [SQUALL, "probe", *args, *PATIENT], environment(**more))
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    seen, end = b"", time.monotonic() + 60
    while True:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            die("%s did not end:\n%s" % (args, seen.decode("utf-8", "replace")))
        if select.select([fd], [], [], 1)[0]:
            try:
                more = os.read(fd, 65536)
            except OSError:
                break
            if not more:
                break
            seen += more
        if interrupt and interrupt(seen.decode("utf-8", "replace")):
            os.write(fd, b"\x03")
            interrupt = None
    status = os.waitpid(pid, 0)[1]
    os.close(fd)
    return os.waitstatus_to_exitcode(status), seen.decode("utf-8")


def on_a_terminal(url):
    code, text = terminal(100, url, "-r", "50", "-t", "3s", "-T", "p(50)<5s")
    screen = Screen(100)
    screen.feed(text)
    shown = "\n".join(screen.rows)
    if code != 0 or screen.wrapped or not screen.colours:
        die("on a terminal: exit %d, %d lines wrapped, %d colours:\n%s" % (code, screen.wrapped, screen.colours, shown))
    for want in ("150 planned, 150 sent in 3 s: 50/s", "150 good, none bad", "p95", "by percentile", "over time", "└──",
                 "p50 < 5 s", "pass"):
        if want not in shown:
            die("the summary lacks %r:\n%s" % (want, shown))
    if "left" in shown or "waiting 0" in shown:
        die("the live view was left on the screen:\n%s" % shown)
    if "0:0" not in text or "connections" not in text:
        die("no live view:\n%s" % text)
    # Narrow, and neither colours nor UTF-8: whatever is redrawn keeps to its lines.
    code, text = terminal(34, url, "-r", "20", "-t", "3s", NO_COLOR="1", LANG="C")
    live = Screen(34)
    live.feed(text[:text.rindex("\x1b[J")])
    if code != 0 or live.wrapped or live.colours or not text.isascii() or len(live.rows) > 25:
        die("narrow: exit %d, %d lines wrapped, %d rows, %d colours:\n%s"
            % (code, live.wrapped, len(live.rows), live.colours, "\n".join(live.rows)))
    code, text = terminal(80, url, "-r", "20", "-t", "1s", "--no-color")
    if code != 0 or "\x1b[3" in text or "\x1b[1m" in text:
        die("--no-color: exit %d, %r" % (code, text))


def interrupted(url):
    begun = time.monotonic()
    code, text = terminal(100, url, "-r", "50", "-t", "50s", interrupt=lambda t: "0:4" in t and t.count("left") > 12)
    if code != 4 or "interrupted after" not in text or "p95" not in text or time.monotonic() - begun > 40:
        die("Ctrl-C: exit %d after %.0f s:\n%s" % (code, time.monotonic() - begun, text))


def without_a_terminal(url, folder):
    r = probe(url, "-r", "50/s", "-t", "2s", want=0)
    if "\x1b" in r.stdout + r.stderr or "100 planned" not in r.stdout or "errors 0 %" not in r.stderr:
        die("in a pipe: %r %r" % (r.stdout, r.stderr))
    r = probe(url, "-r", "3000/m", "-t", "2s", "--quiet", want=0)
    if r.stdout or r.stderr:
        die("--quiet: %r %r" % (r.stdout, r.stderr))
    hlog, out = os.path.join(folder, "x.hlog"), os.path.join(folder, "run")
    r = probe(url, "-r", "50", "-t", "2s", "--json", "-q", "--hlog", hlog, "-o", out, "-T", "error_rate<50%", want=0)
    o = json.loads(r.stdout)
    if (o["requests"]["planned"], o["requests"]["ok"], o["exit"], o["verdict"]) != (100, 100, 0, "pass") or \
            o["latency"]["n"] != 100 or not 0 < o["service"]["min"] <= o["latency"]["p50"] <= o["latency"]["max"]:
        die("--json: %s" % r.stdout)
    with open(hlog) as f:
        lines = [x for x in f if not x.startswith(("#", '"'))]
    if len(lines) < 2 or any("HISTF" not in x for x in lines):
        die("--hlog: %s" % lines)
    again = subprocess.run([SQUALL, "verify", out], capture_output=True, text=True)
    if again.returncode != 0 or not os.path.exists(out + "/report.html"):
        die("squall verify of what --out kept: exit %d: %s%s" % (again.returncode, again.stdout, again.stderr))
    probe(url, "-t", "1s", "-o", out, want=2)  # evidence is never written over
    kept = os.path.join(folder, "kept.json")
    r = subprocess.run([SQUALL, "baseline", "-o", kept, out], capture_output=True, text=True)
    with open(kept) as f:  # 100 good answers in 2 s: the second in which the last of them was waited for is none of load
        values = json.load(f)["runs"][0]["values"]["probe"]
    if r.returncode != 0 or values["throughput"] != 50:
        die("what was kept as a baseline: %s %s" % (values, r.stderr))


def judged(url):
    for path, threshold, want in (("/", "p(50)<5s", 0), ("/", "p(50)<1us", 1), ("/", "p(99.9)<5s", 3),
                                  ("/sick", "error_rate<1%", 1)):
        r = probe(url + path, "-r", "100", "-t", "1s", "-T", threshold, want=want)
        word = {0: "pass", 1: "fail", 3: "inconclusive"}[want]
        if not r.stdout.rstrip().splitlines()[-1].startswith(word + ":"):
            die("%s %s: %s" % (path, threshold, r.stdout))
    r = probe(url + "/sick", "-r", "50", "-t", "1s", want=1)
    if "not one answer was good" not in r.stdout or "503: 50" not in r.stdout:
        die("a sick server: %s" % r.stdout)


def what_is_wrong(url, folder):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        closed = "http://127.0.0.1:%d/" % s.getsockname()[1]
    r = probe(closed, "-r", "50", "-t", "1s", want=1)
    if "refused: 50" not in r.stdout or "nobody listens there" not in r.stdout:
        die("a closed port: %s" % r.stdout)
    for args, hint in (
            (("htp://x",), "http://host:port/path"),
            (("http://squall.invalid/",), "address"),
            ((url, "-T", "p99<200ms"), "p(95)<500ms"),
            ((url, "-T", "p(99)<200"), "200ms"),
            ((url, "--thresold", "p(99)<1s"), "did you mean --threshold?"),
            ((url, "-r", "often"), "1000/s"),
            ((url, "-r", "-5/s"), "1000/s"),
            ((url, "-t", "1500us"), "whole seconds"),
            ((url, "--ramp", "10s"), "TIME:RATE"),
            ((url, "--closed-loop", "-r", "5/s"), "--closed-loop has no rate"),
            ((url, "-H", "nothing"), "'Name: value'"),
            ((url, "-d", "@/no/such/file"), "/no/such/file"),
            ((url, "--seed", "x"), "2^53"),
            ((), "usage: squall probe"),
            ((url, url), "one argument too many")):
        r = probe(*args, want=2)
        if r.stdout or hint not in r.stderr:
            die("%s: %r, wanted %r" % (args, r.stderr, hint))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key, pem = os.path.join(folder, "k.pem"), os.path.join(folder, "c.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
                    "-out", pem, "-days", "2", "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"],
                   check=True, capture_output=True)
    tls.load_cert_chain(pem, key)
    https = "https://127.0.0.1:%d/" % serve(tls)
    r = probe(https, "-r", "20", "-t", "1s", want=1)
    if "certificate not trusted: self-signed certificate" not in r.stdout or "--ca" not in r.stdout:
        die("an unknown certificate: %s" % r.stdout)
    probe(https, "-r", "20", "-t", "1s", "--ca", pem, want=0)
    probe(https, "-r", "20", "-t", "1s", "-k", want=0)
    r = probe(https, "-r", "20", "-t", "1s", "--ca", pem, "--server-name", "other.test", want=1)
    if "hostname mismatch" not in r.stdout:
        die("a certificate of another: %s" % r.stdout)
    r = probe(url.replace("http:", "https:"), "-r", "20", "-t", "1s", want=1)
    if "does the server speak it on this port?" not in r.stdout:
        die("no TLS at all: %s" % r.stdout)


def help_and_completion():
    r = subprocess.run([SQUALL, "probe", "--help"], capture_output=True, text=True)
    if r.returncode or r.stdout.count("squall probe ") < 5 or "Exit code" not in r.stdout:
        die("--help: %s" % r.stdout)
    if max(map(len, r.stdout.splitlines())) > 120:
        die("--help is wider than 120 columns")
    script = subprocess.run([SQUALL, "completion", "bash"], capture_output=True, text=True).stdout
    ask = script + "\nCOMP_WORDS=(squall probe --thr) COMP_CWORD=2; _squall; echo \"${COMPREPLY[*]}\"\n"
    r = subprocess.run(["bash", "-c", ask], capture_output=True, text=True)
    if r.stdout.split() != ["--threads", "--threshold"]:
        die("completion of --thr: %r %s" % (r.stdout, r.stderr))


def main():
    url = "http://127.0.0.1:%d" % serve()
    with tempfile.TemporaryDirectory() as folder:
        on_a_terminal(url)
        interrupted(url)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for done in [pool.submit(without_a_terminal, url, folder), pool.submit(judged, url),
                         pool.submit(what_is_wrong, url, folder), pool.submit(help_and_completion)]:
                done.result()
    print("ok")


main()
