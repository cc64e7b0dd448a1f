"""A name server on a loopback address of its own, and a raw resolver for tests of DNS faults."""
import os
import socket
import struct
import sys
import threading

A4, A6 = "192.0.2.7", "2001:db8::7"


def alone(*addresses, resolver=None):
    """The same program again, in a network namespace of its own: port 53 is nobody else's there. RESOLVER: the one of
    everybody there."""
    if os.environ.get("SQT_ALONE"):
        return
    os.environ["SQT_ALONE"] = "1"
    adding = "".join(f"ip addr add {a}/128 dev lo && " for a in addresses)
    if resolver:
        adding += ("conf=$(mktemp) && chmod 644 $conf && mount --bind $conf /etc/resolv.conf && rm $conf && "
                   f"printf 'nameserver {resolver}\\noptions timeout:1 attempts:1\\n' > /etc/resolv.conf && ")
    os.execvp("unshare", ["unshare", "-n", "-m", "sh", "-c", f'ip link set lo up && {adding}exec "$@"', "sh",
                          sys.executable, *sys.argv])


def name_of(data, at=12):
    labels = []
    while data[at]:
        labels.append(data[at + 1:at + 1 + data[at]])
        at += 1 + data[at]
    return b".".join(labels).decode("latin-1"), at + 1


class Server:
    """Every name has A4 and A6; over UDP and TCP; what was asked is kept: (name as it came, type, "udp" or "tcp")."""

    made = 0

    def __init__(self, host=None):
        Server.made += 1
        self.host = host or f"127.{52 + Server.made}.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.udp = socket.socket(family, socket.SOCK_DGRAM)
        self.udp.bind((self.host, 53))
        self.tcp = socket.socket(family)
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.tcp.bind((self.host, 53))
        self.tcp.listen(50)
        self.asked = []
        self.extra = 0  # so many more addresses in an answer: over 512 bytes it is cut off
        threading.Thread(target=self.serve_udp, daemon=True).start()
        threading.Thread(target=self.serve_tcp, daemon=True).start()

    def answer(self, q, how):
        name, end = name_of(q)
        kind = struct.unpack_from("!H", q, end)[0]
        self.asked.append((name, kind, how))
        rr = b""
        n = 0
        for i in range(1 + self.extra):
            if kind == 1:
                rr += struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(A4)
                n += 1
            elif kind == 28:
                rr += struct.pack("!HHHIH", 0xC00C, 28, 1, 60, 16) + socket.inet_pton(socket.AF_INET6, A6)
                n += 1
        flags = 0x8180
        if how == "udp" and end + 4 + len(rr) > 512:
            flags, rr, n = 0x8380, b"", 0
        return q[:2] + struct.pack("!HHHHH", flags, 1, n, 0, 0) + q[12:end + 4] + rr

    def serve_udp(self):
        while True:
            try:
                q, peer = self.udp.recvfrom(4096)
                self.udp.sendto(self.answer(q, "udp"), peer)
            except (OSError, IndexError, struct.error):
                if self.udp.fileno() < 0:
                    return

    def serve_tcp(self):
        while True:
            try:
                c, _ = self.tcp.accept()
            except OSError:
                return
            threading.Thread(target=self.serve_one, args=(c,), daemon=True).start()

    def serve_one(self, c):
        with c:
            try:
                while True:
                    head = c.recv(2, socket.MSG_WAITALL)
                    if len(head) < 2:
                        return
                    q = c.recv(struct.unpack("!H", head)[0], socket.MSG_WAITALL)
                    a = self.answer(q, "tcp")
                    c.sendall(struct.pack("!H", len(a)) + a)
            except (OSError, IndexError, struct.error):
                pass

    def close(self):
        self.udp.close()
        self.tcp.close()


# What a caller runs: RAW asks NS for a name, by hand, so that every bit of the answer is seen.
RAW = r"""
import random
def query(name, kind=1, edns=0, qid=None, cd=0):
    qid = random.getrandbits(16) if qid is None else qid
    q = struct.pack("!HHHHHH", qid, 0x0100 | cd << 4, 1, 0, 0, 1 if edns else 0)
    for l in name.split("."): q += bytes([len(l)]) + l.encode()
    q += b"\0" + struct.pack("!HH", kind, 1)
    if edns: q += b"\0" + struct.pack("!HHIH", 41, edns, 0, 0)
    return qid, q
def parse(q, a):
    qid, flags, nq, na, ns, ar = struct.unpack_from("!HHHHHH", a)
    at = 12
    while a[at]: at += 1 + a[at]
    at += 5
    r = {"id_ok": a[:2] == q[:2], "question_ok": a[12:at] == q[12:at], "qr": flags >> 15, "rcode": flags & 15,
         "tc": flags >> 9 & 1, "ra": flags >> 7 & 1, "opt": 0, "addr": [], "ttl": []}
    for i in range(na + ns + ar):
        if a[at] == 0: at += 1
        else: at += 2
        kind, cls, ttl, n = struct.unpack_from("!HHIH", a, at)
        at += 10
        if kind == 41: r["opt"] += 1
        if kind == 1: r["addr"].append(socket.inet_ntoa(a[at:at + n]))
        if kind == 28: r["addr"].append(socket.inet_ntop(socket.AF_INET6, a[at:at + n]))
        if kind != 41: r["ttl"].append(ttl)
        at += n
    r["whole"] = at == len(a)
    return r
def udp(name, kind=1, timeout=2.0, connected=True, **kw):
    qid, q = query(name, kind, **kw)
    s = socket.socket(socket.AF_INET6 if ":" in NS else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(timeout)
    t0 = time.monotonic()
    try:
        if connected: s.connect((NS, 53)); s.send(q); a = s.recv(65535); frm = [NS, 53]
        else: s.sendto(q, (NS, 53)); a, frm = s.recvfrom(65535)
        return dict(parse(q, a), ms=(time.monotonic() - t0) * 1000, frm=list(frm)[:2])
    except socket.timeout:
        return {"rcode": -1, "ms": (time.monotonic() - t0) * 1000}
    finally: s.close()
def tcp(names, kind=1, timeout=3.0, **kw):
    c = socket.create_connection((NS, 53), timeout)
    out = []
    t0 = time.monotonic()
    qs = [query(n, kind, **kw)[1] for n in names]
    data = b"".join(struct.pack("!H", len(q)) + q for q in qs)
    for i in range(0, len(data), 7): c.send(data[i:i + 7])
    try:
        for i in qs:
            n = struct.unpack("!H", c.recv(2, socket.MSG_WAITALL))[0]
            a = c.recv(n, socket.MSG_WAITALL)
            q = [x for x in qs if x[:2] == a[:2]][0]
            out.append(dict(parse(q, a), ms=(time.monotonic() - t0) * 1000))
    except (socket.timeout, struct.error): pass
    c.close()
    return out
def lookup(name, family=0):
    # as the C library does it, with NS alone in its resolv.conf
    code = "import socket,sys\ntry: print(sorted({x[4][0] for x in socket.getaddrinfo(%r, 80, %d, socket.SOCK_STREAM)}))\nexcept socket.gaierror as e: print(e.errno)" % (name, family)
    return private([sys.executable, "-c", code])
def private(argv, timeout=40):
    conf = CONF
    with open(conf, "w") as f: f.write("nameserver %s\noptions timeout:1 attempts:1\n" % NS)
    t0 = time.monotonic()
    p = subprocess.run(["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', conf] + argv,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout)
    return [p.stdout.decode().strip().split("\n")[-1], time.monotonic() - t0]
"""
