#!/usr/bin/env python3
"""Plain proxies: a listener with one upstream, with faults on its bytes. The proxy is told as squalld tells it."""
import ctypes
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from netns_lib import Net, there
from proxy_rig import Rig, Server, echo_server, main, reset_within, rule


class Plain(Rig):
    def told(self, obj, fds=()):
        n = len(self.acks)
        self.send(obj, fds)
        self.wait("the ack", lambda: len(self.acks) > n)
        return self.acks[-1]

    def plain(self, id, to, family=socket.AF_INET, l=None):
        if not l:
            l = socket.socket(family)
            l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            l.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
            l.listen(128)
        ack = self.told({"op": "plain", "id": id, "host": to[0], "port": to[1]}, [l.fileno()])
        at = l.getsockname()[:2]
        l.close()
        return at, ack

    def rules(self, id, *rules):
        ack = self.told({"op": "rules", "edge": id, "epoch": 1, "rules": list(rules)})
        assert "error" not in ack and len(ack["rules"]) == len(rules), ack
        return ack

    def done(self):
        assert not self.calls, self.calls  # nobody's calls
        self.quit()


def client(at, timeout=10):
    s = socket.create_connection(at, timeout)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def ask(s, data=b"hello"):
    s.sendall(data)
    got = b""
    while len(got) < len(data):
        b = s.recv(65536)
        if not b:
            break
        got += b
    return got


def ended(s):
    """No reset, but the end."""
    try:
        return s.recv(65536) == b""
    except socket.timeout:
        return False


def passes():
    """Addresses and names, counted; with the end of one side carried over."""
    srv, srv6, rig = echo_server(), echo_server(), Plain()
    at, ack = rig.plain(1, srv.addr)
    assert "error" not in ack and ack["read"] == [0, 0], ack
    named, ack = rig.plain(2, ("localhost", srv6.addr[1]), socket.AF_INET)
    assert "error" not in ack, ack
    for where in (at, named):
        s = client(where)
        assert ask(s) == b"hello"
        s.shutdown(socket.SHUT_WR)
        assert ended(s)
    ack = rig.told({"op": "ask", "edge": 1})
    assert ack["read"] == [5, 5] and ack["sent"] == [5, 5], ack
    rig.done()


def second_address():
    """A name with two addresses, of which only one answers, first or last."""
    if os.geteuid() != 0:
        print("second_address: only root can give this test a hosts file of its own")
        return
    with tempfile.NamedTemporaryFile("w") as hosts:
        hosts.write("127.0.0.1 localhost\n127.0.0.2 two.test\n127.0.0.3 two.test\n")
        hosts.flush()
        os.chmod(hosts.name, 0o644)
        ctypes.CDLL(None, use_errno=True).unshare(0x20000)  # CLONE_NEWNS
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "--bind", hosts.name, "/etc/hosts"], check=True)
        rig = Plain()
        for id, host in ((1, "127.0.0.2"), (2, "127.0.0.3")):
            with socket.create_server((host, 0)) as srv:
                at, _ = rig.plain(id, ("two.test", srv.getsockname()[1]))
                s = client(at)
                c, _ = srv.accept()
                c.sendall(b"here")
                assert s.recv(10) == b"here"
                c.close()
                s.close()
        rig.done()


def refused():
    """Nobody there, and no such name: the connection is closed, not reset, as Toxiproxy does."""
    rig = Plain()
    gone = socket.socket()
    gone.bind(("127.0.0.1", 0))
    at, _ = rig.plain(1, gone.getsockname())
    assert ended(client(at))
    at, _ = rig.plain(2, ("no-such-name.invalid", 80))
    assert ended(client(at, 20))
    rig.done()


def bad_messages():
    rig = Plain()
    for wrong in ({"host": "", "port": 80}, {"host": "x", "port": 0}, {"host": "x" * 300, "port": 80}, {"host": "x", "port": 70000}):
        l = socket.socket()
        ack = rig.told({"op": "plain", "id": 1, **wrong}, [l.fileno()])
        assert ack["error"], ack
    assert rig.told({"op": "plain", "id": 1, "host": "127.0.0.1", "port": 80})["error"]  # no listener
    assert rig.told({"op": "unplain", "id": 77})["edge"] == 77
    rig.done()


def dropped():
    """The end of a proxy is the end of its connections, also of those that wait or hold bytes; its port is free again."""
    srv, rig = echo_server(), Plain()
    at, _ = rig.plain(1, srv.addr)
    idle, holding = client(at), client(at)
    assert ask(idle) == b"hello" and ask(holding) == b"hello"
    rig.rules(1, rule("delay", delay=60 * 10**9, stream="downstream"))
    holding.sendall(b"later")
    time.sleep(0.1)
    rig.told({"op": "unplain", "id": 1})
    assert ended(idle) and ended(holding)
    try:
        client(at)
        raise AssertionError("it still listens")
    except ConnectionRefusedError:
        pass
    l = socket.socket()
    l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    l.bind(at)
    rig.done()


def delayed():
    srv, rig = echo_server(), Plain()
    at, _ = rig.plain(1, srv.addr)
    s = client(at)
    rig.rules(1, rule("delay", delay=200 * 10**6, stream="upstream"))
    t = time.monotonic()
    assert ask(s) == b"hello"
    assert time.monotonic() - t >= 0.2
    ack = rig.rules(1)
    t = time.monotonic()
    assert ask(s) == b"hello" and time.monotonic() - t < 0.15
    rig.done()


def no_deadlock():
    """Rules come and go while bytes run both ways; none gets lost or falls out of order."""
    srv, rig = echo_server(), Plain()
    at, _ = rig.plain(1, srv.addr)
    s = client(at)
    data = bytes(i * 7 % 251 for i in range(1 << 20)) * 24
    got = bytearray()

    def reader():
        while len(got) < len(data):
            b = s.recv(1 << 16)
            if not b:
                return
            got.extend(b)
    t = threading.Thread(target=reader)
    t.start()
    w = threading.Thread(target=s.sendall, args=(data,))
    w.start()
    for i in range(200):
        rig.rules(1, rule("delay", delay=2 * 10**6, stream="downstream"), rule("slicer", "f2", size=1000, variation=100, stream="upstream"))
        if i % 2:
            rig.rules(1)
    rig.rules(1)
    w.join(20)
    t.join(20)
    assert bytes(got) == data, (len(got), len(data))
    rig.done()


def timeout_removed():
    """A timeout of 0 never ends by itself; removing it closes the connection, and no other one."""
    srv, rig = echo_server(), Plain()
    at, _ = rig.plain(1, srv.addr)
    s = client(at)
    rig.rules(1, rule("timeout", delay=0))
    s.sendall(b"x")
    s.settimeout(0.3)
    try:
        s.recv(1)
        raise AssertionError("something came")
    except socket.timeout:
        pass
    s.settimeout(5)
    rig.rules(1)
    assert ended(s)
    assert ask(client(at)) == b"hello"
    rig.done()


def spared():
    """A reset that hits 0 % of the connections does nothing, not even to how they close."""
    srv, rig = echo_server(), Plain()
    at, _ = rig.plain(1, srv.addr)
    rig.rules(1, rule("reset", percent=0.0))
    for _ in range(20):
        s = client(at)
        assert ask(s) == b"hello"
        s.shutdown(socket.SHUT_WR)
        assert ended(s)
    rig.rules(1, rule("reset"))
    s = client(at)
    s.sendall(b"x")
    assert reset_within(s)
    rig.done()


def orphaned():
    """squalld dies: plain proxies end with their connections, and the process leaves."""
    srv, rig = echo_server(), Plain()
    at, _ = rig.plain(1, srv.addr)
    s = client(at)
    assert ask(s) == b"hello"
    rig.sock.shutdown(socket.SHUT_RDWR)
    rig.sock.close()
    assert ended(s)
    rig.leaves()


def remote():
    """A client on another host says that it is done while bytes are held for it: nobody here can be asked whether it left."""
    def greets(c):
        c.sendall(b"hello ")
        while c.recv(100):
            pass
        c.sendall(b"and bye")

    srv, rig = Server(greets), Plain()
    with Net() as net:
        for id, family, host in (1, socket.AF_INET, "10.99.0.2"), (2, socket.AF_INET6, "fd99::2"):
            at, _ = rig.plain(id, srv.addr, l=there(net.d, lambda: socket.create_server((host, 0), family=family)))
            rig.rules(id, rule("latency", delay=500_000_000, stream="downstream"))
            s = there(net.c, lambda: client(at))
            time.sleep(0.1)  # the greeting is held
            s.sendall(b"x")
            s.shutdown(socket.SHUT_WR)
            got = b""
            while (b := s.recv(100)):
                got += b
            assert got == b"hello and bye", got
            s.close()
    rig.done()


tests = [passes, refused, bad_messages, dropped, delayed, no_deadlock, timeout_removed, spared, orphaned, second_address]
main(tests + [remote] * (os.geteuid() == 0))
