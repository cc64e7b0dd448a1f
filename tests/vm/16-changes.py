#!/usr/bin/env python3
"""What happens to the interface of a netem fault while it is on: down and up, renamed, other addresses, routes that come and
go, deleted and made anew."""
import vm

vm.boot(__file__)
from rig import *  # noqa: E402,F403
from rig import FAR, Squall, configured, echo, least, rtts, same, sh, time, until, want, wire  # noqa: E402

BOTH = {"direction": "both"}


def said(s, text):
    until(f"it is said: {text}", lambda: [e for e in s.events() if text in e["text"]])


def down_and_up(s):
    f = s.on({"delay": "10ms"}, **BOTH)
    sh("ip link set sq-a down")
    said(s, "sq-a is down")
    sh("ip link set sq-a up")
    said(s, "sq-a is up again")
    got = until("the wire is up", lambda: rtts(wait=0.5))
    want(f"down and up: the fault is still there: {got[0]:.1f}", 20 <= got[0] < 60)
    return f


def renamed(s):
    f = s.on({"delay": "10ms"}, **BOTH)
    # A kernel that can't rename an interface that is up says so; then it is down for a moment.
    sh("ip link set sq-a down")
    sh("ip link set sq-a name sq-z")
    sh("ip link set sq-z up")
    said(s, "sq-a is called sq-z now")
    got = until("the wire is up", lambda: rtts(wait=0.5))
    want(f"renamed: the fault is still there: {got[0]:.1f}", 20 <= got[0] < 60)
    g = s.on({"delay": "10ms"}, interface="sq-z")
    want("a second one by the new name", sh("tc qdisc show dev sq-z").count("netem") == 2)
    s.off(g)
    sh("ip link set sq-z down")
    sh("ip link set sq-z name sq-a")
    sh("ip link set sq-a up")
    said(s, "sq-z is called sq-a now")
    return f


def addresses(s):
    f = s.on({"delay": "20ms"}, match=[{"host": f"{FAR}/32"}])  # not what comes in: the answers are from FAR, too
    sh("ip addr del 10.99.0.1/24 dev sq-a")
    sh("ip addr add 10.99.0.77/24 dev sq-a")
    got = until("the wire is up", lambda: rtts(wait=0.5))
    want(f"another address of ours: the fault is still there: {got[0]:.1f}", 20 <= got[0] < 60)
    sh("ip -n sq-n addr add 10.99.0.3/24 dev sq-ap")
    got = rtts(to="10.99.0.3")
    want(f"and does not mean the peer's other one: {got[0]:.1f}", 0 < got[0] < 10)
    sh("ip -n sq-n addr del 10.99.0.3/24 dev sq-ap")
    sh("ip addr del 10.99.0.77/24 dev sq-a")
    sh("ip addr add 10.99.0.1/24 dev sq-a")
    return f


def routes(s):
    """`auto` means the interface of the moment in which the fault began, whatever the routes do then."""
    sh("ip route add 198.51.100.0/24 via 10.99.0.2 dev sq-a")
    sh("ip -n sq-n addr add 198.51.100.1/32 dev lo")
    f = s.on({"delay": "20ms"}, interface="auto", match=[{"host": "198.51.100.1"}])
    want("auto is the route's", f["readback"]["interface"] == "sq-a", f)
    for _ in range(3):
        sh("ip route del 198.51.100.0/24 via 10.99.0.2 dev sq-a")
        want("no route: no packet", not rtts(to="198.51.100.1", wait=0.2))
        sh("ip route add 198.51.100.0/24 via 10.99.0.2 dev sq-a")
        got = rtts(to="198.51.100.1")
        want(f"the route is back, and so is the fault: {got[0]:.1f}", 20 <= got[0] < 60)
    # By another interface for a while: its traffic is not meant.
    wire("sq-c", near="10.99.1.1", far="10.99.1.2")
    sh("ip route replace 198.51.100.0/24 via 10.99.1.2 dev sq-c")
    got = rtts(to="198.51.100.1")
    want(f"another way is free of it: {got[0]:.1f}", 0 < got[0] < 10)
    sh("ip link del sq-c")
    sh("ip route replace 198.51.100.0/24 via 10.99.0.2 dev sq-a")
    got = rtts(to="198.51.100.1")
    want(f"and the first way has it still: {got[0]:.1f}", 20 <= got[0] < 60)
    sh("ip route del 198.51.100.0/24 via 10.99.0.2 dev sq-a")
    sh("ip -n sq-n addr del 198.51.100.1/32 dev lo")
    return f


def deleted(s):
    """Over with its interface; what is made anew under the name is free of it and takes a fault of its own."""
    f = s.on({"delay": "10ms"}, **BOTH)
    g = s.on({"delay": "10ms"}, match=[{"port": "7"}])
    want("there is an ifb", "sqi" in sh("ip link show"))
    sh("ip link del sq-a")
    wire()
    said(s, "the interface of the fault is gone")
    until("both have ended", lambda: not [x for x in s.api.call("GET", f"/v1/runs/{s.run}/snapshot", expect=200)["faults"] if x["active"]])
    until("the ifb has, too", lambda: "sqi" not in sh("ip link show"))
    for x in (f, g):
        status, _ = s.api.call("DELETE", f"/v1/runs/{s.run}/faults/{x['fault']}")
        want("there is nothing to take back", status == 404, status)
    got = until("the wire is up", lambda: rtts(wait=0.5))
    want(f"a new interface is free of it: {got[0]:.1f}", got[0] < 10)
    f = s.on({"delay": "10ms"}, **BOTH)
    want("and takes one of its own", least() >= 20)
    return f


def namespace_dies(s):
    """Nothing keeps a namespace alive because of a fault in it."""
    wire("sq-d", ns="sq-m", near="10.99.2.1", far="10.99.2.2")
    f = s.on({"delay": "10ms"}, interface="sq-dp", namespace="sq-m", **BOTH)
    sh("ip netns del sq-m")
    until("its interfaces are gone", lambda: "sq-d" not in sh("ip link show"))
    said(s, "namespace of the fault is gone")
    status, _ = s.api.call("DELETE", f"/v1/runs/{s.run}/faults/{f['fault']}")
    want("there is nothing to take back", status == 404, status)


wire()
other = echo("sq-n")
s = Squall()
for fn in (down_and_up, renamed, addresses, routes, deleted):
    t = time.monotonic()
    before = configured("sq-n")
    f = fn(s)
    s.off(f)
    now = configured("sq-n")
    if fn is not deleted:  # numbers and hardware addresses of the new one are others
        same(f"{fn.__name__}: as before", before, now)
    want(f"{fn.__name__}: nothing of ours is left", "squall" not in now and "sqi" not in now and "5c1a:" not in now, now)
    want(f"{fn.__name__}: free again", least() < 10)
    print(f"-- {fn.__name__}: {time.monotonic() - t:.1f} s", flush=True)
namespace_dies(s)
if s.quit() != 0:
    want("squalld ends well", False)
s.host.close()
other.kill()
