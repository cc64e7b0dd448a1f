#!/usr/bin/env python3
"""Runs as root on a kernel that has netem: network/latency is applied, read back by value, agrees with tc, is felt by
packets, is changed, is taken back by request, by lease, by the keeper, by a sweep; a foreign qdisc is left alone."""
import os, sys

import vm

vm.boot(__file__)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from squall import *


def sh(*args):
    got = subprocess.run(args, capture_output=True, text=True)
    if got.returncode:
        die(f"{' '.join(args)}: {got.stderr}")
    return got.stdout


def root_qdisc():
    return json.loads(sh("tc", "-j", "qdisc", "show", "dev", "sq-a", "root"))[0]


def netem():
    """Ours, below the first class of our tree; None: there is none."""
    found = [q for q in json.loads(sh("tc", "-j", "qdisc", "show", "dev", "sq-a")) if q["kind"] == "netem"]
    return found[0] if found else None


ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.99.0.2", 7))
while True:
    data, who = s.recvfrom(2048)
    s.sendto(data, who)
"""


def rtt(n=20):
    """Minimum, average and maximum in ms of an echo over the veth; the first packet pays for ARP and is left out."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    times = []
    for i in range(3 * n):
        begin = time.monotonic()
        s.sendto(str(i).encode(), ("10.99.0.2", 7))
        try:
            while s.recv(2048) != str(i).encode():
                pass
        except TimeoutError:
            continue
        times.append((time.monotonic() - begin) * 1000)
        if len(times) > n:
            break
    if len(times) <= n:
        die("too few echoes came back")
    times = times[1:]
    return min(times), sum(times) / len(times), max(times)


def want(what, ok):
    print(("ok: " if ok else "NOT: ") + what, flush=True)
    if not ok:
        die(what)


sh("ip", "netns", "add", "sq-n")
sh("ip", "link", "add", "sq-a", "type", "veth", "peer", "name", "sq-b", "netns", "sq-n")
sh("ip", "addr", "add", "10.99.0.1/24", "dev", "sq-a")
sh("ip", "link", "set", "sq-a", "up")
sh("ip", "-n", "sq-n", "addr", "add", "10.99.0.2/24", "dev", "sq-b")
sh("ip", "-n", "sq-n", "link", "set", "sq-b", "up")
echo = subprocess.Popen(["ip", "netns", "exec", "sq-n", sys.executable, "-c", ECHO])
time.sleep(1)
before = sh("tc", "qdisc", "show")
want("a packet takes less than 5 ms without a fault", rtt()[1] < 5)

host = Host()
inj = Injector(host)
checks = {c["name"]: c for c in inj.api.call("GET", "/v1/doctor", expect=200)["checks"]}
want("doctor says that netem works here", checks["network/latency"]["ok"])
run = inj.api.call("POST", "/v1/runs", {"name": "vm", "lease": "60s"}, 201)["run"]


def apply(with_, interface="sq-a", expect=201):
    return inj.api.call("POST", f"/v1/runs/{run}/faults",
                        {"uses": "network/latency", "target": {"interface": interface}, "step": "s",
                         "with": dict(with_, backend="netem")}, expect)


f = apply({"delay": "50ms", "jitter": "5ms", "correlation": "25%", "loss": "0.5%"})
q = netem()
want("our tree is at the root", root_qdisc()["kind"] == "htb" and root_qdisc()["handle"] == "5c1a:")
want("the read-back has what was asked", f["readback"]["delay"] == 50000000 and f["readback"]["jitter"] == 5000000)
want(f"tc agrees: {q}", q["parent"] == "5c1a:100" and
     abs(q["options"]["delay"]["delay"] - 0.05) < 1e-7 and abs(q["options"]["delay"]["jitter"] - 0.005) < 1e-7 and
     abs(q["options"]["delay"]["correlation"] - 0.25) < 1e-6 and abs(q["options"]["loss-random"]["loss"] - 0.005) < 1e-6)
inj.api.call("PATCH", f"/v1/runs/{run}/faults/{f['fault']}", {"with": {"delay": "30ms", "jitter": "0", "correlation": "0%", "loss": "0%"}}, 200)
low, average, _ = rtt()
want(f"packets take 30 ms: {low} {average}", 30 <= low < 33 and 30 <= average < 36)
gone = inj.api.call("DELETE", f"/v1/runs/{run}/faults/{f['fault']}", expect=200)
want("taken back, and said so", gone["clean"] and sh("tc", "qdisc", "show") == before and rtt()[1] < 5)

want("an interface that is not there is an error", inj.api.call(
    "POST", f"/v1/runs/{run}/faults", {"uses": "network/latency", "target": {"interface": "sq-none"}, "with": {"delay": "1ms"}})[0] == 404)
long = apply({"delay": "1000s"})
want("a thousand seconds are as long in the kernel", long["readback"]["delay"] == 1000 * 10**9)
inj.api.call("DELETE", f"/v1/runs/{run}/faults/{long['fault']}", expect=200)
want("more than an hour is refused", inj.api.call(
    "POST", f"/v1/runs/{run}/faults", {"uses": "network/latency", "target": {"interface": "sq-a"}, "with": {"delay": "2h"}})[0] == 400)

sh("tc", "qdisc", "add", "dev", "sq-a", "root", "handle", "77:", "pfifo", "limit", "123")
status, said = inj.api.call("POST", f"/v1/runs/{run}/faults",
                            {"uses": "network/latency", "target": {"interface": "sq-a"}, "with": {"delay": "1ms", "backend": "netem"}})
want("a foreign root qdisc is refused", status == 409 and "pfifo" in said["error"]["message"])
want("and left alone", root_qdisc()["handle"] == "77:")
sh("tc", "qdisc", "del", "dev", "sq-a", "root")

# Below somebody else's htb.
sh("tc", "qdisc", "add", "dev", "sq-a", "root", "handle", "1:", "htb", "default", "10")
sh("tc", "class", "add", "dev", "sq-a", "parent", "1:", "classid", "1:10", "htb", "rate", "1gbit")
theirs = sh("tc", "qdisc", "show", "dev", "sq-a") + sh("tc", "class", "show", "dev", "sq-a")
status, said = inj.api.call("POST", f"/v1/runs/{run}/faults",
                            {"uses": "network/latency", "target": {"interface": "sq-a"}, "with": {"delay": "1ms", "backend": "netem"}})
want("somebody's htb is refused, with a hint", status == 409 and "insert: classful" in said["error"]["hint"])
f = inj.api.call("POST", f"/v1/runs/{run}/faults",
                 {"uses": "network/latency", "target": {"interface": "sq-a", "insert": "classful"}, "step": "s",
                  "with": {"delay": "20ms", "backend": "netem"}}, 201)
want("and works below it when asked to", root_qdisc()["handle"] == "1:" and rtt()[0] >= 20)
inj.api.call("DELETE", f"/v1/runs/{run}/faults/{f['fault']}", expect=200)
want("which is as it was", sh("tc", "qdisc", "show", "dev", "sq-a") + sh("tc", "class", "show", "dev", "sq-a") == theirs)
sh("tc", "qdisc", "del", "dev", "sq-a", "root")

# Somebody's clsact with a filter, and its own end.
sh("tc", "qdisc", "add", "dev", "sq-a", "clsact")
sh("tc", "filter", "add", "dev", "sq-a", "ingress", "pref", "7", "protocol", "ip", "u32", "match", "ip", "dst", "203.0.113.1/32", "flowid", "1:1")
theirs = sh("tc", "filter", "show", "dev", "sq-a", "ingress")
f = inj.api.call("POST", f"/v1/runs/{run}/faults",
                 {"uses": "network/latency", "target": {"interface": "sq-a", "direction": "ingress"}, "step": "s",
                  "with": {"delay": "20ms", "backend": "netem"}}, 201)
want("what comes in is delayed beside the filters of others", rtt()[0] >= 20)
inj.api.call("DELETE", f"/v1/runs/{run}/faults/{f['fault']}", expect=200)
want("which stay, and so does their clsact", sh("tc", "filter", "show", "dev", "sq-a", "ingress") == theirs)
sh("tc", "qdisc", "del", "dev", "sq-a", "clsact")

# The interface is renamed, then deleted, while a fault is on it.
sh("ip", "link", "add", "sq-x", "type", "veth", "peer", "name", "sq-y")
f = apply({"delay": "20ms"}, "sq-x")
sh("ip", "link", "set", "sq-x", "name", "sq-z")
time.sleep(1.5)
sh("ip", "link", "del", "sq-z")
time.sleep(1.5)
want("a fault ends with its interface", inj.api.call("DELETE", f"/v1/runs/{run}/faults/{f['fault']}")[0] == 404)

# The lease.
short = inj.api.call("POST", "/v1/runs", {"name": "lease", "lease": "1s"}, 201)["run"]
inj.api.call("POST", f"/v1/runs/{short}/faults",
             {"uses": "network/latency", "target": {"interface": "sq-a"}, "with": {"delay": "20ms", "backend": "netem"}, "step": "s"}, 201)
want("netem is on", netem())
time.sleep(2.5)
want("gone with its lease", sh("tc", "qdisc", "show") == before)

# squalld is killed: the keeper takes it back.
apply({"delay": "20ms"})
os.kill(host.by_name("squalld")[0], signal.SIGKILL)
end = time.monotonic() + 3
while sh("tc", "qdisc", "show") != before and time.monotonic() < end:
    time.sleep(0.02)
want("taken back by the keeper", sh("tc", "qdisc", "show") == before)
inj.proc.wait(10)

# Both are killed: the next start takes it back.
inj = Injector(host)
run = inj.api.call("POST", "/v1/runs", {"name": "vm", "lease": "60s"}, 201)["run"]
apply({"delay": "20ms"})
both = host.by_name("squalld", "squall-keeper")
for sig in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that neither sees the other die
    for pid in both:
        os.kill(pid, sig)
inj.proc.wait(10)
want("nobody is left to take it back", netem())
subprocess.run([SQUALLD, "sweep"], env=host.env, timeout=20, check=True)
want("taken back by the sweep of the next start", sh("tc", "qdisc", "show") == before)
host.close()
echo.kill()
print("netem: all of it holds")
