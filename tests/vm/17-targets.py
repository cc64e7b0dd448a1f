#!/usr/bin/env python3
"""Which packets netem faults hit: namespaces by name and pid, VLANs, a cgroup, host names, what comes in, `interface: auto`;
faults of several runs and several Squalls on one interface, added and removed in any order; matches that overlap."""
import os
import random

import vm

vm.boot(__file__)
from rig import *  # noqa: E402,F403
from rig import FAR, Squall, configured, echo, least, same, sh, subprocess, sys, time, want, wire  # noqa: E402

PING = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
times = []
for i in range(6):
    t = time.monotonic()
    s.sendto(b"%d" % i, (sys.argv[1], 7))
    s.recv(100)
    times.append((time.monotonic() - t) * 1000)
print(min(times[1:]))
"""


def ping(to, ns=None, cgroup=None):
    """Least round trip in ms of another process, in a namespace or cgroup."""
    enter = (lambda: open(f"{cgroup}/cgroup.procs", "w").write(str(os.getpid()))) if cgroup else None
    got = subprocess.run([*(["ip", "netns", "exec", ns] if ns else []), sys.executable, "-c", PING, to], preexec_fn=enter,
                         capture_output=True, text=True)
    return float(got.stdout) if got.returncode == 0 else -1


def delayed(what, got, ms=20):
    want(f"{what}: {got:.1f} ms", ms <= got < ms + 15)


def free(what, got):
    want(f"{what}: {got:.1f} ms", 0 < got < 10)


def namespaces(s):
    here = echo_here()
    pid = other.pid
    for spec in ("sq-n", f"pid:{pid}"):
        for direction, want_ms in (("egress", 20), ("ingress", 20), ("both", 40)):
            f = s.on({"delay": "20ms"}, interface="sq-ap", namespace=spec, direction=direction)
            delayed(f"namespace {spec}, {direction}", least(n=3), want_ms)
            want("nothing here", "5c1a" not in sh("tc qdisc show dev sq-a"))
            s.off(f)
    f = s.on({"delay": "20ms"}, interface="lo", namespace="sq-n")
    delayed("lo of the namespace", ping("127.0.0.1", ns="sq-n"), 40)
    s.off(f)
    here.kill()
    here.wait()


def echo_here():
    from rig import ECHO
    p = subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
    p.stdout.readline()
    return p


def vlans(s):
    sh("ip link add link sq-a name sq-a.5 type vlan id 5")
    sh("ip addr add 10.99.5.1/24 dev sq-a.5")
    sh("ip link set sq-a.5 up")
    sh("ip -n sq-n link add link sq-ap name sq-ap.5 type vlan id 5")
    sh("ip -n sq-n addr add 10.99.5.2/24 dev sq-ap.5")
    sh("ip -n sq-n link set sq-ap.5 up")
    for direction in ("egress", "ingress"):
        f = s.on({"delay": "20ms"}, interface="sq-a.5", direction=direction)
        delayed(f"on the VLAN's interface, {direction}", least(to="10.99.5.2"))
        free("not below it", least())
        s.off(f)
        f = s.on({"delay": "20ms"}, match=[{"vlan": 5}], direction=direction)
        delayed(f"vlan: 5 on the one below, {direction}", least(to="10.99.5.2"))
        free("untagged", least())
        s.off(f)
        f = s.on({"delay": "20ms"}, match=[{"vlan": 6}], direction=direction)
        free(f"vlan: 6, {direction}", least(to="10.99.5.2"))
        s.off(f)
        f = s.on({"delay": "20ms"}, match=[{"host": "10.99.5.2", "port": "7", "protocol": "udp"}], direction=direction)
        delayed(f"host and port inside of the tag, {direction}", least(to="10.99.5.2"))
        s.off(f)
    sh("ip link del sq-a.5")
    sh("ip -n sq-n link del sq-ap.5")


def cgroups(s):
    top = "/sys/fs/cgroup/sq-of"
    os.makedirs(f"{top}/below")
    f = s.on({"delay": "20ms"}, of={"cgroup": top})
    delayed("a socket of the cgroup", ping(FAR, cgroup=top))
    delayed("and of one below", ping(FAR, cgroup=f"{top}/below"))
    free("nobody else's", ping(FAR))
    s.off(f)
    os.rmdir(f"{top}/below")
    os.rmdir(top)


def names(s):
    with open("/etc/hosts", "a") as f:
        f.write("10.99.0.2 far.squall.example\nfd99::2 far.squall.example\n")
    sh("ip addr add fd99::1/64 dev sq-a nodad")
    sh("ip -n sq-n addr add fd99::2/64 dev sq-ap nodad")
    f = s.on({"delay": "20ms"}, interface="auto", match=[{"host": "far.squall.example"}])
    delayed("a name's IPv4 address, interface auto", least())
    delayed("and its IPv6 address", least(to="fd99::2"))
    sh("ip -n sq-n addr add 10.99.0.4/24 dev sq-ap")
    free("no other address", least(to="10.99.0.4"))
    with open("/etc/hosts", "a") as h:
        h.write("10.99.0.4 far.squall.example\n")
    end = time.monotonic() + 30
    while (got := least(to="10.99.0.4", n=2)) < 20 and time.monotonic() < end:
        time.sleep(0.5)
    delayed("one that the name has got meanwhile", got)
    s.off(f)
    s.refused("a name that is none", {"delay": "20ms"}, 404, interface="auto", match=[{"host": "none.squall.example"}])
    want("and nothing was touched", "5c1a" not in sh("tc qdisc show"))
    sh("ip -n sq-n addr del 10.99.0.4/24 dev sq-ap")
    sh("ip addr del fd99::1/64 dev sq-a")
    sh("ip -n sq-n addr del fd99::2/64 dev sq-ap")


def overlap(s):
    """Of two that mean the same packet the one applied first has it."""
    a = s.on({"delay": "20ms"}, match=[{"port": "7-8"}])
    b = s.on({"delay": "40ms"}, match=[{"port": "8-9"}])
    got = [least(port=p, n=3) for p in (7, 8, 9)]
    want(f"both: {got}", [round(x) // 20 for x in got] == [1, 1, 2], got)
    s.off(a)
    got = [least(port=p, n=3) for p in (7, 8, 9)]
    want(f"without the first: {got}", [round(x) // 20 for x in got] == [0, 2, 2], got)
    c = s.on({"delay": "60ms"})
    got = [least(port=p, n=3) for p in (7, 8, 9)]
    want(f"one that means everything takes the number that is free: {got}", [round(x) // 20 for x in got] == [3, 3, 3], got)
    s.off(b)
    s.off(c)


def any_order(s):
    """Runs of two Squalls come and go on one interface, both directions; what is on is what is felt."""
    random.seed(int(os.environ.get("VM_SEED", "7")))
    t = Squall(host=s.host, name="p-second")
    runs = [(s, s.run), (s, s.new_run()), (t, t.run), (t, t.new_run())]
    on, ports = {}, (7, 8, 9)
    for step in range(14):
        key = (random.choice(ports), random.choice(("egress", "ingress")))
        if key in on:
            who, run, f = on.pop(key)
            who.off(f, run)
        else:
            who, run = random.choice(runs)
            f = who.on({"delay": "20ms"}, run=run, direction=key[1],
                       match=[{"port": str(key[0])}])
            on[key] = (who, run, f)
        for p in ports:
            n = sum(k[0] == p for k in on)
            got = least(port=p, n=2)
            if not 20 * n <= got < 20 * n + 19:
                got = least(port=p, n=8)
            want(f"step {step}: port {p} has {n}: {got:.1f}", 20 * n <= got < 20 * n + 19)
    for who, run, f in on.values():
        who.off(f, run)
    if t.quit() != 0:
        want("the second one ends well", False)


wire()
other = echo("sq-n")
s = Squall()
for fn in (namespaces, vlans, cgroups, names, overlap, any_order):
    t = time.monotonic()
    before = configured("sq-n")
    fn(s)
    same(f"{fn.__name__}: as before", before, configured("sq-n"))
    print(f"-- {fn.__name__}: {time.monotonic() - t:.1f} s", flush=True)
if s.quit() != 0:
    want("squalld ends well", False)
s.host.close()
other.kill()
