#!/usr/bin/python3
"""Snapshots tell all that is configured in the namespaces of faults: qdiscs, classes, filters of every kind, tcx, tables
and rules. What is somebody else's reads the same after a fault as before, though its counters moved; what a fault put
there, and what somebody changed, shows."""
import json

from packet_lib import MODES, V4, Rig, main, rtt, sh, until

LISTS = ("qdiscs", "classes", "filters", "tables")
THEIRS = """
table inet theirs {
    counter c { }
    chain in { type filter hook input priority 0; policy accept; counter name c; ip saddr 10.0.0.0/8 counter accept; }
}
"""


def tc(ns, text):
    sh("tc", "-n", ns, *text.split())


def nft(ns, text):
    sh("ip", "netns", "exec", ns, "nft", "-f", "-", input=text)


def configure(ns):
    """An HTB with classes and u32 filters at the root and at a class, a clsact with filters on both hooks."""
    tc(ns, "qdisc add dev v0 root handle 7: htb default 10")
    tc(ns, "class add dev v0 parent 7: classid 7:1 htb rate 1gbit")
    tc(ns, "class add dev v0 parent 7:1 classid 7:10 htb rate 900mbit")
    tc(ns, "qdisc add dev v0 parent 7:10 handle 70: pfifo limit 1000")
    tc(ns, "filter add dev v0 parent 7: pref 3 protocol ip u32 match ip dport 9 0xffff flowid 7:10")
    tc(ns, "filter add dev v0 parent 7:1 pref 5 protocol ip u32 match u32 0 0 flowid 7:10")
    tc(ns, "qdisc add dev v0 clsact")
    for hook in ("egress", "ingress"):
        tc(ns, f"filter add dev v0 {hook} pref 100 protocol ip u32 match ip dport 9 0xffff")
    nft(ns, THEIRS)


def network(rig):
    got = rig.inj.get(f"runs/{rig.run}/snapshot")
    found = [n for n in got["networks"] if n["namespace"] == rig.w.a]
    assert len(found) == 1, got["networks"]
    return found[0]


def same(n):
    for x in LISTS:
        assert json.dumps(n["before"][x]) == json.dumps(n["now"][x]), (x, n["before"][x], n["now"][x])


def kinds(of, which):
    return sorted({f'{f["kind"]}@{f["parent"]}' for f in of[which]})


def beside(run_dir):
    for mode in MODES:
        with Rig(run_dir, env=mode) as rig:
            a = rig.w.a
            configure(a)
            fault = rig.fault({"delay": "2ms"}, direction="both")
            n = network(rig)
            assert kinds(n["before"], "filters") == ["u32@7:", "u32@7:1", "u32@ffff:fff2", "u32@ffff:fff3"], n["before"]
            assert sorted(c["handle"] for c in n["before"]["classes"]) == ["7:1", "7:10"], n["before"]["classes"]
            assert [t["name"] for t in n["before"]["tables"]] == ["theirs"]
            assert n["before"]["tables"][0]["rules"] == 2
            more = [f for f in n["now"]["filters"] if f not in n["before"]["filters"]]
            assert len(more) >= 2 and all(f["kind"] == ("bpf" if mode else "tcx") for f in more), more
            for _ in range(5):
                rtt(a, V4[1])
            assert rig.inj.delete(f"runs/{rig.run}/faults/{fault}")["clean"]
            until("it has left", lambda: rig.inj.get(f"runs/{rig.run}/snapshot")["packets"] == [])
            same(network(rig))
            # What others change is seen: a filter in place, a rule, a class's rate, a leaf's limit.
            tc(a, "class change dev v0 parent 7:1 classid 7:10 htb rate 800mbit")
            n = network(rig)
            assert n["before"]["classes"] != n["now"]["classes"] and n["before"]["qdiscs"] == n["now"]["qdiscs"]
            tc(a, "qdisc change dev v0 parent 7:10 handle 70: pfifo limit 900")
            n = network(rig)
            assert n["before"]["qdiscs"] != n["now"]["qdiscs"] and n["before"]["filters"] == n["now"]["filters"]
            tc(a, "filter del dev v0 parent 7:1 pref 5")
            nft(a, "add rule inet theirs in udp dport 1 counter")
            n = network(rig)
            assert n["before"]["filters"] != n["now"]["filters"] and n["before"]["tables"] != n["now"]["tables"]
            # As it was, for the rig's own comparison.
            nft(a, "delete table inet theirs")
            tc(a, "qdisc del dev v0 clsact")
            tc(a, "qdisc del dev v0 root")


def partition(run_dir):
    with Rig(run_dir) as rig:
        a = rig.w.a
        nft(a, THEIRS)
        got = rig.inj.post(f"runs/{rig.run}/faults", {"uses": "network/partition",
                                                     "target": {"namespace": a, "and": [V4[1]]}, "with": {}})
        n = network(rig)
        assert [t["name"] for t in n["now"]["tables"] if t not in n["before"]["tables"]] == [got["readback"]["table"]]
        assert rig.inj.delete(f"runs/{rig.run}/faults/{got['fault']}")["clean"]
        same(network(rig))
        nft(a, "delete table inet theirs")


def gone(run_dir):
    """A namespace that has died is no remainder."""
    with Rig(run_dir) as rig:
        sh("ip", "netns", "add", rig.w.a + "x")
        sh("ip", "-n", rig.w.a + "x", "link", "set", "lo", "up")
        rig.inj.post(f"runs/{rig.run}/faults", {"uses": "network/partition",
                                               "target": {"namespace": rig.w.a + "x", "and": ["10.1.1.1"]}, "with": {}})
        sh("ip", "netns", "del", rig.w.a + "x")
        until("it is seen", lambda: rig.inj.get(f"runs/{rig.run}/snapshot")["networks"][0]["now"] is None)


main([beside, partition, gone])
