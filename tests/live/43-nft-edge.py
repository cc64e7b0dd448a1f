#!/usr/bin/env python3
"""Where cgroup-BPF is missing, calls of programs that run already are taken by an nftables table that ends with the proxy
(nft_lib.py)."""
import contextlib
import os
import socket
import threading
import time

from attach_lib import Program
from injector_lib import alive, until
from intercept_lib import Dependency, main
from nft_lib import HERE, HERE6, Attached, Cgroup, begin, tables


def walks(run_dir):
    """What passes is counted, faults come and go, nobody else is touched, and nothing is left."""
    with Dependency(host=HERE) as dep, Dependency(host=HERE) as other, Cgroup() as cg:
        with Program(run_dir, cgroup=cg) as prog:
            to = [f"{HERE}:{dep.port}"]
            rig = Attached(run_dir, {"cgroup": cg}, to, prog=prog)
            assert any("nftables" in n for n in rig.plan["notes"]), rig.plan
            assert not rig.answer["delays_connect"] and "behind the connect" in rig.answer["why"], rig.answer
            assert [t for t in tables() if "-edges-" in t] and [t for t in tables() if "-held-" in t], tables()
            call = f"result = attempt({dep.port}, {HERE!r})"
            for _ in range(5):
                r = rig.do(call)
                assert r["body"] == "real" and r["peer"] == [HERE, dep.port], r
            assert rig.do(f"result = blocking({dep.port}, {HERE!r})")["err"] == 0
            assert rig.do(f"result = attempt({dep.port}, '::ffff:{HERE}', family=socket.AF_INET6)")["body"] == "real"
            assert rig.do(f"result = attempt({other.port}, {HERE!r})")["body"] == "real"
            until("they are counted", lambda: len(rig.calls()) == 7)
            assert rig.live()["connects"] == rig.live()["redirected"] == 7, rig.live()
            assert rig.live()["instances"][0]["requests"] == 6, rig.live()

            f = rig.fault("call/latency", {"delay": "150ms"})
            r = rig.do(call)
            assert r["err"] == 0 and r["ms"] < 100 and r["total_ms"] >= 149, r
            s = socket.create_connection((HERE, dep.port))  # not of the cgroup
            t0 = time.monotonic()
            s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert s.recv(100) and time.monotonic() - t0 < 0.14
            s.close()
            rig.clear(f)
            f = rig.fault("call/http_status", {"status": 503})
            assert rig.do("import http.client; c = http.client.HTTPConnection(%r, %d); c.request('GET', '/');"
                          " result = c.getresponse().status" % (HERE, dep.port)) == 503
            rig.clear(f)
            f = rig.fault("call/blackhole")
            r = rig.do(f"result = attempt({dep.port}, {HERE!r}, timeout=0.3)")
            assert r["err"] == 110 and not r["body"], r
            rig.clear(f)
            assert rig.do(call)["body"] == "real"
            before = len(rig.calls())
            f = rig.fault("call/error", {"errno": "ECONNREFUSED"})
            for code in (call, f"result = blocking({dep.port}, {HERE!r})"):
                r = rig.do(code)
                assert r["err"] == 111 and r["ms"] < 500, r
            assert rig.do(f"result = attempt({other.port}, {HERE!r})")["body"] == "real"
            until("the refused ones are told", lambda: sum(c[2] == 1 for c in rig.calls()[before:]) == 2)
            felt = next(x for x in rig.live()["faults"] if x["active"])
            assert felt["seen"] == felt["hits"] == 2, felt
            rig.clear(f)
            assert rig.do(call)["body"] == "real"
            f = rig.fault("call/error", {"errno": "ECONNREFUSED"}, percent="40%")
            errs = rig.do(f"result = [attempt({dep.port}, {HERE!r}, ask=False)['err'] for _ in range(500)]", 60)
            assert set(errs) == {0, 111} and 130 <= errs.count(111) <= 270, errs.count(111)
            until("all are counted", lambda: next(x for x in rig.live()["faults"] if x["active"])["seen"] == 500)
            assert next(x for x in rig.live()["faults"] if x["active"])["hits"] == errs.count(111)
            rig.clear(f)
            assert rig.do(call)["body"] == "real"
            assert rig.inj.delete(f"runs/{rig.id}")["clean"]
            until("no table leads anybody", lambda: not [t for t in tables() if "-edges-" in t])
            assert rig.do(call)["body"] == "real"
            until("no table is left", lambda: not tables(), 10)


def unlike(run_dir):
    """IPv6, exceptions, and edges that come and go; what nftables can't do is refused before anything is touched."""
    with Dependency(socket.AF_INET6, HERE6) as six, Dependency(host=HERE) as dep, Dependency(host=HERE) as spared, Cgroup() as cg:
        with Program(run_dir, cgroup=cg) as prog:
            rig = Attached(run_dir, {"cgroup": cg}, [f"[{HERE6}]:{six.port}"], prog=prog)
            rig.inj.post(f"runs/{rig.id}/edges", {"name": "net", "from": "app", "to": ["10.77.0.0/16:1-65535"],
                                                  "except": [f"{HERE}:{spared.port}"]})
            assert rig.do(f"result = attempt({six.port}, {HERE6!r}, family=socket.AF_INET6)")["body"] == "real"
            only6 = f"result = attempt({six.port}, {HERE6!r}, family=socket.AF_INET6, prepare=lambda c: c.setsockopt(41, 26, 1))"
            assert rig.do(only6)["body"] == "real"
            assert rig.do(f"result = attempt({dep.port}, {HERE!r})")["body"] == "real"
            until("they are counted", lambda: len(rig.calls()) == 3)
            f = rig.fault("call/error", {"errno": "ECONNREFUSED"})
            assert rig.do(only6)["err"] == 111
            rig.clear(f)
            rig.edge = "net"
            f = rig.fault("call/error", {"errno": "ECONNREFUSED"})
            assert rig.do(f"result = attempt({dep.port}, {HERE!r})")["err"] == 111
            assert rig.do(f"result = attempt({spared.port}, {HERE!r})")["body"] == "real"
            assert rig.do(only6)["body"] == "real"
            rig.clear(f)

            def refused(what, status=(409, 422, 400, 501), **fault):
                got = rig.fault("call/error", want=status, **fault)
                assert what in got["error"]["message"], got
            status, got = rig.inj.call("POST", f"runs/{rig.id}/edges", {"name": "dns", "from": "app", "protocol": "dns",
                                                                        "to": [f"{HERE}:53"]})
            assert status >= 400 and "datagrams" in got["error"]["message"], got
            refused("ECONNREFUSED only", with_={"errno": "EHOSTUNREACH"})
            refused("can't count them", with_={"errno": "ECONNREFUSED"}, first=3)


def whom(run_dir):
    """A process that has its cgroup to itself is taken in place; others are refused, with the reason."""
    with Dependency(host=HERE) as dep, Cgroup() as cg, Cgroup("b") as shared:
        with Program(run_dir, cgroup=cg) as prog, Program(run_dir, "c", shared) as c, Program(run_dir, "d", shared) as d:
            rig = Attached(run_dir, {"pid": prog.pid}, [f"{HERE}:{dep.port}"], prog=prog)
            child = ("p = subprocess.run([sys.executable, '-c', 'import socket, sys; c = socket.socket();'"
                     " 'sys.exit(c.connect_ex((%r, %d)))']); result = p.returncode" % (HERE, dep.port)).replace("'10.", "\"10.").replace(".1',", ".1\",")
            f = rig.fault("call/error", {"errno": "ECONNREFUSED"})
            assert rig.do(child) == 111 and rig.do(f"result = attempt({dep.port}, {HERE!r})")["err"] == 111
            assert c.do(f"result = attempt({dep.port}, {HERE!r})")["err"] == 0
            rig.clear(f)

            def says(text, **select):
                for what, body in (("services", {"name": "other", "select": select}), ("plan", {"select": select})):
                    status, got = rig.inj.call("POST", f"runs/{rig.id}/{what}", body)
                    assert status >= 400 and text in got["error"]["message"], (status, got)
            says("shares the cgroup", pid=c.pid)
            says("2 processes match", pattern=f"{run_dir}/[cd].sock")
            says("intercepted already", pid=prog.pid)
            with Cgroup("n") as away:
                with Program(run_dir, "e", away) as e:
                    e.do("import ctypes; result = ctypes.CDLL(None).unshare(0x40000000)")
                    says("another network namespace", pid=e.pid)


def before(run_dir):
    """A connection from before stays with whom it was made; one that was led goes on when its run has ended."""
    with Dependency(host=HERE) as dep, Cgroup() as cg:
        with Program(run_dir, cgroup=cg) as prog:
            opened = (f"c = socket.create_connection(({HERE!r}, {dep.port})); c.settimeout(5); keep.append(c); result = 1")
            ask = ("c = keep[%d]; c.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); got = b''\n"
                   "while not got.endswith(b'real'): got += c.recv(4096) or b'real'\nresult = got.decode()[-4:]")
            assert prog.do(opened) == 1 and prog.do(ask % 0) == "real"
            rig = Attached(run_dir, {"cgroup": cg}, [f"{HERE}:{dep.port}"], prog=prog)
            assert rig.plan["connections"] == 1 and rig.answer["existing"]["left"] == 1, (rig.plan, rig.answer)
            assert prog.do(ask % 0) == "real"
            assert prog.do(opened) == 1 and prog.do(ask % 1) == "real"
            f = rig.fault("call/error", {"errno": "ECONNREFUSED"})
            assert prog.do(ask % 0) == "real"
            rig.clear(f)
            assert prog.do(opened) == 1 and prog.do(ask % 2) == "real"
            assert rig.inj.delete(f"runs/{rig.id}")["clean"]
            assert [t for t in tables() if "-edges-" in t] == []
            for i in range(3):
                if i != 1:  # a fault that fails every call resets what is idle
                    assert prog.do(ask % i) == "real", i
            rig.inj.post("quit")
            until("squalld has ended", lambda: not alive(rig.inj.pid))
            assert prog.do(ask % 2) == "real"
            assert prog.do("[c.close() for c in keep]; result = 1")
            until("no table is left", lambda: not tables(), 15)


HALF = """
s = socket.create_connection((%r, %d), timeout=5)
time.sleep(0.1)
s.sendall(b"\\0x")
s.shutdown(1)
result = b"".join(iter(lambda: s.recv(100), b"")).decode()
s.close()
"""
LEAVE = """
s = socket.create_connection((%r, %d), timeout=5)
s.sendall(b"\\0x")
time.sleep(0.3)
s.close()
"""


def leaves(run_dir):
    """Whether a caller left, or only said that it is done, its socket tells, which knows its dependency and not the proxy."""
    def greet(c):
        with c, contextlib.suppress(ConnectionResetError):
            c.sendall(b"hello ")
            while c.recv(100):
                pass
            c.sendall(b"and bye")

    for host in HERE, HERE6:
        where = os.path.join(run_dir, "6" if ":" in host else "4")
        os.mkdir(where)
        with Cgroup() as cg, Program(where, cgroup=cg) as prog:
            dep = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
            threading.Thread(target=lambda: [greet(dep.accept()[0]) for _ in range(2)], daemon=True).start()
            to, at = f"[{host}]:%d" if ":" in host else f"{host}:%d", dep.getsockname()[1]
            rig = Attached(where, {"cgroup": cg}, [to % at], prog=prog)
            f = rig.fault("call/latency", {"delay": "500ms"})
            assert rig.do(HALF % (host, at)) == "hello and bye"
            rig.clear(f)
            until("it is told", lambda: [c[2] for c in rig.calls()] == [0])
            rig.fault("call/blackhole")
            rig.do(LEAVE % (host, at) + "result = 1")
            until("that it gave up is told, too", lambda: [c[2] for c in rig.calls()] == [0, 2])
            rig.end()


begin()
main([walks, unlike, whom, before, leaves])
