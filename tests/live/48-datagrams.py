#!/usr/bin/env python3
"""Edges of datagrams through the real squalld: connected and unconnected sockets, each fault at its share, counts, and
what is left when the proxy or squalld dies."""
import math
import os
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from injector_lib import alive, until
from intercept_lib import Rig, main

ANSWERED, FAILED, GAVE_UP, REFUSED, BROKEN, OPEN, NONE = range(7)
MS = 1_000_000

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


def close_to(share, hits, n, what):
    """Within five standard deviations of a binomial: one false alarm in millions."""
    sd = math.sqrt(n * share * (1 - share))
    assert abs(hits - n * share) <= 5 * sd + 1, (what, hits, n, share)


def calls_of(r, n=1):
    until("the calls are told", lambda: len(r.calls()) >= n, 15)
    return r.calls()


def test_pass_through(run_dir):
    """Both kinds of sockets, all sizes, the addresses that they see; a connect that sends nothing is no call."""
    echo = Echo()
    r = rig(run_dir, echo)
    got = r.run("""
out = []
for n in (0, 1, 1472, 9000, 65507):
    out.append(ask(dial(), b"y" * n) if n else {"whole": True, "err": 0})
s = dial(); peer = s.getpeername(); s.send(b"a"); data, frm = s.recvfrom(100)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(2)
u.sendto(b"b", ("127.0.0.1", PORT)); udata, ufrm = u.recvfrom(100)
u.sendto(b"c", ("127.0.0.1", PORT)); udata2, ufrm2 = u.recvfrom(100)
b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); b.bind(("127.0.0.1", 0)); b.settimeout(2)
b.sendto(b"d", ("127.0.0.1", PORT)); bdata, bfrm = b.recvfrom(100)
silent = [dial() for _ in range(20)]
socket.getaddrinfo("127.0.0.1", PORT)
m = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); m.settimeout(2)
m.sendto(b"e", ("::ffff:127.0.0.1", PORT)); mdata, mfrm = m.recvfrom(100)
m6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); m6.settimeout(2); m6.connect(("::ffff:127.0.0.1", PORT))
m6.send(b"f"); m6data, m6frm = m6.recvfrom(100)
result = {"sizes": out, "peer": peer, "frm": frm, "ufrm": ufrm, "ufrm2": ufrm2, "bfrm": bfrm, "mfrm": mfrm[:2],
          "m6peer": m6.getpeername()[:2], "m6frm": m6frm[:2],
          "data": [x.decode() for x in (data, udata, udata2, bdata, mdata, m6data)]}
""")
    assert all(s["err"] == 0 and s["whole"] for s in got["sizes"]), got["sizes"]
    want = ["127.0.0.1", echo.port]
    assert got["peer"] == got["frm"] == got["ufrm"] == got["ufrm2"] == got["bfrm"] == want, got
    assert got["mfrm"] == got["m6peer"] == got["m6frm"] == ["::ffff:127.0.0.1", echo.port], got
    assert got["data"] == list("abcdef"), got
    calls = calls_of(r, 10)
    time.sleep(0.2)
    assert len(r.calls()) == 10 == echo.seen, (len(r.calls()), echo.seen)
    assert all(c[2] == ANSWERED and c[1] == 0 and c[6] == "" for c in calls), calls
    # nothing came from the caller's own sockets: it all went through the proxy
    r.end()


def test_faults(run_dir):
    """Loss, duplicate, latency and black hole do what they say, for the share that they say, and end."""
    echo = Echo()
    r = rig(run_dir, echo)
    n = 2000
    got = r.ask(f"burst({n})")
    assert got == {"once": n, "more": 0, "none": 0}, got
    for with_, percent, share in (({"loss": "30%"}, "100%", 0.3), ({"loss": "50%", "stream": "upstream"}, "50%", 0.25),
                                  ({"loss": "20%", "stream": "both"}, "100%", 1 - 0.8 * 0.8)):
        before = echo.seen
        f = r.fault("call/loss", with_, percent)
        got = r.ask(f"burst({n})")
        close_to(share, got["none"], n, with_)
        assert got["more"] == 0, got
        if with_.get("stream", "downstream") == "downstream":
            assert echo.seen == before + n, (echo.seen, before)
        r.clear(f)
    f = r.fault("call/duplicate", {"duplicate": "25%"})
    got = r.ask(f"burst({n})")
    close_to(0.25, got["more"], n, "duplicate")
    assert got["none"] == 0, got
    r.clear(f)
    f = r.fault("call/latency", {"delay": "80ms"})
    got = r.run("s = dial()\nresult = [ask(s) for _ in range(5)]")
    assert all(g["err"] == 0 and 79 <= g["ms"] < 1000 for g in got), got
    f2 = r.fault("call/latency", {"delay": "50ms", "stream": "both"})
    got = r.run("s = dial()\nresult = [ask(s) for _ in range(5)]")
    assert all(g["err"] == 0 and 178 <= g["ms"] < 1500 for g in got), got
    r.clear(f2)
    r.clear(f)
    f = r.fault("call/blackhole")
    before = echo.seen
    got = r.run("result = [ask(dial(), timeout=0.3) for _ in range(3)]")
    assert all(g["err"] == 110 for g in got) and echo.seen == before, got
    r.clear(f)
    got = r.run("result = ask(dial())")
    assert got["err"] == 0 and got["ms"] < 500, got
    r.end()


def test_counts(run_dir):
    """What was asked and not answered, what nobody listens to, and what a fault did to each."""
    echo = Echo()
    closed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    closed.bind(("127.0.0.1", 0))
    nobody = closed.getsockname()[1]
    closed.close()
    r = rig(run_dir, echo, to=[f"127.0.0.1:{echo.port}", f"127.0.0.1:{nobody}"])
    got = r.run(f"result = [ask(dial(port={nobody})), ask(dial())]")
    assert got[0]["err"] == 111, got  # as from the kernel itself
    assert got[1]["err"] == 0, got
    calls = calls_of(r, 2)
    assert sorted(c[2] for c in calls) == [ANSWERED, REFUSED], calls
    f = r.fault("call/latency", {"delay": "40ms"})
    assert r.ask("ask(dial())")["err"] == 0
    calls = calls_of(r, 3)
    assert calls[-1][2] == ANSWERED and calls[-1][6] == f["fault"] and calls[-1][5] >= 39_000, calls[-1]
    r.clear(f)
    echo.mute = True
    assert r.ask("ask(dial(), timeout=0.2)")["err"] == 110
    until("the call without an answer is told", lambda: any(c[2] == NONE for c in r.calls()), 20)
    for uses, with_ in (("call/error", {}), ("call/slicer", {"size": 10}), ("call/dns", {"answer": "nxdomain"}),
                        ("call/bandwidth", {"rate": "1mbit"})):
        got = r.fault(uses, with_, want=None) if False else r.inj.call(
            "POST", f"runs/{r.id}/faults", {"uses": uses, "target": {"edge": r.edge}, "with": with_})
        assert got[0] == 400, (uses, got)
    r.end()


def test_deaths(run_dir):
    """kill -9 of squalld: sockets that are connected go on; of the proxy: what is new goes direct at once."""
    echo = Echo()
    r = rig(run_dir, echo)
    f = r.fault("call/loss", {"loss": "100%"})
    assert r.run("g = dial(); import builtins; builtins.kept = g\nresult = ask(g, timeout=0.3)")["err"] == 110
    proxy = r.proxy_pid()
    os.kill(r.inj.pid, signal.SIGKILL)
    until("the fault has ended", lambda: r.run("result = ask(builtins_kept(), timeout=0.5) if False else ask(__import__('builtins').kept, timeout=0.5)")["err"] == 0, 10)
    assert alive(proxy)
    peer = echo.peers[-1]
    assert r.run("s = dial()\nresult = [ask(s), s.getsockname()]")[0]["err"] == 0
    assert echo.peers[-1] != peer
    time.sleep(13)  # the flow goes when it was idle, its port does not
    assert alive(proxy)
    assert r.run("result = ask(__import__('builtins').kept)")["err"] == 0
    r.run("__import__('builtins').kept.close()\nresult = 0")
    until("the proxy leaves when nobody is connected to it", lambda: not alive(proxy), 30)
    r.inj.end()


def test_proxy_death(run_dir):
    echo = Echo()
    r = rig(run_dir, echo)
    assert r.ask("ask(dial())")["err"] == 0
    os.kill(r.proxy_pid(), signal.SIGKILL)
    until("it is direct", lambda: r.run("""
s = dial(); u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(1)
me = s.getsockname()[1]; a = ask(s, timeout=1)
u.sendto(b"x", ("127.0.0.1", PORT)); u.recvfrom(10)
result = [a["err"], me, u.getsockname()[1]]""")[1:] == [p[1] for p in echo.peers[-2:]], 10)
    r.inj.end()


if __name__ == "__main__":
    main([test_pass_through, test_faults, test_counts, test_deaths, test_proxy_death])
