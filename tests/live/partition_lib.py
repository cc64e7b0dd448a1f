"""Hosts for the tests of partitions: network namespaces on one bridge, each with an agent in it that serves echoes and
makes calls when it is told to."""
import json
import os
import subprocess
import sys
import time

AGENT = r'''
import errno, json, os, select, socket, struct, sys, threading, time
PORT = 7777

def echo(family, addr):
    tcp = socket.socket(family, socket.SOCK_STREAM)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    for s in (tcp, udp):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind((addr, PORT))
    tcp.listen(64)
    def carry(c):
        try:
            while (data := c.recv(4096)):
                c.sendall(data)
        except OSError:
            pass
    def accept():
        while True:
            c, _ = tcp.accept()
            threading.Thread(target=carry, args=(c,), daemon=True).start()
    def datagrams():
        while True:
            try:
                data, who = udp.recvfrom(4096)
                udp.sendto(data, who)
            except OSError:
                pass
    for f in (accept, datagrams):
        threading.Thread(target=f, daemon=True).start()

def name(e):
    return "timeout" if isinstance(e, TimeoutError) else errno.errorcode.get(e.errno, str(e))

def family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET

def tcp(host, wait, port=PORT):
    s = socket.socket(family(host), socket.SOCK_STREAM)
    s.settimeout(wait)
    try:
        s.connect((host, port))
        s.sendall(b"x")
        return s, "ok" if s.recv(1) == b"x" else "closed"
    except OSError as e:
        return s, name(e)

def udp(host, wait):
    s = socket.socket(family(host), socket.SOCK_DGRAM)
    s.settimeout(wait)
    try:
        s.connect((host, PORT))
        s.send(b"x")
        s.recv(1)
        return "ok"
    except OSError as e:
        return name(e)

def ping(host, wait):
    six = ":" in host
    s = socket.socket(family(host), socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP)
    me = os.getpid() & 0xffff
    head = struct.pack("!BBHHH", 128 if six else 8, 0, 0, me, 1)
    total = sum(struct.unpack("!4H", head))
    if not six:
        head = struct.pack("!BBHHH", 8, 0, ~((total & 0xffff) + (total >> 16)) & 0xffff, me, 1)
    end = time.monotonic() + wait
    try:
        s.sendto(head, (host, 0))
        while True:
            s.settimeout(max(0.001, end - time.monotonic()))
            data = s.recv(4096)
            body = data if six else data[20:]
            if body[0] == (129 if six else 0) and struct.unpack("!H", body[4:6])[0] == me:
                return "ok"
    except OSError as e:
        return name(e)

held = {}
def do(what, host="", wait=1.0, port=PORT):
    t = time.monotonic()
    if what == "tcp":
        s, said = tcp(host, wait, port)
        s.close()
    elif what == "listen":
        s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("0.0.0.0", port)); s.listen(8)
        held["listen", port] = s
        def answer():
            while True:
                c, _ = s.accept()
                c.sendall(c.recv(1)); c.close()
        threading.Thread(target=answer, daemon=True).start()
        said = "ok"
    elif what == "hold":
        held[host], said = tcp(host, wait)
    elif what == "held":
        try:
            held[host].settimeout(wait)
            held[host].sendall(b"y")
            said = "ok" if held[host].recv(1) else "closed"
        except OSError as e:
            said = name(e)
    else:
        said = {"udp": udp, "ping": ping}[what](host, wait)
    return said, time.monotonic() - t

echo(socket.AF_INET, "0.0.0.0")
echo(socket.AF_INET6, "::")
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(do(**json.loads(line))), flush=True)
'''


def sh(*args, check=True):
    return subprocess.run(args, check=check, capture_output=True, text=True).stdout


class Net:
    """Namespaces sqt-partition-PID-X on a bridge in one more; X has 10.87.0.N and fd87::N."""

    def __init__(self, names="abc"):
        self.pre = f"sqt-partition-{os.getpid()}-"
        self.names = list(names)
        self.agents = {}
        sh("ip", "netns", "add", self.ns("br"))
        sh("ip", "-n", self.ns("br"), "link", "add", "br0", "type", "bridge")
        sh("ip", "-n", self.ns("br"), "link", "set", "br0", "up")
        for i, x in enumerate(self.names, 1):
            ns = self.ns(x)
            sh("ip", "netns", "add", ns)
            sh("ip", "-n", ns, "link", "add", "eth0", "type", "veth", "peer", "name", f"to-{x}", "netns", self.ns("br"))
            sh("ip", "-n", self.ns("br"), "link", "set", f"to-{x}", "master", "br0", "up")
            sh("ip", "-n", ns, "link", "set", "lo", "up")
            sh("ip", "-n", ns, "addr", "add", f"10.87.0.{i}/24", "dev", "eth0")
            sh("ip", "-n", ns, "addr", "add", f"fd87::{i}/64", "dev", "eth0", "nodad")
            sh("ip", "-n", ns, "link", "set", "eth0", "up")
        for x in self.names:
            self.agents[x] = subprocess.Popen(["ip", "netns", "exec", self.ns(x), sys.executable, "-c", AGENT],
                                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for a in self.agents.values():
            assert a.stdout.readline() == "ready\n"
        for x in self.names:
            for y in self.names:
                for host in self.addrs(y):
                    self.until("ok", x, "tcp", host)

    def ns(self, x):
        return self.pre + x

    def addrs(self, x):
        i = self.names.index(x) + 1
        return f"10.87.0.{i}", f"fd87::{i}"

    def do(self, x, what, host="", wait=0.4, **more):
        """What X found, and how long it took. HOST: a name of ours or an address."""
        host = self.addrs(host)[0] if host in self.names else host
        a = self.agents[x]
        a.stdin.write(json.dumps(dict(what=what, host=host, wait=wait, **more)) + "\n")
        a.stdin.flush()
        return json.loads(a.stdout.readline())

    def said(self, *a, **k):
        return self.do(*a, **k)[0]

    def until(self, want, *a, limit=10, **k):
        end = time.monotonic() + limit
        while (got := self.said(*a, **k)) != want:
            assert time.monotonic() < end, f"{a}: {got} instead of {want}"
            time.sleep(0.02)

    def nft(self, x, *args, check=True):
        return sh("ip", "netns", "exec", self.ns(x), "nft", *args, check=check)

    def rules(self, x):
        return self.nft(x, "list", "ruleset")

    def close(self):
        for a in self.agents.values():
            a.kill()
            a.wait()
        for x in self.names + ["br"]:
            sh("ip", "netns", "del", self.ns(x), check=False)
