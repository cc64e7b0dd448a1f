#!/usr/bin/env python3
"""SYN-hold: a slow connect that blocks nobody (root: needs CAP_NET_RAW for the two sockets that squalld would make)."""
import errno
import os
import select
import socket
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from proxy_rig import (ANSWERED, CONN, CONNECT, GAVE_UP, MS, REQUEST, Rig, get, http_server, main, rule)


def start(rig, to, **kw):
    """A non-blocking connect to the gate."""
    s = socket.socket()
    s.setblocking(False)
    t = time.monotonic()
    rc = s.connect_ex((rig.flow(to, **kw), rig.edges[kw.get("edge", 1)][1]))
    assert rc == errno.EINPROGRESS
    return s, t


def wait_connected(s, t, timeout=5):
    p = select.poll()
    p.register(s, select.POLLOUT)
    assert p.poll(timeout * 1000), "not connected in time"
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    took = time.monotonic() - t
    s.setblocking(True)
    return took


def connects_are_delayed_exactly():
    srv, rig = http_server(), Rig(raw=True)
    rig.edge(1)
    for want in (0.02, 0.2):
        rig.rules(1, [rule("latency", delay=int(want * 1e9))], epoch=2)
        took = []
        for _ in range(9):
            s, t = start(rig, srv.addr, drawn=2, epoch=2)
            took.append(wait_connected(s, t))
            (_, answer) = get(s)
            assert want <= answer < want + 1, answer
            s.close()
            c = rig.take(1)[0]
            assert (c.kind, c.outcome, c.fault) == (REQUEST, ANSWERED, "f1"), c
            assert 2 * want * 1e9 <= c.held < (2 * want + 1) * 1e9 and c.dur >= c.held, c
        got = statistics.median(took)
        assert want <= got < want + (0.002 if os.getloadavg()[0] < 3 else 0.05), (want, took)
    rig.quit()


def many_at_once():
    """200 connects in one go: all come through at about their time."""
    srv, rig = http_server(), Rig(raw=True)
    rig.edge(1)
    rig.rules(1, [rule("latency", delay=300 * MS)], epoch=1)
    open_ = [start(rig, srv.addr, drawn=2, epoch=1) for _ in range(200)]
    for s, t in open_:
        took = wait_connected(s, t)
        assert 0.3 <= took < 2, took
        s.close()
    rig.quit()


def retransmissions_are_not_new_connects():
    """1.5 s: the kernel sends its SYN again after 1 s."""
    srv, rig = http_server(), Rig(raw=True)
    rig.edge(1)
    rig.rules(1, [rule("latency", delay=1500 * MS)], epoch=1)
    s, t = start(rig, srv.addr, drawn=2, epoch=1)
    took = wait_connected(s, t)
    assert 1.5 <= took < 2.4, took
    s.close()
    rig.quit()


def a_spared_connect_passes_at_once():
    srv, rig = http_server(), Rig(raw=True)
    rig.edge(1)
    rig.rules(1, [rule("latency", delay=1500 * MS, percent=50.0)], epoch=1)
    s, t = start(rig, srv.addr, drawn=1, epoch=1)
    assert wait_connected(s, t) < 1
    assert get(s)[1] < 1
    s.close()
    assert rig.take(1)[0].fault == ""
    rig.quit()


def undrawn_connects_are_drawn_once():
    """Without a draw of the connect's own, the proxy draws at the SYN, and the first request shares it."""
    srv, rig = http_server(), Rig(raw=True)
    rig.edge(1)
    rig.rules(1, [rule("latency", delay=30 * MS, percent=50.0)], epoch=1)
    hits = 0
    for _ in range(24):
        s, t = start(rig, srv.addr)
        slow = wait_connected(s, t) >= 0.03
        get(s)
        s.close()
        c = rig.take(1)[0]
        assert bool(c.fault) == slow and (c.held >= 60 * MS) == slow, (c, slow)
        hits += slow
    assert 2 < hits < 22, hits
    rig.quit()


def a_caller_that_stops_waiting_is_counted():
    srv, rig = http_server(), Rig(raw=True)
    rig.edge(1)
    for kind in ("latency", "blackhole"):
        rig.rules(1, [rule(kind, delay=2000 * MS)], epoch=1)
        s, t = start(rig, srv.addr, drawn=2, epoch=1, caller=8)
        time.sleep(0.3)
        s.close()
        c = rig.take(1, timeout=1)[0]
        assert (c.kind, c.outcome, c.fault, c.caller) == (CONNECT, GAVE_UP, "f1", 8), c
        assert 290 * MS < c.dur < 1500 * MS and c.held == c.dur, c
    time.sleep(2)
    assert srv.accepted == 0
    rig.none()
    rig.quit()


def black_holed_connects_heal():
    srv, rig = http_server(), Rig(raw=True)
    rig.edge(1)
    rig.rules(1, [rule("blackhole")], epoch=1)
    s, t = start(rig, srv.addr, drawn=2, epoch=1)
    time.sleep(0.5)
    assert not select.select([], [s], [], 0)[1]
    rig.rules(1, [], epoch=2)
    assert wait_connected(s, t) < 0.95
    assert get(s)[0] == b"HTTP/1.1 200 OK"
    c = rig.take(1)[0]  # it began when its caller called connect, and that was held
    assert (c.kind, c.outcome, c.fault) == (REQUEST, ANSWERED, "f1") and c.dur >= c.held >= 450 * MS, c
    assert get(s)[0] == b"HTTP/1.1 200 OK"
    c = rig.take(1)[0]
    assert c.fault == "" and c.held == 0 and c.dur < 300 * MS, c
    s.close()
    rig.quit()


def a_connection_that_came_too_late_is_told():
    """Whoever waited for it sends nothing on it any more: it was held all the same, also when what held it is over."""
    srv, rig = http_server(), Rig(raw=True)
    rig.edge(1)
    for kind in ("latency", "blackhole"):
        rig.rules(1, [rule(kind, delay=300 * MS)], epoch=1)
        s, t = start(rig, srv.addr, drawn=2, epoch=1)
        if kind == "blackhole":
            time.sleep(0.3)
            rig.rules(1, [], epoch=2)
        wait_connected(s, t)
        time.sleep(0.1)
        s.close()
        c = rig.take(1)[0]
        assert (c.kind, c.outcome, c.fault) == (CONN, ANSWERED, "f1"), c
        assert c.dur >= c.held >= 290 * MS, c
    rig.quit()


def held_connects_keep_their_due_time():
    """When the rule ends, and when squalld dies; late SYNs to the gate still pass."""
    srv, rig = http_server(), Rig(raw=True)
    rig.edge(1)
    rig.rules(1, [rule("latency", delay=1300 * MS)], epoch=1)
    a, t = start(rig, srv.addr, drawn=2, epoch=1)
    time.sleep(0.05)
    rig.rules(1, [], epoch=2)
    b, u = start(rig, srv.addr, drawn=2, epoch=1)
    assert wait_connected(b, u) < 0.9
    rig.sock.shutdown(socket.SHUT_RDWR)
    rig.sock.close()
    took = wait_connected(a, t)
    assert 1.3 <= took < 2.2, took
    assert get(a)[0] == get(b)[0] == b"HTTP/1.1 200 OK"
    a.close()
    b.close()
    rig.leaves()


if __name__ == "__main__":
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0).close()
    except PermissionError:
        print("skip: needs CAP_NET_RAW")
        sys.exit(0)
    main([connects_are_delayed_exactly, many_at_once, retransmissions_are_not_new_connects,
          a_spared_connect_passes_at_once, undrawn_connects_are_drawn_once, a_caller_that_stops_waiting_is_counted,
          black_holed_connects_heal, a_connection_that_came_too_late_is_told, held_connects_keep_their_due_time])
