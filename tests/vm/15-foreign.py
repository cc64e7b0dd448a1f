#!/usr/bin/env python3
"""netem faults where somebody else has configured something: refused, or beside it; theirs is never changed, and what is
configured afterwards is what was before. The kernel's default roots come back as they were. (The test kernel's nftables has
no family that works: tests/live/23-packet-others.py has a ruleset in the way.)"""
import vm

vm.boot(__file__)
from rig import *  # noqa: E402,F403
from rig import Squall, configured, difference, echo, json, least, same, sh, time, until, want, wire  # noqa: E402

AWAY = "u32 match ip dport 99 0xffff action drop"
NAMES = ("sq-n",)


def case(s, what, setup, teardown, egress="on", ingress="on", kept=()):
    """EGRESS, INGRESS: "on", "refused", or "classful" (refused without insert: classful, on with it). KEPT: what the lines
    hold that must be there during a fault, too."""
    for c in setup:
        sh(c)
    before = configured(*NAMES)
    keep = [x for x in before.splitlines() if any(k in x for k in kept)]
    want(f"{what}: there is something to keep", not kept or keep)
    for direction, how in (("egress", egress), ("ingress", ingress)):
        if how != "on":
            s.refused(f"{what}: {direction}", {"delay": "20ms"}, direction=direction)
        if how == "refused" and direction == "egress":
            s.refused(f"{what}: classful, too", {"delay": "20ms"}, insert="classful")
        if how == "refused":
            same(f"{what}: nothing was touched", before, configured(*NAMES))
            continue
        f = s.on({"delay": "20ms"}, direction=direction, **({"insert": "classful"} if how == "classful" else {}))
        got = least()
        want(f"{what}: {direction} is delayed: {got:.1f} ms", 20 <= got < 60)
        now = configured(*NAMES).splitlines()
        lost = [x for x in keep if x not in now]
        want(f"{what}: {direction}: theirs is there meanwhile", not lost, difference("\n".join(keep), "\n".join(now)))
        s.off(f)
        same(f"{what}: {direction}: as before", before, configured(*NAMES))
    for c in teardown:
        sh(c)


def roots(s):
    """A root that is somebody's is refused; below an HTB it goes when asked for."""
    case(s, "an HTB tree with filters", [
        "tc qdisc add dev sq-a root handle 1: htb default 20 r2q 5", "tc class add dev sq-a parent 1: classid 1:1 htb rate 100mbit",
        "tc class add dev sq-a parent 1:1 classid 1:10 htb rate 1mbit ceil 9mbit prio 2",
        "tc class add dev sq-a parent 1:1 classid 1:20 htb rate 90mbit", "tc qdisc add dev sq-a parent 1:20 handle 20: fq_codel limit 77",
        "tc filter add dev sq-a parent 1: pref 9 protocol ip u32 match ip dport 98 0xffff flowid 1:10"],
        ["tc qdisc del dev sq-a root"], egress="classful", kept=("htb", "fq_codel 20:", "u32"))
    case(s, "an HTB whose filters begin at preference 1", [
        "tc qdisc add dev sq-a root handle 1: htb default 20", "tc class add dev sq-a parent 1: classid 1:20 htb rate 90mbit",
        "tc filter add dev sq-a parent 1: pref 1 protocol ip u32 match ip dport 98 0xffff flowid 1:20"],
        ["tc qdisc del dev sq-a root"], egress="refused", kept=("htb", "u32"))
    case(s, "an HTB with classes where ours would be", [
        "tc qdisc add dev sq-a root handle 1: htb default c101", "tc class add dev sq-a parent 1: classid 1:c101 htb rate 90mbit"],
        ["tc qdisc del dev sq-a root"], egress="refused", kept=("htb",))
    for root in ("fq_codel limit 50", "mq", "tbf rate 50mbit burst 100k latency 50ms", "prio bands 4", "netem delay 1ms", "htb default 1"):
        if root.startswith("htb"):  # ours is known by its handle: this one isn't
            case(s, "an empty HTB", [f"tc qdisc add dev sq-a root handle 5c1b: {root}"], ["tc qdisc del dev sq-a root"],
                 egress="classful", kept=("5c1b:",))
        else:
            case(s, root, [f"tc qdisc add dev sq-a root handle 9: {root}"], ["tc qdisc del dev sq-a root"], egress="refused",
                 kept=("9:",))


def hooks(s):
    """clsact, ingress and ifb at the same device."""
    case(s, "clsact with filters", [
        "tc qdisc add dev sq-a clsact", f"tc filter add dev sq-a ingress pref 7 protocol ip {AWAY}",
        f"tc filter add dev sq-a egress pref 60000 protocol ip {AWAY}"], ["tc qdisc del dev sq-a clsact"], kept=("u32", "clsact"))
    case(s, "an empty clsact", ["tc qdisc add dev sq-a clsact"], ["tc qdisc del dev sq-a clsact"], kept=("clsact",))
    case(s, "ingress with filters", [
        "tc qdisc add dev sq-a handle ffff: ingress", f"tc filter add dev sq-a parent ffff: pref 3 protocol ip {AWAY}"],
        ["tc qdisc del dev sq-a ingress"], kept=("u32", "ingress"))
    case(s, "an ifb in use", [
        "ip link add ifb7 type ifb", "ip link set ifb7 up", "tc qdisc add dev ifb7 root handle 3: netem delay 1ms",
        "tc qdisc add dev sq-a clsact",
        "tc filter add dev sq-a ingress pref 7 protocol ip u32 match ip dport 99 0xffff action mirred egress redirect dev ifb7"],
        ["tc qdisc del dev sq-a clsact", "ip link del ifb7"], kept=("ifb7", "u32"))
    index = json.loads(sh("ip -j link show sq-a"))[0]["ifindex"]
    case(s, "a device that has our ifb's name", [f"ip link add sqi{index} type dummy"], [f"ip link del sqi{index}"],
         ingress="refused")


def meanwhile(s):
    """What others put there while a fault is on stays there."""
    before = configured(*NAMES)
    f = s.on({"delay": "20ms"}, direction="ingress")
    sh(f"tc filter add dev sq-a ingress pref 7 protocol ip {AWAY}")
    sh(f"tc filter add dev sq-a egress pref 7 protocol ip {AWAY}")
    s.off(f)
    now = configured(*NAMES)
    want("filters that came into our clsact stay", now.count("u32") >= 2 and "sqi" not in now and "squall" not in now, now)
    sh("tc qdisc del dev sq-a clsact")
    same("and are all that stayed", before, configured(*NAMES))
    f = s.on({"delay": "20ms"})
    sh("tc qdisc replace dev sq-a root handle 9: fq_codel")
    mine = configured(*NAMES)
    until("it is said that ours was replaced", lambda: [e for e in s.events() if "not in the kernel any more" in e["text"]], 20)
    s.off(f)
    same("a root that replaced ours stays", mine, configured(*NAMES))
    sh("tc qdisc del dev sq-a root")
    same("and is all that stayed", before, configured(*NAMES))


def defaults(s):
    """Every root that the kernel makes by itself."""
    for default in ("pfifo_fast", "fq_codel"):
        with open("/proc/sys/net/core/default_qdisc", "w") as f:
            f.write(default)
        for dev, how in (("one", "type ifb"), ("many", "numtxqueues 4 numrxqueues 4 type ifb"), ("none", "type dummy")):
            sh(f"ip link add {dev} {how}")
            sh(f"ip link set {dev} up")
            before = configured()
            root = json.loads(sh(f"tc -j qdisc show dev {dev} root"))[0]["kind"]
            a = s.on({"delay": "1ms"}, interface=dev)
            b = s.on({"delay": "1ms"}, interface=dev, match=[{"port": "7"}])
            want(f"{default}: {dev}: ours in place of {root}", "htb 5c1a:" in sh(f"tc qdisc show dev {dev}"))
            s.off(a)
            s.off(b)
            same(f"{default}: {dev}: {root} is back", before, configured())
            want("it was the default", root == {"one": default, "many": "mq", "none": "noqueue"}[dev], root)
            sh(f"ip link del {dev}")
    with open("/proc/sys/net/core/default_qdisc", "w") as f:
        f.write("pfifo_fast")


wire(options="numtxqueues 2 numrxqueues 2")  # mq needs several
other = echo("sq-n")
s = Squall()
begin = configured(*NAMES)
for fn in (roots, hooks, meanwhile, defaults):
    t = time.monotonic()
    fn(s)
    print(f"-- {fn.__name__}: {time.monotonic() - t:.1f} s", flush=True)
same("everything is as it was", begin, configured(*NAMES))
if s.quit() != 0:
    want("squalld ends well", False)
s.host.close()
other.kill()
