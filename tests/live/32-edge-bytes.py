#!/usr/bin/env python3
"""Faults on the bytes of an edge through the real squalld: each kind does what it says, at the rate it says."""
import os
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from injector_lib import alive, until
from intercept_lib import Rig, main

# What the caller runs: a connection, and how long and how whole what it asked for came.
CALLER = r"""
import hashlib
def dial(timeout=20.0):
    c = socket.create_connection(("127.0.0.1", PORT), timeout)
    c.setsockopt(6, 1, 1)
    return c
def pattern(n):
    return (bytes(i * 7 % 251 for i in range(4096)) * (n // 4096 + 1))[:n]
def fetch(n, c=None, timeout=20.0):
    own = c is None
    r = {"n": 0, "err": 0, "first": None, "whole": False}
    t0 = time.monotonic()
    try:
        c = c or dial(timeout)
        c.settimeout(timeout)
        c.sendall(b"send %d\n" % n)
        got = bytearray()
        while len(got) < n or own:
            b = c.recv(65536)
            if r["first"] is None: r["first"] = time.monotonic() - t0
            if not b: break
            got += b
            r["data_s"] = time.monotonic() - t0
        r["n"], r["whole"] = len(got), bytes(got) == pattern(n)
        want = pattern(len(got))
        r["bits"] = sum(bin(a ^ b).count("1") for a, b in zip(got, want)) if len(got) <= 100 else None
    except socket.timeout:
        r["err"] = 110
    except OSError as x:
        r["err"] = x.errno or -1
    r["s"] = time.monotonic() - t0
    if own and c: c.close()
    return r
def push(n):
    c = dial()
    t0 = time.monotonic()
    c.sendall(b"sink %d\n" % n + pattern(n))
    got = c.recv(100)
    r = {"s": time.monotonic() - t0, "whole": got.decode() == hashlib.sha256(pattern(n)).hexdigest()}
    c.close()
    return r
"""


def serve(c):
    """"send N": so many bytes, and the end when it is the last; "sink N": reads so many, answers with their hash."""
    import hashlib
    buf = b""
    data = bytes(i * 7 % 251 for i in range(4096))
    try:
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            while b"\n" not in buf:
                b = c.recv(65536)
                if not b:
                    return
                buf += b
            line, buf = buf.split(b"\n", 1)
            what, n = line.split()[0], int(line.split()[1])
            if what == b"send":
                c.sendall((data * (n // 4096 + 1))[:n])
                if n >= 1000:
                    c.shutdown(socket.SHUT_WR)
                continue
            while len(buf) < n:
                b = c.recv(65536)
                if not b:
                    return
                buf += b
            c.sendall(hashlib.sha256(buf[:n]).hexdigest().encode())
            buf = buf[n:]
    except (OSError, ValueError, IndexError):
        pass
    finally:
        c.close()


class Source:
    def __enter__(self):
        self.s = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.s.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()
        return self

    def run(self):
        while True:
            try:
                c, _ = self.s.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(c,), daemon=True).start()

    def __exit__(self, *unused):
        self.s.close()


def rig_of(run_dir, src, **kw):
    rig = Rig(run_dir, [f"127.0.0.1:{src.port}"], protocol="tcp", **kw)
    rig.ask = lambda code: rig.do(CALLER.replace("PORT", str(src.port)) + code, timeout=60)
    return rig


def end_of(rig, fault):
    """What the event of its end counted."""
    return [e for e in rig.events("fault") if e["fault"] == fault["fault"] and e["state"] == "reverted"][0]


def within(share, wanted, measure):
    """A rate is never exceeded; a busy machine may wake us late once at the end, and all in all not three times."""
    seen = []
    for _ in range(3):
        s = measure()
        seen.append(s)
        assert s >= wanted * (1 - share), f"{s} s instead of {wanted}"
        if s <= wanted * (1 + share) + 0.2:
            return
    raise AssertionError(f"{seen} s instead of {wanted}")


def bandwidth(run_dir):
    with Source() as src:
        rig = rig_of(run_dir, src)
        f = rig.fault("call/bandwidth", {"rate": "10mbit"})
        assert f["readback"]["rate"] == 1250000 and f["readback"]["stream"] == "downstream", f

        def down():
            r = rig.ask("result = fetch(2500000)")
            assert r["whole"], r
            return r["data_s"] - r["first"]
        within(0.02, 2.0, down)
        assert rig.ask("result = push(2500000)")["s"] < 1.5  # the other way is as fast as ever
        rig.clear(f)
        got = end_of(rig, f)
        assert got["acts"] > 100 and got["bytes"] >= 2500000, got
        f = rig.fault("call/bandwidth", {"rate": "10mbit", "stream": "upstream"})
        within(0.02, 2.0, lambda: rig.ask("result = push(2500000)")["s"])
        rig.clear(f)
        assert rig.ask("result = fetch(2500000)")["s"] < 1.5
        rig.end()


def slicer(run_dir):
    with Source() as src:
        rig = rig_of(run_dir, src)
        rig.fault("call/slicer", {"size": 1000, "variation": 0, "delay": "1ms"})

        def down():
            r = rig.ask("result = fetch(1000000)")
            assert r["whole"], r
            return r["data_s"] - r["first"]
        within(0.02, 1.0, down)
        rig.end()


def limit_data(run_dir):
    with Source() as src:
        rig = rig_of(run_dir, src)
        f = rig.fault("call/limit_data", {"bytes": 100001})
        r = rig.ask("result = fetch(1000000)")
        assert r["n"] == 100001 and r["err"] == 0, r
        r = rig.ask("result = fetch(100000)")  # what fits passes, with its end
        assert r["whole"] and r["err"] == 0, r
        rig.clear(f)
        assert end_of(rig, f)["acts"] == 1, end_of(rig, f)
        assert rig.ask("result = fetch(1000000)")["whole"]
        rig.end()


def reset(run_dir):
    with Source() as src:
        rig = rig_of(run_dir, src)
        f = rig.fault("call/reset")
        r = rig.ask("result = fetch(1000)")
        assert r["err"] == 104 and r["n"] == 0, r
        rig.inj.call("PATCH", f"runs/{rig.id}/faults/{f['fault']}", {"with": {"after": "400ms"}})
        r = rig.ask("result = fetch(1000)")
        assert r["err"] == 104 and r["s"] >= 0.4, r
        rig.clear(f)
        assert rig.ask("result = fetch(1000)")["whole"]
        # One that hits none does nothing, not even when a connection ends.
        rig.fault("call/reset", percent="0%")
        for r in rig.ask("result = [fetch(1000) for _ in range(30)]"):
            assert r["whole"] and r["err"] == 0, r
        rig.end()


def timeout(run_dir):
    with Source() as src:
        rig = rig_of(run_dir, src)
        f = rig.fault("call/timeout", {"after": "500ms"})
        r = rig.ask("result = fetch(1000)")
        assert r["n"] == 0 and r["err"] == 0 and r["s"] >= 0.5, r
        rig.clear(f)
        f = rig.fault("call/timeout")
        assert rig.ask("result = fetch(1000, timeout=0.7)")["err"] == 110
        rig.clear(f)
        assert rig.ask("result = fetch(1000)")["whole"]
        rig.end()


def slow_close(run_dir):
    with Source() as src:
        rig = rig_of(run_dir, src)
        rig.fault("call/slow_close", {"delay": "600ms"})
        r = rig.ask("result = fetch(1000)")
        assert r["whole"] and r["s"] - r["data_s"] >= 0.55, r
        rig.end()


def loss(run_dir):
    """Messages of which each is a chunk of its own, for the next one waits until this one was answered or given up."""
    with Source() as src:
        rig = rig_of(run_dir, src)
        f = rig.fault("call/loss", {"loss": "30%"})
        n = 300
        lost = rig.ask(f"c = dial()\nlost = 0\n"
                       f"for _ in range({n}):\n    lost += fetch(10, c, timeout=0.15)['err'] == 110\nresult = lost")
        assert 50 <= lost <= 130, lost  # 30 % of 300; 5 standard deviations are 40
        rig.clear(f)
        acts = end_of(rig, f)["acts"]
        assert 50 <= acts <= 130, acts
        rig.end()


def corrupt(run_dir):
    with Source() as src:
        rig = rig_of(run_dir, src)
        f = rig.fault("call/corrupt", {"corrupt": "100%"})
        got = rig.ask("c = dial()\nresult = [fetch(10, c) for _ in range(100)]")
        assert all(r["bits"] == 1 for r in got), [r for r in got if r["bits"] != 1][:3]
        rig.inj.call("PATCH", f"runs/{rig.id}/faults/{f['fault']}", {"with": {"corrupt": "20%"}})
        got = rig.ask("c = dial()\nresult = [fetch(10, c)['bits'] for _ in range(1000)]")
        hit = sum(b == 1 for b in got)
        assert set(got) <= {0, 1} and 137 <= hit <= 263, hit  # 5 standard deviations of 20 % of 1,000
        rig.end()


def percent(run_dir):
    """Drawn for each connection."""
    with Source() as src:
        rig = rig_of(run_dir, src)
        f = rig.fault("call/reset", percent="30%")
        got = rig.ask("result = [fetch(1000)['err'] for _ in range(500)]")
        hit = sum(e == 104 for e in got)
        assert set(got) <= {0, 104} and 99 <= hit <= 201, hit  # 5 standard deviations
        rig.clear(f)
        assert end_of(rig, f)["acts"] == hit, (end_of(rig, f), hit)
        rig.end()


def changed(run_dir):
    """A rate that is changed under way holds for what already waits, and no byte is lost or doubled."""
    with Source() as src:
        rig = rig_of(run_dir, src)
        f = rig.fault("call/bandwidth", {"rate": "1mbit"})
        out = {}
        t = threading.Thread(target=lambda: out.update(rig.ask("result = fetch(2500000)")))
        t.start()
        time.sleep(1)
        status, got = rig.inj.call("PATCH", f"runs/{rig.id}/faults/{f['fault']}", {"with": {"rate": "400mbit"}})
        assert status == 200 and got["readback"]["rate"] == 50000000, got
        t.join(30)
        assert out["whole"] and 0.9 < out["s"] < 10, out  # 20 s as it began
        status, got = rig.inj.call("PATCH", f"runs/{rig.id}/faults/{f['fault']}", {"with": {"rate": "fast"}})
        assert status == 400, got
        rig.end()


def composed(run_dir):
    """Several on one edge act in the written order, whatever the order they came in: a reset before a loss, a limit
    before a bandwidth."""
    with Source() as src:
        rig = rig_of(run_dir, src)
        loses = rig.fault("call/loss", {"loss": "100%"})
        resets = rig.fault("call/reset")
        assert rig.ask("result = fetch(1000)")["err"] == 104
        rig.clear(resets)
        rig.clear(loses)
        assert end_of(rig, loses)["acts"] == 0 and end_of(rig, resets)["acts"] > 0, rig.events("fault")
        rig.fault("call/bandwidth", {"rate": "10mbit"})
        rig.fault("call/limit_data", {"bytes": 1250000})
        rig.fault("call/latency", {"delay": "300ms"})
        r = rig.ask("result = fetch(5000000)")
        assert r["n"] == 1250000 and r["err"] == 0 and r["first"] >= 0.3 and r["data_s"] >= 1.25, r
        rig.end()


def refused(run_dir):
    with Source() as src:
        rig = rig_of(run_dir, src)
        for uses, wrong in (("bandwidth", {}), ("bandwidth", {"rate": "-1"}), ("slicer", {"size": 0}),
                            ("slicer", {"size": 10, "variation": 10}), ("limit_data", {"bytes": -1}),
                            ("loss", {"loss": "101%"}), ("reset", {"stream": "sideways"}), ("timeout", {"before": "1s"})):
            status, body = rig.inj.call("POST", f"runs/{rig.id}/faults", {
                "uses": "call/" + uses, "target": {"edge": rig.edge}, "with": wrong})
            assert status == 400 and body["error"]["message"], (uses, wrong, body)
        assert rig.ask("result = fetch(1000)")["whole"]
        rig.end()


def lease(run_dir):
    """Nobody renews: the fault is taken back, and the log says by what."""
    with Source() as src:
        rig = rig_of(run_dir, src, lease="5s")
        rig.inj.run(lease="60s")  # a private injector would leave with its last run
        f = rig.fault("call/bandwidth", {"rate": "1mbit"})
        assert rig.ask("result = fetch(1000)['n']") == 1000
        until("the fault is taken back", lambda: any(e["state"] == "reverted" for e in rig.events("fault")), 15)
        got = end_of(rig, f)
        assert got["by"] == "lease" and got["acts"] > 0, got
        rig.inj.end()


def proxy_dies(run_dir):
    """kill -9: what it carried breaks off, new calls go direct, and nothing slows them."""
    with Source() as src:
        rig = rig_of(run_dir, src, mode="bpf")
        rig.fault("call/bandwidth", {"rate": "1mbit"})
        out = {}
        t = threading.Thread(target=lambda: out.update(rig.ask("result = fetch(2500000)")))
        t.start()
        time.sleep(0.7)
        pid = rig.proxy_pid()
        os.kill(pid, signal.SIGKILL)
        until("the proxy is dead", lambda: not alive(pid))
        t.join(20)
        assert not out["whole"] and out["err"] in (0, 104) and out["s"] < 15, out
        r = rig.ask("result = fetch(2500000)")
        assert r["whole"] and r["s"] < 5, r
        rig.inj.end()


main([bandwidth, slicer, limit_data, reset, timeout, slow_close, loss, corrupt, percent, changed, composed, refused, lease,
      proxy_dies])
