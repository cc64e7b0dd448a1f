#!/usr/bin/env python3
"""Edges of datagrams through the real squalld: connected and unconnected sockets, each fault at its share, and what was
asked and answered."""
import math
import os
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from dgram_lib import ANSWERED, NONE, REFUSED, Echo, rig
from injector_lib import until
from intercept_lib import main


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
    r.end()


def test_faults(run_dir):
    """Loss, duplicate, latency and black hole do what they say, for the share that they say, and end."""
    echo = Echo()
    r = rig(run_dir, echo)
    n = 1000
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
        got = r.inj.call("POST", f"runs/{r.id}/faults", {"uses": uses, "target": {"edge": r.edge}, "with": with_})
        assert got[0] == 400, (uses, got)
    r.end()


if __name__ == "__main__":
    main([test_pass_through, test_faults, test_counts])
