#!/usr/bin/env python3
"""Datagrams to IPv6 addresses, in a network namespace of their own: unconnected sockets of every kind, sendmmsg(2), and
DNS faults on name servers with IPv6 addresses."""
import os
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import dns_lib
from dgram_lib import ANSWERED, MMSG, Echo, rig
from dns_lib import A4, A6, Server, alone
from injector_lib import until
from intercept_lib import Rig, main

OTHER = "fd00:5c1a::5"

# What the caller runs.
SOCKETS = MMSG + r"""
def fresh(v6only=False, bind=None, **kw):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
    s.settimeout(2)
    if bind: s.bind((bind, 0))
    return s
def to(host, s, data=b"x"):
    t0 = time.monotonic()
    try:
        s.sendto(data, (host, PORT))
        got, frm = s.recvfrom(70000)
        return {"whole": got == data, "frm": list(frm[:2]), "ms": (time.monotonic() - t0) * 1000}
    except OSError as x:
        return {"err": str(x)}
def collect(s, n):
    got = []
    try:
        while len(got) < n:
            data, frm = s.recvfrom(100); got.append([data.decode(), frm[0]])
    except socket.timeout: pass
    return sorted(got)
"""


def both(run_dir):
    """Echoes on one port of ::1, of another address, and of IPv4."""
    echoes = [Echo(socket.AF_INET6, "::")]
    port = echoes[0].port
    r = rig(run_dir, echoes[0], to=[f"[::1]:{port}", f"[{OTHER}]:{port}", f"127.0.0.1:{port}"])
    head = SOCKETS + f"OTHER = {OTHER!r}\n"
    r.six = lambda body: r.run(head + body)
    return r, echoes[0], port


def test_unconnected(run_dir):
    """Sockets that are bound or not, IPv6 only or not, to all kinds of addresses: taken, and nobody sees that."""
    r, echo, port = both(run_dir)
    got = r.six("""
any = fresh()
result = [to("::1", fresh()), to("::1", fresh(v6only=True)), to(OTHER, fresh()), to("::1", fresh(bind="::1")),
          to(OTHER, fresh(bind=OTHER)), to("::1", fresh(bind=OTHER)), to("::1", any), to(OTHER, any),
          to("::ffff:127.0.0.1", any), to("::1", any, b"y" * 9000), to("::1", any, b"y" * 65000)]
""")
    hosts = ["::1", "::1", OTHER, "::1", OTHER, "::1", "::1", OTHER, "::ffff:127.0.0.1", "::1", "::1"]
    assert [g.get("frm") for g in got] == [[h, port] for h in hosts], got
    assert all(g["whole"] for g in got), got
    until("the calls are told", lambda: len(r.calls()) >= 11, 15)
    assert all(c[2] == ANSWERED for c in r.calls()), r.calls()
    f = r.fault("call/latency", {"delay": "150ms"})
    got = r.six("""
any = fresh()
result = [to("::1", any), to(OTHER, any), to("::ffff:127.0.0.1", any), to("::1", fresh(v6only=True)),
          to("::1", fresh(bind=OTHER))]
""")
    assert all(149 <= g.get("ms", 0) < 2000 for g in got), got
    r.clear(f)
    f = r.fault("call/blackhole")
    seen = echo.seen
    got = r.six("""
s = fresh(); s.settimeout(0.3)
result = [to("::1", s), to(OTHER, s), to("::ffff:127.0.0.1", s)]
""")
    assert all("err" in g for g in got) and echo.seen == seen, (got, echo.seen, seen)
    r.clear(f)
    assert r.six('result = to("::1", fresh())')["whole"]
    r.end()


def test_sendmmsg(run_dir):
    """Each message of a sendmmsg(2) is a call of its own, to where it goes."""
    r, echo, port = both(run_dir)
    want = [["a", "::1"], ["b", OTHER], ["c", "::ffff:127.0.0.1"]]
    many = f'n = mmsg(s, [(("::1", PORT), b"a"), (({OTHER!r}, PORT), b"b"), (("::ffff:127.0.0.1", PORT), b"c")])[0]\n'
    got = r.six(f"s = fresh()\n{many}result = [n, collect(s, 3)]")
    assert got == [3, want], got
    until("three calls", lambda: len(r.calls()) >= 3, 15)
    f = r.fault("call/loss", {"loss": "100%", "stream": "upstream"})
    seen = echo.seen
    got = r.six(f"s = fresh(); s.settimeout(0.4)\n{many}result = [n, collect(s, 3)]")
    assert got == [3, []] and echo.seen == seen, (got, echo.seen)
    got = r.six('s = fresh(); s.connect(("::1", PORT)); s.settimeout(0.4)\n'
                'result = [mmsg(s, [(None, b"a"), (None, b"b")])[0], collect(s, 2)]')
    assert got == [2, []] and echo.seen == seen, (got, echo.seen)
    r.clear(f)
    r.end()


def test_past_the_proxy(run_dir):
    """What can't be taken gets through all the same, and is counted."""
    r, echo, port = both(run_dir)
    f = r.fault("call/blackhole")
    got = r.six("""
s = fresh()
s.sendmsg([b"x"], [(socket.IPPROTO_IPV6, 50, socket.inet_pton(socket.AF_INET6, OTHER) + struct.pack("=I", 0))], 0,
          ("::1", PORT))
c = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); c.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
c.settimeout(2); c.connect(("::1", PORT)); c.send(b"y")
result = [collect(s, 1), c.recv(10).decode(), c.getpeername()[:2]]
""")
    assert got == [[["x", OTHER]], "y", ["::1", port]], got
    assert r.calls() == [], r.calls()
    told = lambda: sorted(e["text"].split(": ", 1)[1] for e in r.events("warning"))
    until("both reasons are told, and no others", lambda: len(told()) == 2)
    assert "IPv6 only" in told()[0] and "IPV6_PKTINFO" in told()[1], told()
    r.clear(f)
    r.end()


def test_dns(run_dir):
    """Name servers with IPv6 addresses, as the C library's resolver and raw queries see them."""
    for host in ("::1", OTHER):
        d = os.path.join(run_dir, "d" + str(len(host)))
        os.mkdir(d)
        server = Server(host)
        r = Rig(d, [f"[{host}]:53"], mode="bpf", protocol="dns")
        head = f"NS={host!r}\nCONF={os.path.join(d, 'resolv.conf')!r}\n" + dns_lib.RAW
        ask = lambda what: r.do(head + f"result = {what}\n", 60)
        for how in ("udp('a.test')", "udp('a.test', connected=False)", "tcp(['a.test'])[0]"):
            got = ask(how)
            assert got["addr"] == [A4] and got.get("frm", [host, 53]) == [host, 53], (how, got)
        assert ask("lookup('a.test')")[0] == str(sorted([A6, A4]))
        f = r.inj.post(f"runs/{r.id}/faults", {"uses": "call/dns", "target": {"edge": r.edge},
                                               "with": {"answer": "nxdomain", "names": ["db.test"]}})
        for how in ("udp('db.test')", "udp('db.test', connected=False)", "tcp(['db.test'])[0]"):
            got = ask(how)
            assert got["rcode"] == 3 and got["id_ok"] and got.get("frm", [host, 53]) == [host, 53], (how, got)
        assert ask("lookup('db.test')")[0] == "-2" and ask("lookup('a.test')")[0] == str(sorted([A6, A4]))
        assert not [a for a in server.asked if a[0] == "db.test"], server.asked
        r.clear(f)
        assert ask("udp('db.test', connected=False)")["addr"] == [A4]
        r.end()
        server.close()


if __name__ == "__main__":
    alone(OTHER)
    main([test_unconnected, test_sendmmsg, test_past_the_proxy, test_dns])
