#!/usr/bin/env python3
"""The end of squalld, of the proxy's work, and what it must never take with it."""
import ctypes
import os
import signal
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from proxy_rig import (Rig, echo_server, get, http_server, main, read_answer, rule)

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def is_unprivileged():
    rig = Rig()
    rig.edge(1)
    rig.rules(1, [])
    status = dict(l.split(":\t", 1) for l in open("/proc/%d/status" % rig.pid).read().splitlines() if ":\t" in l)
    assert status["Name"] == "squall-proxy", status["Name"]
    if os.geteuid() == 0:
        assert set(status["Uid"].split()) == {"65534"} and set(status["Gid"].split()) == {"65534"}, status
        assert status["Groups"].strip() == "", status
    for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[k], 16) == 0 or (k == "CapBnd" and os.geteuid() != 0), (k, status[k])
    assert status["NoNewPrivs"] == "1"
    assert open("/proc/%d/oom_score_adj" % rig.pid).read().strip() == "0"
    rig.quit()


def beats():
    rig = Rig()
    seen = []
    for _ in range(8):
        time.sleep(0.1)
        seen.append(struct.unpack("q", os.pread(rig.beat, 8, 8))[0])
    assert time.monotonic_ns() - seen[-1] < 0.4e9 and len(set(seen)) >= 3, seen
    assert os.pread(rig.beat, 8, 0) == bytes(8)
    rig.quit()


def orphaned(how):
    """squalld dies: faults end, held bytes come when they are due, open connections live on, and then it leaves."""
    srv, tcp, rig = http_server(), echo_server(), Rig()
    rig.edge(1)
    rig.edge(2, "tcp")
    r, w = os.pipe() # stands for a BPF link
    rig.send({"op": "caller", "id": 1, "instance": "a.0"}, [w])
    os.close(w)
    slow, hole, idle, late = (rig.connect(srv.addr) for _ in range(4))
    idle_tcp = rig.connect(tcp.addr, edge=2)
    for s in (slow, hole, idle):
        get(s)
    rig.rules(1, [rule("latency", delay=700 * 10**6)])
    t = time.monotonic()
    slow.sendall(ASK)
    time.sleep(0.05)
    rig.rules(1, [rule("blackhole")])
    hole.sendall(ASK)
    time.sleep(0.05)
    host = rig.flow(srv.addr)
    died = time.monotonic()
    if how == "quit":
        rig.send({"op": "quit"})
    else:
        rig.sock.shutdown(socket.SHUT_RDWR)
        rig.sock.close()
    assert read_answer(hole) and time.monotonic() - died < 0.6
    os.set_blocking(r, False)
    assert os.read(r, 1) == b"", "the link is still held"
    redirected = socket.create_connection((host, rig.edges[1][0]))  # it was on its way
    assert get(redirected)[1] < 0.6
    read_answer(slow)
    assert 0.7 <= time.monotonic() - t < 1.4, time.monotonic() - t
    time.sleep(max(0, died + 1.4 - time.monotonic()))
    try:
        socket.create_connection((host, rig.edges[1][0]))
        raise AssertionError("it still listens")
    except ConnectionRefusedError:
        pass
    for s in (slow, hole, idle, late, redirected):
        assert get(s)[1] < 0.6
    idle_tcp.sendall(b"still there")
    assert idle_tcp.recv(100) == b"still there"
    for s in (slow, hole, idle, late, redirected):
        s.close()
    time.sleep(0.3)
    assert os.waitpid(rig.pid, os.WNOHANG) == (0, 0), "it left with a connection open"
    idle_tcp.close()
    rig.leaves()


def squalld_dies():
    orphaned("dies")


def squalld_quits():
    orphaned("quit")


def nothing_open_leaves_at_once():
    rig = Rig()
    rig.edge(1)
    rig.rules(1, [])
    rig.sock.shutdown(socket.SHUT_RDWR)
    rig.sock.close()
    rig.leaves(2.5)


def many_connections_are_cheap():
    """2,000 idle keep-alive connections cost the proxy less than 4 KiB each."""
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (20000, max(20000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    n = 2000
    held = []
    srv = socket.socket()
    srv.bind(("127.0.0.1", 0))
    srv.listen(4096)
    rig = Rig()
    rig.edge(1)
    rig.wait("stats", lambda: rig.stats)
    before = rig.stats[-1]["rss"]
    for _ in range(n):
        s = rig.connect(srv.getsockname())
        c, _ = srv.accept()
        held.append((s, c))
        s.sendall(ASK)
        c.recv(100)
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        s.recv(100)
    rig.wait("stats", lambda: rig.stats[-1]["open"] == n)
    each = (rig.stats[-1]["rss"] - before) / n
    assert each < (8192 if "ASAN_OPTIONS" in os.environ else 4096), each  # a sanitizer keeps what was freed
    rig.take(n)
    rig.rules(1, [rule("error")])  # all of them at once
    rig.wait("stats", lambda: rig.stats[-1]["open"] == 0)
    rig.quit()


def one_that_does_not_read_loses_calls_honestly():
    """squalld stands still: the proxy goes on, keeps calls within bounds, and delivers them later."""
    srv, rig = http_server(), Rig()
    rig.edge(1)
    s = rig.connect(srv.addr)
    get(s)
    rig.take(1)
    with rig.cond:  # the reader waits for us
        for _ in range(6000):
            get(s)
        time.sleep(0.2)
    rig.take(6000)
    s.close()
    rig.quit()


def answers_seccomp_listeners():
    """A process whose connects are notified: with squalld alive the proxy does not touch them, then CONTINUEs."""
    srv, rig = http_server(), Rig()
    rig.edge(1)
    libc = ctypes.CDLL(None, use_errno=True)
    mine, theirs = socket.socketpair()
    go, wake = os.pipe()
    result, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            def st(code, jt, jf, k):
                return struct.pack("HBBI", code, jt, jf, k)
            code = b"".join([st(0x20, 0, 0, 0), st(0x15, 0, 1, 42), st(6, 0, 0, 0x7FC00000), st(6, 0, 0, 0x7FFF0000)])
            buf = ctypes.create_string_buffer(code)
            prog = ctypes.create_string_buffer(struct.pack("HL", 4, ctypes.addressof(buf)))
            libc.prctl(38, 1, 0, 0, 0)
            fd = libc.syscall(317, 1, 8, prog)  # seccomp(SET_MODE_FILTER, NEW_LISTENER): x86-64
            socket.send_fds(mine, [b"x" if fd >= 0 else b"-"], [fd] if fd >= 0 else [])
            os.close(fd)
            for _ in range(2):
                os.read(go, 1)
                s = socket.socket()
                s.settimeout(5)
                s.connect(srv.addr)
                os.write(done, b"k" if get(s)[0].endswith(b"OK") else b"n")
                s.close()
        finally:
            os._exit(0)
    try:
        msg, fds, _, _ = socket.recv_fds(theirs, 1, 1)
        if msg != b"x" or os.uname().machine != "x86_64":
            print("     (no seccomp listener here)")
            return
        rig.send({"op": "listener", "key": 5}, fds)
        other = os.dup(fds[0])
        os.close(fds[0])
        os.write(wake, b"1")
        time.sleep(0.4)
        os.set_blocking(result, False)
        try:
            os.read(result, 1)
            raise AssertionError("answered while squalld lived")
        except BlockingIOError:
            pass
        os.close(other)
        rig.sock.shutdown(socket.SHUT_RDWR)
        rig.sock.close()
        os.set_blocking(result, True)
        assert os.read(result, 1) == b"k"
        time.sleep(1.5)
        assert os.waitpid(rig.pid, os.WNOHANG) == (0, 0), "it left while a process depends on it"
        os.write(wake, b"2")
        assert os.read(result, 1) == b"k"
        os.waitpid(pid, 0)
        pid = 0
        rig.leaves()
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main([is_unprivileged, beats, squalld_dies, squalld_quits, nothing_open_leaves_at_once, many_connections_are_cheap,
          one_that_does_not_read_loses_calls_honestly, answers_seccomp_listeners])
