#!/usr/bin/env python3
"""DNS faults through the real squalld: each answer bit by bit over UDP and TCP, for chosen names only, and as the C
library's resolver sees them; the counts; what ends when squalld or the proxy dies."""
import os
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import dns_lib
from dns_lib import A4, A6, Server
from injector_lib import until
from intercept_lib import Rig, main

ANSWERED, FAILED, GAVE_UP, REFUSED, BROKEN, OPEN, NONE = range(7)
RCODE = {"nxdomain": 3, "servfail": 2, "refused": 5, "nodata": 0}


class Dns(Rig):
    def __init__(self, run_dir, to=None):
        self.server = Server()
        super().__init__(run_dir, to or [f"{self.server.host}:53"], mode="bpf", protocol="dns")
        self.head = f"NS={self.server.host!r}\nCONF={os.path.join(run_dir, 'resolv.conf')!r}\n" + dns_lib.RAW

    def ask(self, what):
        return self.do(self.head + f"result = {what}\n", 60)

    def dns(self, target=None, **with_):
        return self.inj.post(f"runs/{self.id}/faults",
                             {"uses": "call/dns", "target": {"edge": self.edge, **(target or {})}, "with": with_})

    def end(self):
        super().end()
        self.server.close()


def sound(a):
    assert a["id_ok"] and a["question_ok"] and a["qr"] and a["whole"], a


def test_answers(run_dir):
    """Each kind of answer: the right rcode, id, question (with its case), EDNS when it was asked with it."""
    r = Dns(run_dir)
    for ask in ("udp('a.test')", "udp('a.test', connected=False)", "tcp(['a.test'])[0]"):
        got = r.ask(ask)
        sound(got)
        assert got["addr"] == [A4] and got["rcode"] == 0, got
    assert r.server.asked == [("a.test", 1, "udp")] * 2 + [("a.test", 1, "tcp")], r.server.asked
    for answer, rcode in RCODE.items():
        seen = len(r.server.asked)
        f = r.dns(answer=answer)
        for ask in ("udp('DB.eXample.Test')", "udp('a.test', connected=False, edns=1232)", "udp('a.test', 28, cd=1)",
                    "tcp(['a.test'], edns=4096)[0]"):
            got = r.ask(ask)
            sound(got)
            assert got["rcode"] == rcode and got["addr"] == [] and got["ra"] == 1, (answer, got)
            assert got["opt"] == (1 if "edns" in ask else 0), (ask, got)
            assert got.get("frm", [r.server.host, 53]) == [r.server.host, 53], got
        assert len(r.server.asked) == seen, "a query reached the real resolver"
        r.clear(f)
    f = r.dns(answer="wrong", address=["203.0.113.5", "203.0.113.6", "2001:db8::bad"])
    assert r.ask("udp('a.test')")["addr"] == ["203.0.113.5", "203.0.113.6"]
    assert r.ask("udp('a.test', 28)")["addr"] == ["2001:db8::bad"]
    assert max(r.ask("udp('a.test')")["ttl"]) <= 1
    assert r.ask("tcp(['a.test'])[0]")["addr"] == ["203.0.113.5", "203.0.113.6"]
    assert r.ask("udp('a.test', 15)")["rcode"] == 0 and r.server.asked[-1][1] == 15  # other types are the real ones
    r.clear(f)
    f = r.dns(answer="wrong", address=["203.0.113.5"])
    got = r.ask("udp('a.test', 28)")
    assert got["rcode"] == 0 and got["addr"] == [], got  # it has no address of that kind
    r.clear(f)
    f = r.dns(answer="timeout")
    seen = len(r.server.asked)
    assert r.ask("udp('a.test', timeout=0.4)")["rcode"] == -1
    assert r.ask("tcp(['a.test'], timeout=0.4)") == [] and len(r.server.asked) == seen
    r.clear(f)
    f = r.dns(delay="300ms")
    for ask in ("udp('a.test')", "tcp(['a.test'])[0]"):
        got = r.ask(ask)
        assert got["addr"] == [A4] and 299 <= got["ms"] < 1500, got
    r.clear(f)
    f = r.dns(answer="servfail", delay="200ms")
    got = r.ask("udp('a.test')")
    assert got["rcode"] == 2 and 199 <= got["ms"] < 1500, got
    r.clear(f)
    assert r.ask("udp('a.test')")["ms"] < 190
    r.end()


def test_names(run_dir):
    """Only the names and types that were named; two faults; counts; long answers cut off as they must be."""
    r = Dns(run_dir)
    f = r.dns(answer="nxdomain", names=["db.test", "*.deep.test."], types=["A"])
    got = {n: r.ask(f"udp('{n}')")["rcode"] for n in ("db.test", "DB.Test", "x.deep.test", "a.x.deep.test", "deep.test",
                                                      "xdeep.test", "db.test.org", "x.db.test")}
    assert got == {"db.test": 3, "DB.Test": 3, "x.deep.test": 3, "a.x.deep.test": 3, "deep.test": 0, "xdeep.test": 0,
                   "db.test.org": 0, "x.db.test": 0}, got
    assert r.ask("udp('db.test', 28)")["addr"] == [A6]
    got = r.ask("tcp(['db.test', 'ok.test', 'x.deep.test'])")
    assert sorted(g["rcode"] for g in got) == [0, 3, 3], got
    f2 = r.dns(answer="refused")
    assert [r.ask(f"udp('{n}')")["rcode"] for n in ("db.test", "ok.test")] == [3, 5]  # the first one that it concerns
    r.clear(f2)
    r.clear(f)
    f = r.dns({"first": 2, "after": 1}, answer="servfail", names=["db.test"])
    got = [r.ask(f"udp('{n}')")["rcode"] for n in ("ok.test", "db.test", "ok.test", "db.test", "db.test", "db.test")]
    assert got == [0, 0, 0, 2, 2, 0], got
    r.clear(f)
    many = [f"203.0.113.{i}" for i in range(1, 17)] + [f"2001:db8::{i}" for i in range(1, 17)]
    f = r.dns(answer="wrong", address=many)
    name = ".".join(["x" * 60] * 4)
    got = r.ask(f"udp('{name}', 28)")
    assert got["tc"] == 1 and got["addr"] == [], got
    assert len(r.ask(f"udp('{name}', 28, edns=4096)")["addr"]) == 16
    assert len(r.ask(f"tcp(['{name}'], 28)")[0]["addr"]) == 16
    r.clear(f)
    until("all is told", lambda: len(r.calls()) >= 23, 15)
    told = r.calls()
    assert {c[2] for c in told} == {ANSWERED, FAILED}, told
    assert all((c[3] in (2, 3, 5) or "wrong") and c[6] for c in told if c[2] == FAILED)
    r.server.extra = 100
    got = r.ask("udp('big.test')")
    assert got["tc"] == 1 and len(r.ask("tcp(['big.test'])")[0]["addr"]) == 101
    r.end()


def test_libc(run_dir):
    """getaddrinfo of the C library, with all its habits (two questions on one socket, sorting by connects)."""
    r = Dns(run_dir)
    assert r.ask("lookup('a.test')")[0] == str(sorted([A6, A4])), r.ask("lookup('a.test')")
    calls = r.calls
    until("both questions are told", lambda: len(calls()) >= 2, 10)
    time.sleep(0.3)
    assert len(calls()) == len(r.server.asked), (calls(), r.server.asked)  # and nothing else: a connect is no call
    for answer, errno in (("nxdomain", -2), ("servfail", -3), ("refused", -3), ("nodata", -5)):
        f = r.dns(answer=answer, names=["a.test"])
        got = r.ask("lookup('a.test')")
        assert got[0] == str(errno), (answer, got)
        assert r.ask("lookup('b.test')")[0] == str(sorted([A6, A4]))
        r.clear(f)
    f = r.dns(answer="wrong", address=["203.0.113.9"])
    assert r.ask("lookup('a.test')")[0] == "['203.0.113.9']"
    r.clear(f)
    f = r.dns(answer="timeout")
    got = r.ask("lookup('a.test', 2)")
    assert got[0] == "-3" and got[1] >= 0.9, got
    r.clear(f)
    r.server.extra = 100  # cut off over UDP: it asks again over TCP
    assert r.ask("lookup('a.test', 2)")[0] == f"['{A4}']" and r.server.asked[-1][2] == "tcp"
    r.end()


def test_hostile(run_dir):
    """Packets that are no queries go through, or nowhere, and harm nobody."""
    r = Dns(run_dir)
    f = r.dns(answer="nxdomain")
    got = r.do(r.head + """
import random
rnd = random.Random(1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((NS, 53))
for i in range(2000):
    qid, q = query("a.test", edns=1232)
    q = bytearray(q)
    for k in range(rnd.randrange(4)): q[rnd.randrange(len(q))] = rnd.randrange(256)
    s.send(bytes(q[:rnd.randrange(len(q) + 1)]))
for i in range(20):
    c = socket.create_connection((NS, 53), 2)
    c.send(bytes(rnd.randrange(256) for _ in range(rnd.randrange(400))))
    c.close()
slow = [socket.create_connection((NS, 53), 2) for _ in range(50)]
for c in slow: c.send(b"\\xff\\xff" + b"x" * 1000)
result = [udp("a.test")["rcode"], tcp(["a.test"])[0]["rcode"]]
for c in slow: c.close()
""", 40)
    assert got == [3, 3], got
    r.clear(f)
    r.end()


def test_deaths(run_dir):
    """The fault ends with whatever dies: the queries after it get the real answer."""
    for who in ("squalld", "proxy"):
        d = os.path.join(run_dir, who)
        os.mkdir(d)
        r = Dns(d)
        r.dns(answer="nxdomain")
        assert r.ask("udp('a.test')")["rcode"] == 3
        os.kill(r.inj.pid if who == "squalld" else r.proxy_pid(), signal.SIGKILL)
        until("real answers", lambda: r.ask("udp('a.test', timeout=0.5)")["rcode"] == 0, 10)
        assert r.ask("udp('a.test', connected=False)")["addr"] == [A4]
        assert r.ask("tcp(['a.test'])")[0]["addr"] == [A4]
        r.server.close()
        r.inj.end()


if __name__ == "__main__":
    main([test_answers, test_names, test_libc, test_hostile, test_deaths])
