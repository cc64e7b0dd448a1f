#!/usr/bin/env python3
"""The proxy passes bytes unaltered and counts calls."""
import hashlib
import os
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from proxy_rig import (ANSWERED, BROKEN, CONN, CONNECT, GAVE_UP, MS, REFUSED, REQUEST, Rig, Server, echo_server,
                       get, http_server, listener, main, read_answer, reset_within)

MIB = 1 << 20


def integrity():
    """64 MiB each way at once, half-close carried over, one CONN call."""
    data = os.urandom(MIB)
    total, up = 64, hashlib.sha256()
    done = threading.Event()

    def handle(c):
        def push():
            for _ in range(total):
                c.sendall(data)
            c.shutdown(socket.SHUT_WR)
        pusher = threading.Thread(target=push, daemon=True)
        pusher.start()
        while True:
            d = c.recv(MIB)
            if not d:
                break
            up.update(d)
        pusher.join()
        done.set()
    srv = Server(handle)
    rig = Rig()
    rig.edge(1, "tcp")
    s = rig.connect(srv.addr)

    def push():
        for _ in range(total):
            s.sendall(data)
        s.shutdown(socket.SHUT_WR)
    threading.Thread(target=push, daemon=True).start()
    down = hashlib.sha256()
    while True:
        d = s.recv(MIB)
        if not d:
            break
        down.update(d)
    assert done.wait(20)
    want = hashlib.sha256(data * total).hexdigest()
    assert up.hexdigest() == want and down.hexdigest() == want
    s.close()
    c = rig.take(1)[0]
    assert (c.kind, c.outcome, c.edge, c.caller) == (CONN, ANSWERED, 1, 1), c
    rig.quit()


def keepalive():
    srv, rig = http_server(wait=0.005), Rig()
    rig.edge(1)
    s = rig.connect(srv.addr, caller=42)
    for i in range(20):
        assert get(s, trace="%032x" % (i + 1))[0] == b"HTTP/1.1 200 OK"
    s.close()
    for i, c in enumerate(rig.take(20)):
        assert (c.kind, c.outcome, c.status, c.caller, c.fault, c.held) == (REQUEST, ANSWERED, 200, 42, "", 0), c
        assert c.trace == "%032x" % (i + 1), c
        assert 5 * MS <= c.dur < 500 * MS and 0 < c.answer <= c.dur, c
        assert abs(c.start - time.monotonic_ns()) < 20e9
    assert srv.accepted == 1
    rig.none()
    rig.quit()


def pipelining():
    srv, rig = http_server(), Rig()
    rig.edge(1)
    s = rig.connect(srv.addr)
    s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
    for _ in range(50):
        buf = b""
        while len(buf) < len(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"):
            buf += s.recv(len(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") - len(buf))
        assert buf.endswith(b"hello")
    assert all(c.outcome == ANSWERED and c.kind == REQUEST for c in rig.take(50))
    s.close()
    rig.none()
    rig.quit()


def byte_by_byte():
    """Every message in single bytes: chunked bodies, 100-continue, HEAD, and a body that ends with the connection."""
    answers = [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
               b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
               b"HTTP/1.1 204 No Content\r\n\r\n",
               b"HTTP/1.1 503 No\r\nConnection: close\r\n\r\nuntil the end"]
    requests = [b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
                b"HEAD / HTTP/1.1\r\n\r\n", b"DELETE /x HTTP/1.1\r\nContent-Length: 2\r\n\r\nzz",
                b"GET / HTTP/1.0\r\n\r\n"]

    def handle(c):
        for q, a in zip(requests, answers):
            got = b""
            while len(got) < len(q):
                got += c.recv(1)
            assert got == q, got
            for b in a:
                c.send(bytes([b]))
    srv, rig = Server(handle), Rig()
    rig.edge(1)
    s = rig.connect(srv.addr)
    for q, a in zip(requests, answers):
        for b in q:
            s.send(bytes([b]))
        got = b""
        while len(got) < len(a):
            d = s.recv(1)
            assert d
            got += d
        assert got == a
    assert s.recv(1) == b""
    assert [c.status for c in rig.take(4)] == [201, 200, 204, 503]
    s.close()
    rig.none()
    rig.quit()


def upgrade():
    """After 101 it is no HTTP any more; the call was answered with 101. A server that ignores Upgrade stays HTTP."""
    def handle(c):
        c.recv(4096)
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        c.recv(4096)
        c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n\x00\x01")
        while True:
            d = c.recv(4096)
            if not d:
                return
            c.sendall(d)
    srv, rig = Server(handle), Rig()
    rig.edge(1)
    s = rig.connect(srv.addr)
    ask = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    s.sendall(ask)
    assert read_answer(s).endswith(b"200 OK")
    s.sendall(ask)
    assert read_answer(s).endswith(b"101 Switching Protocols")
    s.sendall(b"GET / HTTP/1.1\r\n\r\n\xff\xfe")
    got = b""
    while len(got) < 20:
        got += s.recv(100)
    assert got.endswith(b"\xff\xfe")
    s.close()
    assert [c.status for c in rig.take(2)] == [200, 101]
    rig.none()
    rig.quit()


def server_speaks_first():
    def handle(c):
        c.sendall(b"220 mail\r\n")
        c.recv(100)
    srv, rig = Server(handle), Rig()
    rig.edge(1)
    s = rig.connect(srv.addr)
    assert s.recv(100) == b"220 mail\r\n"
    s.sendall(b"QUIT\r\n")
    assert s.recv(1) == b""
    s.close()
    c = rig.take(1)[0]
    assert (c.kind, c.outcome) == (CONN, ANSWERED) and c.answer > 0, c
    rig.quit()


def not_http():
    srv, rig = echo_server(), Rig()
    rig.edge(1)
    s = rig.connect(srv.addr)
    s.sendall(b"\x16\x03\x01\x02\x00 binary")
    assert s.recv(100) == b"\x16\x03\x01\x02\x00 binary"
    s.close()
    assert rig.take(1)[0].kind == CONN
    rig.quit()


def refused():
    rig = Rig()
    rig.edge(1)
    dead = socket.socket()
    dead.bind(("127.0.0.1", 0))
    s = rig.connect(dead.getsockname())
    assert reset_within(s)
    c = rig.take(1)[0]
    assert (c.kind, c.outcome, c.status) == (CONNECT, REFUSED, 111), c
    rig.quit()


def broken():
    """The dependency closes, or resets, before the answer is complete."""
    def handle(c):
        q = c.recv(4096)
        if b"half" in q:
            c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        if b"reset" in q:
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    srv, rig = Server(handle), Rig()
    rig.edge(1)
    for path in ("none", "half", "reset"):
        s = rig.connect(srv.addr)
        s.sendall(b"GET /%s HTTP/1.1\r\n\r\n" % path.encode())
        if path == "reset":
            assert reset_within(s)
        else:
            while s.recv(100):
                pass
        s.close()
        c = rig.take(1)[0]
        assert (c.kind, c.outcome) == (REQUEST, BROKEN), (path, c)
        assert (c.answer > 0) == (path == "half"), (path, c)
    rig.quit()


def gave_up():
    """A caller that closes before the answer: stamped when it closed; the answer that still comes is seen."""
    asked, left = threading.Event(), threading.Event()

    def handle(c):
        c.recv(4096)
        asked.set()
        left.wait(10)
        time.sleep(0.1)
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    srv, rig = Server(handle), Rig()
    rig.edge(1)
    for how in ("fin", "rst"):
        asked.clear()
        left.clear()
        s = rig.connect(srv.addr)
        s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert asked.wait(10)
        time.sleep(0.2)
        if how == "rst":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
        time.sleep(0.2)
        left.set()
        c = rig.take(1)[0]
        assert (c.kind, c.outcome) == (REQUEST, GAVE_UP), c
        assert 200 * MS <= c.dur < 1000 * MS, c
        assert (c.answer > c.dur) == (how == "fin"), c
    rig.quit()


def half_close_is_not_giving_up():
    def handle(c):
        while c.recv(4096):
            pass
        time.sleep(0.2)
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    srv, rig = Server(handle), Rig()
    rig.edge(1)
    s = rig.connect(srv.addr)
    s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    s.shutdown(socket.SHUT_WR)
    assert read_answer(s) == b"HTTP/1.1 200 OK"
    assert s.recv(1) == b""
    s.close()
    c = rig.take(1)[0]
    assert (c.kind, c.outcome, c.status) == (REQUEST, ANSWERED, 200), c
    rig.quit()


def strays_are_closed():
    """No flow, another edge's flow, or an address that is not ours: closed, counted, never connected anywhere."""
    srv, rig = http_server(), Rig()
    rig.edge(1)
    rig.edge(2)
    for host in ("127.0.0.1", "127.1.200.200", rig.flow(srv.addr, edge=2)):
        s = socket.create_connection((host, rig.edges[1][0]))
        assert s.recv(1) == b""
    rig.wait("stats", lambda: rig.stats and rig.stats[-1]["stray"] == 3)
    assert srv.accepted == 0
    rig.quit()


def unix_upstream():
    """A Unix listener: squalld is asked for the connected socket."""
    path = "/tmp/sq-proxy-%d.sock" % os.getpid()
    u = socket.socket(socket.AF_UNIX)
    u.bind(path)
    u.listen(16)
    rig = Rig()
    rig.edge(1)
    rig.send({"op": "unix", "edge": 1, "caller": 9}, [u.fileno()])
    u.close()
    srv = http_server()
    refuse = []

    def connect(m):
        if refuse:
            rig.send({"op": "upstream", "req": m["req"], "error": 13})
            return
        c = socket.create_connection(srv.addr)
        rig.send({"op": "upstream", "req": m["req"]}, [c.fileno()])
        c.close()
    rig.on_upstream = connect
    try:
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
        assert get(s)[0] == b"HTTP/1.1 200 OK"
        s.close()
        assert [(c.caller, c.outcome) for c in rig.take(1)] == [(9, ANSWERED)]
        refuse.append(1)
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
        assert s.recv(1) == b""
        assert [(c.kind, c.outcome, c.status) for c in rig.take(1)] == [(CONNECT, REFUSED, 13)]
    finally:
        os.unlink(path)
    rig.quit()


def ipv6_destination():
    def handle(c):
        c.recv(100)
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    srv, rig = Server(handle, socket.AF_INET6), Rig()
    rig.edge(1)
    s = rig.connect(srv.addr, table=1)
    assert get(s)[0] == b"HTTP/1.1 200 OK"
    s.close()
    rig.take(1)
    rig.quit()


def told_where_it_does_not_listen():
    """The hooks would send calls to sockets that are gone: squalld must know, and with it that they go direct."""
    rig = Rig()
    rig.edge(1)
    for op in "listen", "dgram":
        with listener() as s:
            rig.send({"op": op, "edge": 1, "space": 7}, [s.fileno()])
    rig.wait("its word", lambda: rig.lost == [7, 7])
    rig.quit()


if __name__ == "__main__":
    main([integrity, keepalive, pipelining, byte_by_byte, upgrade, server_speaks_first, not_http, refused, broken, gave_up,
          half_close_is_not_giving_up, strays_are_closed, unix_upstream, ipv6_destination, told_where_it_does_not_listen])
