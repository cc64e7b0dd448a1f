"""Plays squalld to a real proxy process: its socket, the flow tables, the listeners. For the tests 30-*."""
import array
import atexit
import ctypes
import json
import os
import signal
import socket
import struct
import sys
import threading
import time

BUILD = os.environ.get("SQUALL_BUILD", "build")
FLOW = struct.Struct("=QIIHBB16s4I12x")
TALLIES = 512 * 256 * 16
FLOWS = 65536
TTL = 77
REQUEST, CONNECT, CONN = 0, 1, 2
ANSWERED, FAILED, GAVE_UP, REFUSED, BROKEN, OPEN = range(6)
FIELDS = "start caller edge kind outcome status dur held fault trace answer".split()
MS = 1_000_000


class Call:
    def __init__(self, row):
        assert len(row) == len(FIELDS), row
        self.__dict__.update(zip(FIELDS, row))

    def __repr__(self):
        return str(self.__dict__)


def attach_ttl_gate(sock):
    """Drop SYNs (not ACK) whose TTL is not TTL, as squalld's gate listeners do."""
    def st(code, k, jt=0, jf=0):
        return struct.pack("HBBI", code, jt, jf, k & 0xFFFFFFFF)
    net = -0x100000
    code = [st(0x30, 13), st(0x54, 0x12), st(0x15, 0x02, 0, 2), st(0x30, net + 8), st(0x15, TTL, 0, 1),
            st(0x06, 0xFFFF), st(0x06, 0)]
    prog = ctypes.create_string_buffer(b"".join(code))
    fprog = struct.pack("HL", len(code), ctypes.addressof(prog))
    sock.setsockopt(socket.SOL_SOCKET, 26, fprog)


def listener(gate=False):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if gate:
        attach_ttl_gate(s)
    s.bind(("0.0.0.0", 0))
    s.listen(4096)
    return s


class Rig:
    def __init__(self, raw=False):
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        exe = os.path.join(BUILD, "squalld")
        self.pid = os.posix_spawn(exe, [exe, "proxy"], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)])
        theirs.close()
        atexit.register(self.kill)
        self.beat, self.flows = os.memfd_create("beat"), [os.memfd_create("flows%d" % i) for i in range(2)]
        self.tallies = os.memfd_create("tallies")
        os.ftruncate(self.tallies, TALLIES)
        os.ftruncate(self.beat, 4096)
        for f in self.flows:
            os.ftruncate(f, FLOWS * FLOW.size)
        self.calls, self.acks, self.upstreams, self.stats, self.lost = [], [], [], [], []
        self.cond = threading.Condition()
        self.dead = False
        self.edges = {}
        self.next_flow = 1
        self.on_upstream = None
        self.send({"op": "hello", "beat_offset": 8}, [self.beat] + self.flows + [self.tallies])
        if raw:
            a = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            b = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self.send({"op": "raw"}, [a.fileno(), b.fileno()])
            a.close()
            b.close()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def send(self, obj, fds=()):
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([json.dumps(obj).encode()], anc)

    def _read(self):
        while True:
            try:
                data = self.sock.recv(1 << 17)
            except OSError:
                data = b""
            with self.cond:
                if not data:
                    self.dead = True
                    self.cond.notify_all()
                    return
                m = json.loads(data)
                assert len(data) <= 65536
                if m["op"] == "calls":
                    self.calls += [Call(c) for c in m["calls"]]
                elif m["op"] == "ack":
                    self.acks.append(m)
                elif m["op"] == "upstream":
                    self.upstreams.append(m)
                    if self.on_upstream:
                        self.on_upstream(m)
                elif m["op"] == "stats":
                    self.stats.append(m)
                elif m["op"] == "lost":
                    self.lost.append(m["space"])
                self.cond.notify_all()

    def wait(self, what, cond, timeout=10):
        with self.cond:
            if not self.cond.wait_for(cond, timeout):
                raise AssertionError("waited %s s for %s; calls: %s" % (timeout, what, self.calls[-5:]))

    def edge(self, id, protocol="auto"):
        ls = [listener(), listener(gate=True)]
        self.edges[id] = [l.getsockname()[1] for l in ls]
        self.send({"op": "edge", "id": id, "name": "e%d" % id, "protocol": protocol}, [l.fileno() for l in ls])
        for l in ls:
            l.close()

    def flow(self, to, edge=1, caller=1, epoch=0, drawn=0, table=0):
        """Write a flow; returns where to connect to (host)."""
        i = self.next_flow
        self.next_flow += 1
        fam = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
        e = FLOW.pack(time.monotonic_ns(), caller, edge, socket.htons(to[1]), fam, drawn == 2, socket.inet_pton(fam, to[0]),
                      epoch * 100 + 1 if drawn else 0, 0, 0, 0)
        os.pwrite(self.flows[table], e, i * FLOW.size)
        return "127.%d.%d.%d" % (1 + table, i >> 8, i & 255)

    def connect(self, to, edge=1, gate=False, timeout=10, **kw):
        s = socket.socket()
        s.settimeout(timeout)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.connect((self.flow(to, edge, **kw), self.edges[edge][1 if gate else 0]))
        return s

    def rules(self, edge, rules, epoch=1):
        """The i-th rule gets the number 100 * epoch + i + 1: flow() says with it what was drawn."""
        n = len(self.acks)
        numbered = [dict(r, number=100 * epoch + i + 1) for i, r in enumerate(rules)]
        self.send({"op": "rules", "edge": edge, "epoch": epoch, "rules": numbered})
        self.wait("the ack", lambda: len(self.acks) > n)
        ack = self.acks[-1]
        assert ack["edge"] == edge and ack["epoch"] == epoch and len(ack["rules"]) == len(rules), ack
        return ack

    def take(self, n, timeout=10):
        """Wait for n calls and take them."""
        self.wait("%d calls" % n, lambda: len(self.calls) >= n, timeout)
        with self.cond:
            out, self.calls = self.calls, []
        assert len(out) == n, out
        return out

    def none(self, seconds=0.3):
        time.sleep(seconds)
        assert not self.calls, self.calls

    def leaves(self, timeout=5):
        """The proxy ends by itself, with status 0."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = None
                assert status == 0, "the proxy's wait status is %d" % status
                return
            time.sleep(0.01)
        raise AssertionError("the proxy did not leave")

    def quit(self, timeout=5):
        self.send({"op": "quit"})
        self.leaves(timeout)

    def kill(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = None


def rule(kind, fault="f1", **kw):
    r = {"fault": fault, "kind": kind, "percent": 100.0, "delay": 0, "jitter": 0, "errno": 104, "seed": 7}
    r.update(kw)
    return r


class Server:
    """An upstream; handle(sock) in a thread per connection."""

    def __init__(self, handle, family=socket.AF_INET):
        self.s = socket.socket(family)
        self.s.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        self.s.listen(1024)
        self.addr = self.s.getsockname()[:2]
        self.handle = handle
        self.accepted = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                c, _ = self.s.accept()
            except OSError:
                return
            self.accepted += 1
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._one, args=(c,), daemon=True).start()

    def _one(self, c):
        try:
            self.handle(c)
        except OSError:
            pass
        finally:
            c.close()


def http_server(body=b"hello", wait=0.0):
    def handle(c):
        buf = b""
        while True:
            while b"\r\n\r\n" not in buf:
                d = c.recv(65536)
                if not d:
                    return
                buf += d
            _, buf = buf.split(b"\r\n\r\n", 1)
            if wait:
                time.sleep(wait)
            c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return Server(handle)


def echo_server():
    def handle(c):
        while True:
            d = c.recv(65536)
            if not d:
                return
            c.sendall(d)
    return Server(handle)


def get(s, path="/", trace=None):
    """One request on a connection; returns (status line, seconds)."""
    extra = "traceparent: 00-%s-00f067aa0ba902b7-01\r\n" % trace if trace else ""
    t = time.perf_counter()
    s.sendall(("GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n" % (path, extra)).encode())
    return read_answer(s), time.perf_counter() - t


def read_answer(s):
    buf = b""
    while b"\r\n\r\n" not in buf:
        d = s.recv(65536)
        if not d:
            raise ConnectionError("closed")
        buf += d
    head, rest = buf.split(b"\r\n\r\n", 1)
    n = [int(l.split(b":")[1]) for l in head.split(b"\r\n") if l.lower().startswith(b"content-length")]
    while n and len(rest) < n[0]:
        d = s.recv(65536)
        if not d:
            raise ConnectionError("closed")
        rest += d
    return head.split(b"\r\n")[0]


def reset_within(s, seconds=2):
    """Does the connection get a reset (not a FIN)?"""
    s.settimeout(seconds)
    try:
        return False if s.recv(1) == b"" else reset_within(s, seconds)
    except ConnectionResetError:
        return True
    except socket.timeout:
        return False


def too_long(sig, frame):
    raise AssertionError("it takes too long")


def main(tests):
    failed = 0
    signal.signal(signal.SIGALRM, too_long)
    for t in tests:
        t0 = time.monotonic()
        try:
            signal.alarm(25)
            t()
            signal.alarm(0)
            print("ok   %s (%.2f s)" % (t.__name__, time.monotonic() - t0), flush=True)
        except Exception as e:  # noqa: BLE001 - the next test may still tell more
            import traceback
            traceback.print_exc()
            print("FAIL %s: %s" % (t.__name__, e), flush=True)
            failed += 1
    sys.exit(1 if failed else 0)
