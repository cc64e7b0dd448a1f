#!/usr/bin/env python3
"""DNS faults as the resolvers of musl, c-ares, Node.js, Java and Go see them."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import dns_lib
from dns_lib import A4, Server, alone
from intercept_lib import NO_BPF, Rig, Without, main

MUSL = r"""
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    struct addrinfo want = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *got;
    char text[64] = "";
    int rc = getaddrinfo(argv[1], "80", &want, &got);
    if (rc == 0)
        inet_ntop(AF_INET, &((struct sockaddr_in *)got->ai_addr)->sin_addr, text, sizeof text);
    printf("%s\n", rc == 0 ? text : rc == EAI_NONAME ? "notfound" : rc == EAI_AGAIN ? "again" : "other");
    return 0;
}
"""
LOOKUP = """
require('dns').lookup(process.argv[2], 4, (e, a) => console.log(e ? e.code : a))
"""
CARES = """
require('dns').resolve4(process.argv[2], (e, a) => console.log(e ? e.code : a[0]))
"""
JAVA = """
import java.net.*;
public class Ask { public static void main(String[] a) {
    try { System.out.println(InetAddress.getByName(a[0]).getHostAddress()); }
    catch (UnknownHostException e) { System.out.println(e.getMessage()); } } }
"""
GO = """
package main
import ("context"; "errors"; "fmt"; "net"; "os")
func main() {
    a, err := (&net.Resolver{PreferGo: true}).LookupIP(context.Background(), "ip4", os.Args[1])
    var d *net.DNSError
    if errors.As(err, &d) { fmt.Println("notfound", d.IsNotFound, "timeout", d.IsTimeout); return }
    fmt.Println(a[0])
}
"""


def write(path, text):
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, 0o755)
    return path


def programs(d):
    """name -> (argv without the host, what it says of NXDOMAIN, of SERVFAIL)"""
    subprocess.run(["musl-gcc", "-static", "-o", f"{d}/ask", write(f"{d}/ask.c", MUSL)], check=True)
    write(f"{d}/Ask.java", JAVA)
    subprocess.run(["javac", "-d", d, f"{d}/Ask.java"], check=True)
    write(f"{d}/ask.go", GO)
    env = dict(os.environ, GOCACHE=f"{d}/gocache", GO111MODULE="off", CGO_ENABLED="0", HOME=d)
    subprocess.run(["nice", "go", "build", "-o", f"{d}/goask", f"{d}/ask.go"], check=True, env=env)
    return {
        "musl": ([f"{d}/ask"], "notfound", "again"),
        "node lookup": (["node", write(f"{d}/lookup.js", LOOKUP)], "ENOTFOUND", "EAI_AGAIN"),
        "c-ares": (["node", write(f"{d}/cares.js", CARES)], "ENOTFOUND", "ESERVFAIL"),
        "java": (["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", d, "Ask"],
                 "{}: Name or service not known", "{}: Temporary failure in name resolution"),
        "go": ([f"{d}/goask"], "notfound true timeout false", "notfound false timeout false"),
    }


def test_resolvers(run_dir):
    progs = programs(run_dir)
    resolvers(run_dir, progs, Server())


def test_ipv6(run_dir):
    """A name server with an IPv6 address: musl sends to it from a socket that is not connected."""
    progs = programs(run_dir)
    resolvers(run_dir, {name: progs[name] for name in ("musl", "node lookup", "c-ares", "go")}, Server("::1"))


def test_seccomp(run_dir):
    """The same by seccomp, where BPF is not."""
    resolvers(run_dir, programs(run_dir), Server(), NO_BPF)


def resolvers(run_dir, progs, server, prefix=None):
    to = f"[{server.host}]:53" if ":" in server.host else f"{server.host}:53"
    r = Rig(run_dir, [to], mode="seccomp" if prefix else "bpf", protocol="dns",
            injector=Without(run_dir, prefix) if prefix else None)
    head = f"NS={server.host!r}\nCONF={os.path.join(run_dir, 'resolv.conf')!r}\n" + dns_lib.RAW

    def ask(argv, host):
        return r.do(head + f"result = private({argv + [host]!r})\n", 60)

    def fault(**with_):
        return r.inj.post(f"runs/{r.id}/faults", {"uses": "call/dns", "target": {"edge": r.edge}, "with": with_})

    for name, (argv, _, _) in progs.items():
        got = ask(argv, "ok.test")
        assert got[0] == A4, (name, got)
    f = fault(answer="nxdomain", names=["db.test"])
    for name, (argv, gone, _) in progs.items():
        asked = len(server.asked)
        assert ask(argv, "db.test")[0] == gone.format("db.test"), (name, ask(argv, "db.test"))
        assert not [a for a in server.asked[asked:] if a[0].lower() == "db.test"], (name, server.asked[asked:])
        if name != "java":
            assert ask(argv, "ok.test")[0] == A4, name
    r.clear(f)
    f = fault(answer="servfail")
    for name, (argv, _, failed) in progs.items():
        got = ask(argv, "db.test")
        assert got[0] == failed.format("db.test"), (name, got)
    r.clear(f)
    f = fault(answer="wrong", address=["203.0.113.9"], delay="400ms")
    for name, (argv, _, _) in progs.items():
        got = ask(argv, "db.test")
        assert got[0] == "203.0.113.9" and got[1] >= 0.39, (name, got)
    r.clear(f)
    r.end()
    server.close()


if __name__ == "__main__":
    alone()
    main([test_resolvers, test_ipv6, test_seccomp])
