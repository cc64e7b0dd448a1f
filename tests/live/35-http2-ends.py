#!/usr/bin/env python3
"""HTTP/2 without TLS, or what could become it, by hand: an end that comes while something waits, and bytes that nothing follows."""
import os
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from h2_lib import PREFACE, frame, hr
from proxy_rig import Rig, Server, main

GET_A = b"\x82\x86\x04\x02/a"  # GET http /a
ANSWER = frame(1, 5, 1, b"\x88")


def read_frames(c, until):
    """(type, flags, stream, body) of each, until `until` says so; [] ends with None where the other end did."""
    got, data = [], b""
    while True:
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
            n = int.from_bytes(data[:3], "big")
            got.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9:9 + n]))
            data = data[9 + n:]
            if until(got):
                return got
        more = c.recv(65536)
        if not more:
            return got + [None]
        data += more


def body_of(got):
    return sum(len(f[3]) for f in got if f and f[0] == 0)


def tail_behind_half_close():
    """The caller says that it is done while the tail of its request, which is longer than it was, waits for the window."""
    result, seen = [], threading.Event()

    def server(c):
        c.settimeout(10)
        c.sendall(frame(4, 0, 0, b"\0\4\0\0\3\xe8"))  # windows of 1,000 bytes
        assert c.recv(24, socket.MSG_WAITALL) == PREFACE
        first = read_frames(c, lambda g: body_of(g) >= 1000)
        seen.wait(10)
        c.sendall(frame(8, 0, 1, b"\0\1\0\0"))
        rest = read_frames(c, lambda g: g[-1][0] == 0 and g[-1][1] & 1)
        end = c.recv(100)
        result.append((body_of(first) + body_of(rest), first[-1] is None or rest[-1] is None, end))
        c.sendall(ANSWER)

    srv, rig = Server(server), Rig()
    rig.edge(1)
    rig.rules(1, [hr("body", {"of": "request", "replace": "Q" * 40_000})])
    s = rig.connect(srv.addr)
    s.settimeout(8)
    s.sendall(PREFACE + frame(4, 0, 0))
    assert s.recv(15, socket.MSG_WAITALL)[3] == 4
    s.sendall(frame(1, 4, 1, GET_A) + frame(0, 1, 1, b"short"))
    s.shutdown(socket.SHUT_WR)
    time.sleep(0.1)
    seen.set()
    got = read_frames(s, lambda g: g[-1][:3] == (1, 5, 1))
    assert got[-1], got
    assert result == [(40_000, False, b"")], result
    s.close()
    rig.take(1)
    rig.quit()


def end_of_who_never_greets():
    """An answer of ours waits for the dependency's SETTINGS; it ends instead, and so does the connection."""
    def close_at_once(c):
        assert c.recv(24)

    rig = Rig()
    rig.edge(1)
    rig.rules(1, [hr("status", {"status": 503, "body": "no"})])
    s = rig.connect(Server(close_at_once).addr, timeout=5)
    s.sendall(PREFACE + frame(4, 0, 0) + frame(1, 5, 1, GET_A))
    try:
        assert s.recv(100) == b""
    except ConnectionResetError:
        pass  # it had not read everything
    s.close()
    rig.take(1)
    rig.quit()


def first_bytes_alone():
    """The whole first message is what HTTP/2 would begin with: it does not wait for more."""
    def server(c):
        while (d := c.recv(100)):
            c.sendall(d.lower())

    rig = Rig()
    rig.edge(1)
    for said in (b"P", b"PRI * HTTP/2.0\r\n"):
        s = rig.connect(Server(server).addr, timeout=5)
        s.sendall(said)
        assert s.recv(100) == said.lower()
        s.sendall(b"More")
        assert s.recv(100) == b"more"
        s.close()
    rig.quit()


main([tail_behind_half_close, end_of_who_never_greets, first_bytes_alone])
