#!/usr/bin/env python3
"""The probe against real servers of each protocol: nginx (HTTP/1.1, TLS, HTTP/2), PostgreSQL, Redis, dnsmasq, gRPC, echo
servers, commands. Everything runs as an unprivileged user on ports of its own, with its data in a temporary folder."""
import json
import os
import pwd
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time

BUILD = os.environ.get("SQUALL_BUILD", "build")
TOOL = os.path.join(BUILD, "tests/live/probe_load")
NOBODY = pwd.getpwnam("nobody")
started = []


def die(text):
    sys.exit("FAIL: " + text)


def port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(*command, **more):
    return subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)


def unprivileged():
    return {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}


def start(*command, **more):
    p = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                         **unprivileged(), **more)
    started.append(p)
    return p


def wait_for(what, check):
    for _ in range(300):
        try:
            if check():
                return
        except OSError:
            pass
        time.sleep(0.05)
    die("%s did not come up" % what)


def listens(p):
    with socket.create_connection(("127.0.0.1", p), 1):
        return True


def probe(load, seconds=1.0, fails=None, env=None):
    """load: {name: (request, more)} at 100/s each."""
    spec = {}
    for name, (request, more) in load.items():
        spec[name] = {"executor": "constant-arrival-rate", "rate": 100.0, "connections": 20,
                      "request": {"timeout": 4_000_000_000, **request}, **more}
    r = subprocess.run([TOOL, str(seconds)], input=json.dumps(spec), text=True, capture_output=True,
                       env={**os.environ, **(env or {})})
    if fails is not None:
        if r.returncode != 2 or fails not in r.stderr:
            die("%s: exit %d, %s, wanted %r" % (list(load), r.returncode, r.stderr, fails))
        return None
    if r.returncode:
        die("%s: exit %d: %s" % (list(load), r.returncode, r.stderr))
    return json.loads(r.stdout)


def good(name, o, status=None):
    if o["planned"] < 90 or o["ok"] != o["planned"] or o["bad"]:
        die("%s: %d planned, %d good, bad %s, status %s" % (name, o["planned"], o["ok"], o["bad"], o["status"]))
    if status is not None and o["status"] != {status: o["planned"]}:
        die("%s: status %s, not all %s" % (name, o["status"], status))


def bad(name, o, why):
    if o["planned"] < 20 or o["ok"] or o["bad"] != {why: o["planned"]}:
        die("%s: %d planned, %d good, bad %s, not all %s" % (name, o["planned"], o["ok"], o["bad"], why))


def certificates(d):
    def pem(name):
        return os.path.join(d, name)

    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
        pem("ca.key"), "-out", pem("ca.pem"), "-days", "2", "-subj", "/CN=squall test")
    for who, san in (("server", "DNS:shop.test,IP:127.0.0.1"), ("client", "DNS:client.test")):
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
            pem(who + ".key"), "-out", pem(who + ".csr"), "-subj", "/CN=" + who)
        with open(pem("ext"), "w") as f:
            f.write("subjectAltName=" + san)
        run("openssl", "x509", "-req", "-in", pem(who + ".csr"), "-CA", pem("ca.pem"), "-CAkey", pem("ca.key"),
            "-CAcreateserial", "-days", "2", "-extfile", pem("ext"), "-out", pem(who + ".pem"))
    for name in os.listdir(d):
        os.chmod(pem(name), 0o644)
    return {name: pem(name) for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")}


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
            return True
    except OSError:
        return False


def nginx(d, pems, ports):
    conf = os.path.join(d, "nginx.conf")
    with open(d + "/chunked", "w") as f:  # server-side includes: its length is not known before it is sent
        f.write("<!--# echo var='request_method' -->, hello\n" + "x" * 20000 + "\nthe end\n")
    with open(conf, "w") as f:
        f.write("""
worker_processes 1; pid %(d)s/nginx.pid; error_log %(d)s/error.log; daemon off;
events {}
http {
  log_format c '$connection|$sent_http_transfer_encoding|$ssl_session_reused|$http2|$ssl_server_name|$request_uri';
  access_log %(d)s/access.log c; keepalive_requests 100000;
  client_body_temp_path %(d)s/b; proxy_temp_path %(d)s/p; fastcgi_temp_path %(d)s/f; uwsgi_temp_path %(d)s/u;
  scgi_temp_path %(d)s/s; ssl_certificate %(server.pem)s; ssl_certificate_key %(server.key)s;
  ssl_session_cache shared:s:1m; ssl_protocols TLSv1.2 TLSv1.3;
  server { listen 127.0.0.1:%(http)d; %(six)s listen unix:%(d)s/http.sock; location / { return 200 "hello\\n"; }
           location /chunked { root %(d)s; ssi on; ssi_types *; } }
  server { listen 127.0.0.1:%(h2c)d http2; http2_max_concurrent_streams 8; location / { return 200 "hello\\n"; } }
  server { listen 127.0.0.1:%(https)d ssl http2; server_name shop.test; location / { return 200 "hello\\n"; } }
  server { listen 127.0.0.1:%(mtls)d ssl; ssl_client_certificate %(ca.pem)s; ssl_verify_client on;
           location / { return 200 "hello\\n"; } }
}
""" % {"d": d, **pems, **ports, "six": "listen [::1]:%d;" % ports["http"] if has_ipv6() else ""})
    start("nginx", "-c", conf, "-e", d + "/error.log")
    wait_for("nginx", lambda: listens(ports["mtls"]))


def connections(d, path):
    """Of the requests to PATH: how many connections, resumed sessions, whether HTTP/2, which names."""
    rows = []
    for _ in range(100):
        with open(d + "/access.log") as f:
            rows = [x.rstrip().split("|") for x in f if x.rstrip().endswith("|" + path)]
        if rows:
            break
        time.sleep(0.05)
    return (len({r[0] for r in rows}), sum(r[2] == "r" for r in rows), {r[3] for r in rows}, {r[4] for r in rows})


def test_http(d, pems, ports):
    tls = {"ca": pems["ca.pem"]}
    https = "https://127.0.0.1:%d" % ports["https"]
    o = probe({
        "plain": ({"url": "http://127.0.0.1:%d/plain" % ports["http"]}, {"expect": {"body": "hello"}}),
        "close": ({"url": "http://127.0.0.1:%d/close" % ports["http"], "keep_alive": False}, {}),
        "chunked": ({"url": "http://127.0.0.1:%d/chunked" % ports["http"]}, {"expect": {"body": "the end"}}),
        "chunkwrong": ({"url": "http://127.0.0.1:%d/chunked?no" % ports["http"]}, {"expect": {"body": "the start"}}),
        **({"six": ({"url": "http://[::1]:%d/six" % ports["http"]}, {"expect": {"body": "hello"}})} if has_ipv6() else {}),
        "unix": ({"url": "unix:%s/http.sock:/unix" % d}, {}),
        "tls": ({"url": https + "/tls", "tls": tls}, {}),
        "sni": ({"url": https + "/sni", "tls": {**tls, "server_name": "shop.test"}}, {}),
        "resumed": ({"url": https + "/resumed", "tls": tls, "keep_alive": False}, {}),
        "full": ({"url": https + "/full", "tls": {**tls, "resume": False}, "keep_alive": False}, {}),
        "client": ({"url": "https://127.0.0.1:%d/client" % ports["mtls"],
                    "tls": {**tls, "cert": pems["client.pem"], "key": pems["client.key"]}}, {}),
        "h2": ({"url": https + "/h2", "tls": {**tls, "alpn": ["h2"]}}, {"expect": {"body": "hello"}}),
        "h2post": ({"url": https + "/h2post", "method": "POST", "body": "x" * 100000, "tls": {**tls, "alpn": ["h2"]}},
                   {}),
        "h2c": ({"url": "h2c://127.0.0.1:%d/h2c" % ports["h2c"]}, {}),
        "nocert": ({"url": "https://127.0.0.1:%d/" % ports["mtls"], "tls": tls}, {}),
        "unknown": ({"url": https + "/unknown"}, {}),
        "other": ({"url": https + "/other", "tls": {**tls, "server_name": "other.test"}}, {}),
        "unverified": ({"url": https + "/unverified", "tls": {"verify": False}}, {}),
    })
    for name in ("plain", "close", "chunked", *(["six"] if has_ipv6() else []), "unix", "tls", "sni", "resumed", "full", "client", "h2", "h2post", "h2c",
                 "unverified"):
        good(name, o[name], "200")
    bad("chunks without the text", o["chunkwrong"], "body")
    with open(d + "/access.log") as f:
        if any(x.split("|")[1] != "chunked" for x in f if x.rstrip().endswith("|/chunked")):
            die("nginx did not send chunks: the test tests nothing")
    bad("no client certificate", o["nocert"], "status")
    bad("unknown authority", o["unknown"], "tls")
    bad("certificate of another", o["other"], "tls")
    n = o["close"]["planned"]
    for path, least, most in (("/plain", 1, 20), ("/close", n, n), ("/full", n, n), ("/h2", 1, 3), ("/h2c", 1, 5)):
        got = connections(d, path)[0]
        if not least <= got <= most:
            die("%s: %d connections" % (path, got))
    if connections(d, "/resumed")[1] < 80 or connections(d, "/full")[1]:
        die("resumed %s, full %s" % (connections(d, "/resumed"), connections(d, "/full")))
    if connections(d, "/h2")[2] != {"h2"} or connections(d, "/h2c")[2] != {"h2c"} or connections(d, "/tls")[2] - {"", "-"}:
        die("HTTP/2: %s %s" % (connections(d, "/h2"), connections(d, "/h2c")))
    if connections(d, "/sni")[3] != {"shop.test"} or connections(d, "/tls")[3] - {"", "-"}:
        die("SNI: %s %s" % (connections(d, "/sni"), connections(d, "/tls")))


def test_truncated(pems):
    """An answer whose length only the end of the connection tells (RFC 9112, 8): over TLS it is whole only with a
    close_notify, else anybody could have cut it (RFC 8446, 6.1)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pems["server.pem"], pems["server.key"])

    class Until(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.settimeout(2)
            with context.wrap_socket(self.request, server_side=True) as s:
                path = s.recv(4096).split()[1]
                s.sendall(b"HTTP/1.1 200 OK\r\n%s\r\nsome of it" % (b"Content-Length: 10\r\n" if path == b"/known" else b""))
                if path == b"/whole":
                    try:
                        s.unwrap()
                    except (OSError, ssl.SSLError):
                        pass  # the client's own is not waited for

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address, request_queue_size = True, True, 128

        def handle_error(self, *args):
            pass

    with Server(("127.0.0.1", 0), Until) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = "https://127.0.0.1:%d" % server.server_address[1]
        o = probe({path: ({"url": at + "/" + path, "tls": {"ca": pems["ca.pem"]}, "timeout": 10_000_000_000}, {"rate": 30.0})
                   for path in ("whole", "cut", "known")})
        server.shutdown()
    for path, name in (("whole", "ok"), ("known", "ok"), ("cut", "reset")):
        got = o[path]["ok"] if name == "ok" else o[path]["bad"].get(name, 0)
        if o[path]["planned"] < 20 or got != o[path]["planned"]:
            die("TLS, length unknown, %s: %s" % (path, o[path]))


def test_streams(ports):
    """Many requests at once on few connections: the limit of the peer is 8."""
    o = probe({"many": ({"url": "h2c://127.0.0.1:%d/many" % ports["h2c"]}, {"rate": 5000.0, "connections": 3})})
    good("many streams", o["many"], "200")


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while True:
            data = self.request.recv(4096)
            if not data:
                return
            self.request.sendall(data)


class Slow(socketserver.BaseRequestHandler):
    """HTTP by hand, an answer each 30 ms; what comes before its turn is pipelined."""
    early = 0
    served = 0

    def handle(self):
        while True:
            head = b""
            while b"\r\n\r\n" not in head:
                more = self.request.recv(4096)
                if not more:
                    return
                head += more
            time.sleep(0.03)
            try:
                rest = head.split(b"\r\n\r\n", 1)[1] + self.request.recv(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                rest = b""
            Slow.early += bool(rest)
            Slow.served += 1
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class EchoUdp(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(self.request[0], self.client_address)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


def test_bytes(ports):
    tcp, udp = Server(("127.0.0.1", 0), Echo), socketserver.UDPServer(("127.0.0.1", 0), EchoUdp)
    for s in (tcp, udp):
        threading.Thread(target=s.serve_forever, daemon=True).start()
    t, u = tcp.server_address[1], udp.server_address[1]
    closed = port()
    o = probe({
        "connect": ({"url": "tcp://127.0.0.1:%d" % t}, {}),
        "echo": ({"url": "tcp://127.0.0.1:%d" % t, "send": "ping\r\n"}, {}),
        "expect": ({"url": "tcp://127.0.0.1:%d" % ports["http"], "send": "GET / HTTP/1.0\r\n\r\n"},
                   {"expect": {"body": "hello"}}),
        "refused": ({"url": "tcp://127.0.0.1:%d" % closed}, {}),
        "udp": ({"url": "udp://127.0.0.1:%d" % u, "send": "x" * 900}, {}),
        "udprefused": ({"url": "udp://127.0.0.1:%d" % port(socket.SOCK_DGRAM), "send": "x"}, {}),
        "command": ({"url": "exec:/bin/echo", "args": ["a b", "c"]}, {"rate": 30.0, "expect": {"body": "a b c"}}),
        "false": ({"url": "exec:false"}, {"rate": 30.0}),
        "three": ({"url": "exec:/bin/sh", "args": ["-c", "exit 3"]}, {"rate": 30.0, "expect": {"status": [3]}}),
        "nothing": ({"url": "exec:/no/such/program"}, {"rate": 30.0}),
        "slow": ({"url": "exec:sleep", "args": ["60"], "timeout": 300_000_000}, {"rate": 30.0}),
    })
    for name in ("connect", "echo", "expect", "udp"):
        good(name, o[name], "000")
    for name, status in (("command", "000"), ("three", "003")):
        if o[name]["planned"] < 25 or o[name]["ok"] != o[name]["planned"] or o[name]["status"] != {status: o[name]["ok"]}:
            die("%s: %s" % (name, o[name]))
    for name, why in (("refused", "refused"), ("udprefused", "refused"), ("false", "status"), ("nothing", "refused")):
        bad(name, o[name], why)
    # On a busy machine some have to wait for one of the 20 that are being killed.
    if o["slow"]["ok"] or o["slow"]["bad"].get("timeout", 0) < 20 or set(o["slow"]["bad"]) - {"timeout", "unsent"}:
        die("slow: %s" % o["slow"])
    tcp.shutdown()
    udp.shutdown()


def test_no_pipelining():
    """More requests than the connections can carry one after the other: they wait, none is sent before its turn."""
    server = Server(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    o = probe({"p": ({"url": "http://127.0.0.1:%d/" % server.server_address[1], "timeout": 20_000_000_000},
                     {"connections": 2})}, 1.5)
    good("no pipelining", o["p"], "200")
    if Slow.early or Slow.served != o["p"]["planned"]:
        die("%d requests came before the answer of the one before, of %d" % (Slow.early, Slow.served))
    server.shutdown()


def test_dns(d):
    p = port(socket.SOCK_DGRAM)
    start("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--port=%d" % p,
          "--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file=", "--user=nobody", "--local=/test/",
          "--address=/www.shop.test/192.0.2.7", "--address=/six.shop.test/2001:db8::7",
          "--mx-host=shop.test,mail.shop.test,5", "--txt-record=shop.test,v=1 hello", "--cname=a.test,www.shop.test",
          "--srv-host=_x._tcp.shop.test,www.shop.test,80,1,2")
    wait_for("dnsmasq", lambda: listens(p))
    at = "dns://127.0.0.1:%d/" % p
    o = probe({
        "a": ({"url": at + "WWW.shop.test?type=A"}, {"expect": {"body": "192.0.2.7\n"}}),
        "aaaa": ({"url": at + "six.shop.test?type=AAAA"}, {"expect": {"body": "2001:db8::7"}}),
        "mx": ({"url": at + "shop.test?type=MX"}, {"expect": {"body": "5 mail.shop.test."}}),
        "txt": ({"url": at + "shop.test?type=TXT"}, {"expect": {"body": "v=1 hello"}}),
        "srv": ({"url": at + "_x._tcp.shop.test?type=SRV"}, {"expect": {"body": "1 2 80 www.shop.test."}}),
        "missing": ({"url": at + "none.test"}, {}),
        "known": ({"url": at + "none.test"}, {"expect": {"status": [3]}}),
        "wrong": ({"url": at + "www.shop.test"}, {"expect": {"body": "192.0.2.8"}}),
    })
    for name in ("a", "aaaa", "mx", "txt", "srv"):
        good("dns " + name, o[name], "000")
    good("dns known", o["known"], "003")
    bad("dns missing", o["missing"], "status")
    bad("dns wrong", o["wrong"], "body")
    probe({"x": ({"url": at + "a..b"}, {})}, fails="not a name")
    probe({"x": ({"url": at + "a.b?type=X"}, {})}, fails="type")


def test_redis(d):
    p = port()
    start("redis-server", "--port", str(p), "--bind", "127.0.0.1", "--unixsocket", d + "/redis.sock", "--dir", d,
          "--save", "", "--requirepass", "sesame")
    wait_for("redis", lambda: listens(p))
    o = probe({
        "auth": ({"url": "redis://127.0.0.1:%d" % p, "password_env": "PW"}, {}),
        "user": ({"url": "redis://default@127.0.0.1:%d" % p, "password_env": "PW"}, {"expect": {"body": "PONG"}}),
        "unix": ({"url": "redis+unix:%s/redis.sock" % d, "password_env": "PW"}, {}),
        "noauth": ({"url": "redis://127.0.0.1:%d" % p}, {}),
        "wrong": ({"url": "redis://127.0.0.1:%d" % p, "password_env": "BAD"}, {}),
    }, env={"PW": "sesame", "BAD": "x"})
    for name in ("auth", "user", "unix"):
        good("redis " + name, o[name], "000")
    bad("redis without a password", o["noauth"], "status")
    bad("redis with a wrong password", o["wrong"], "connect")
    probe({"x": ({"url": "redis://127.0.0.1:%d" % p, "password_env": "SQUALL_NONE"}, {})}, fails="SQUALL_NONE")


def test_postgres(d):
    found = sorted(os.path.join("/usr/lib/postgresql", v, "bin") for v in os.listdir("/usr/lib/postgresql"))
    bin_, data, p = found[-1], os.path.join(d, "pg"), port()
    os.mkdir(data, 0o700)
    if os.geteuid() == 0:
        os.chown(data, NOBODY.pw_uid, NOBODY.pw_gid)
    run(bin_ + "/initdb", "-D", data, "-U", "admin", "-A", "trust", "-N", "--no-locale", "-E", "UTF8",
        cwd=d, **unprivileged())
    with open(data + "/pg_hba.conf", "w") as f:
        f.write("local all all trust\nhost all admin 127.0.0.1/32 trust\nhost all clear 127.0.0.1/32 password\n"
                "host all five 127.0.0.1/32 md5\nhost all scram 127.0.0.1/32 scram-sha-256\n")
    server = start(bin_ + "/postgres", "-D", data, "-p", str(p), "-k", d, "-c", "listen_addresses=127.0.0.1", "-c",
                   "fsync=off", "-c", "max_connections=200", cwd=d)
    wait_for("postgres", lambda: listens(p))
    psql = ["psql", "-h", "127.0.0.1", "-p", str(p), "-U", "admin", "-d", "postgres", "-qc"]
    for _ in range(100):
        if subprocess.run(psql + ["select 1"], capture_output=True).returncode == 0:
            break
        time.sleep(0.1)
    run(*psql, "set password_encryption='md5'; create role five login password 'sesame';"
        "set password_encryption='scram-sha-256'; create role scram login password 'sesame';"
        "create role clear login password 'sesame';")
    at, pw = "@127.0.0.1:%d/postgres" % p, {"password_env": "PW"}
    o = probe({
        "trust": ({"url": "postgres://admin" + at}, {"expect": {"body": "1"}}),
        "clear": ({"url": "postgres://clear" + at, **pw}, {}),
        "md5": ({"url": "postgres://five" + at, **pw}, {}),
        "scram": ({"url": "postgresql://scram" + at, **pw}, {}),
        "unix": ({"url": "postgres+unix:%s/.s.PGSQL.%d:/postgres" % (d, p)}, {}),
        "each": ({"url": "postgres://scram" + at, "keep_alive": False, **pw}, {"rate": 30.0}),
        "wrong": ({"url": "postgres://scram" + at, "password_env": "BAD"}, {"rate": 30.0}),
        "nobody": ({"url": "postgres://nobody" + at}, {"rate": 30.0}),
    }, env={"PW": "sesame", "BAD": "x"})
    for name in ("trust", "clear", "md5", "scram"):
        good("postgres " + name, o[name], "000")
    bad("postgres as somebody unknown on the socket", o["unix"], "connect")
    if o["each"]["ok"] != o["each"]["planned"]:
        die("postgres, a login for each: %s" % o["each"])
    bad("postgres with a wrong password", o["wrong"], "connect")
    bad("postgres as nobody", o["nobody"], "connect")
    server.send_signal(signal.SIGINT)


GRPC = """
import sys
from concurrent import futures
import grpc

state = {"": b"\\x08\\x01", "shop": b"\\x08\\x01", "sick": b"\\x08\\x02"}

def check(request, context):
    name = request[2:].decode() if request else ""
    if name not in state:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return state[name]

handler = grpc.method_handlers_generic_handler(
    "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)})
server = grpc.server(futures.ThreadPoolExecutor(8), handlers=(handler,))
server.add_insecure_port("127.0.0.1:" + sys.argv[1])
server.start()
server.wait_for_termination()
"""


def test_grpc():
    p = port()
    start("/usr/bin/python3", "-c", GRPC, str(p))  # the distribution's, which has its grpc
    wait_for("gRPC", lambda: listens(p))
    at = "grpc://127.0.0.1:%d" % p
    o = probe({
        "all": ({"url": at}, {}),
        "one": ({"url": at + "/shop"}, {}),
        "sick": ({"url": at + "/sick"}, {}),
        "unknown": ({"url": at + "/none"}, {"expect": {"status": [5]}}),
    })
    good("grpc", o["all"], "000")
    good("grpc service", o["one"], "000")
    good("grpc unknown service", o["unknown"], "005")
    bad("grpc not serving", o["sick"], "status")
    if o["sick"]["status"] != {"014": o["sick"]["planned"]}:
        die("grpc not serving: %s" % o["sick"]["status"])


def main():
    d = tempfile.mkdtemp(prefix="squall-probe-", dir="/tmp")
    os.chmod(d, 0o777)
    ports = {name: port() for name in ("http", "https", "h2c", "mtls")}
    try:
        pems = certificates(d)
        nginx(d, pems, ports)
        test_http(d, pems, ports)
        test_truncated(pems)
        test_streams(ports)
        test_bytes(ports)
        test_no_pipelining()
        test_dns(d)
        test_redis(d)
        test_postgres(d)
        test_grpc()
    finally:
        for s in started:
            if s.poll() is None:
                os.killpg(s.pid, signal.SIGKILL)
                s.wait()
        shutil.rmtree(d, ignore_errors=True)
    print("ok")


main()
