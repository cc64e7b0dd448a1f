"""What the tests of datagrams share: a caller of them, and a service that sends each back."""
import socket
import threading

from intercept_lib import Rig

ANSWERED, FAILED, GAVE_UP, REFUSED, BROKEN, OPEN, NONE = range(7)

# What the caller runs.
CALLER = r"""
def dial(host="127.0.0.1", port=None, timeout=2.0, family=socket.AF_INET, v6only=False):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
    s.settimeout(timeout)
    s.connect((host, port or PORT))
    return s
def ask(s, data=b"hello", timeout=2.0):
    s.settimeout(timeout)
    t0 = time.monotonic()
    try:
        s.send(data)
        got = s.recv(70000)
        return {"err": 0, "ms": (time.monotonic() - t0) * 1000, "whole": got == data, "n": len(got)}
    except socket.timeout:
        return {"err": 110, "ms": (time.monotonic() - t0) * 1000}
    except OSError as x:
        return {"err": x.errno, "ms": (time.monotonic() - t0) * 1000}
def burst(n, wait=1.0, size=20):
    # n numbered datagrams on one connected socket; how often each came back
    s = dial()
    s.settimeout(0.2)
    got = {}
    def read(block):
        s.settimeout(block)
        try:
            while True:
                i = int(s.recv(2000)[:8]); got[i] = got.get(i, 0) + 1
        except (socket.timeout, BlockingIOError): pass
    for i in range(n):
        s.send(b"%08d" % i + b"x" * (size - 8))
        if i % 16 == 15: read(0.01)
    read(wait)
    s.close()
    return {"once": sum(1 for v in got.values() if v == 1), "more": sum(1 for v in got.values() if v > 1),
            "none": n - len(got)}
"""
# For a caller: several datagrams by one sendmmsg(2).
MMSG = r"""
import ctypes
class Msghdr(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("namelen", ctypes.c_uint32), ("iov", ctypes.c_void_p),
                ("iovlen", ctypes.c_size_t), ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t),
                ("flags", ctypes.c_int)]
class Mmsghdr(ctypes.Structure):
    _fields_ = [("hdr", Msghdr), ("len", ctypes.c_uint)]
class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
def raw(host, port):
    if ":" in host:
        return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + socket.inet_pton(socket.AF_INET6, host) + bytes(4)
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
def mmsg(s, msgs):
    # [((host, port) or None, data)] in one call; also how long each was said to be
    keep, vec = [], (Mmsghdr * len(msgs))()
    for i, (to, data) in enumerate(msgs):
        buf = ctypes.create_string_buffer(data, len(data))
        iov = Iovec(ctypes.addressof(buf), len(data))
        vec[i].hdr.iov, vec[i].hdr.iovlen = ctypes.addressof(iov), 1
        keep += [buf, iov]
        if to:
            name = ctypes.create_string_buffer(raw(*to), len(raw(*to)))
            vec[i].hdr.name, vec[i].hdr.namelen = ctypes.addressof(name), len(name)
            keep.append(name)
    return ctypes.CDLL(None).sendmmsg(s.fileno(), vec, len(msgs), 0), [v.len for v in vec]
"""


class Echo:
    """Sends each datagram back; keeps who sent it."""

    def __init__(self, family=socket.AF_INET, host="127.0.0.1"):
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.sock.bind((host, 0))
        self.port = self.sock.getsockname()[1]
        self.peers = []
        self.seen = 0
        self.mute = False
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                data, peer = self.sock.recvfrom(70000)
                if not data:
                    return
                self.seen += 1
                self.peers.append(peer)
                if not self.mute:
                    self.sock.sendto(data, peer)
            except OSError:
                return


def rig(run_dir, echo, to=None, **kw):
    r = Rig(run_dir, to or [f"127.0.0.1:{echo.port}"], mode="bpf", protocol="udp", **kw)
    code = f"PORT={echo.port}\n" + CALLER
    r.ask = lambda what, timeout=40: r.do(code + f"result = {what}\n", timeout)
    r.run = lambda body, timeout=40: r.do(code + body, timeout)
    return r
