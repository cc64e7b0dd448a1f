#!/usr/bin/python3
"""Partitions between network namespaces on a bridge: who is cut off from whom, in which direction and how, what is felt
by TCP, UDP, ICMP and IPv6, beside other people's rules, and what is left."""
import os
import re
import subprocess
import sys
import tempfile

import injector_lib as lib
from partition_lib import Net

if os.geteuid() != 0:
    print("needs root")
    sys.exit(77)

FOREIGN = """
table inet theirs {
    set s { type ipv4_addr; flags interval; elements = { 10.99.0.0/16 }; }
    chain in {
        type filter hook input priority -300; policy accept;
        ip saddr 10.87.0.0/24 counter accept
    }
    chain out {
        type filter hook output priority 0; policy accept;
        ip daddr @s drop
    }
}
table ip other {
    chain post {
        type nat hook postrouting priority 100;
    }
}
"""


def cut(inj, run, net, x, others, between=None, want=201, **with_):
    target = {"namespace": net.ns(x), "and": [a for o in others for a in (net.addrs(o) if o in net.names else [o])]}
    if between:
        target["between"] = between
    status, got = inj.call("POST", f"runs/{run}/faults", {"uses": "network/partition", "target": target, "with": with_})
    assert status == want, (status, got)
    return got


def end(inj, run, fault):
    got = inj.delete(f"runs/{run}/faults/{fault['fault']}")
    assert got["clean"] and not got["left"], got


def events(inj, run, kind):
    return [e for e in inj.get(f"runs/{run}/events?after=0")["events"] if e["type"] == kind]


def only_a_and_b_are_apart(inj, net):
    run = inj.run()
    f = cut(inj, run, net, "a", "b")
    assert f["readback"]["owner"] and f["readback"]["addresses"] == 2, f
    for host in net.addrs("b"):
        assert net.said("a", "tcp", host) == "timeout", host
        assert net.said("a", "ping", host) in ("timeout", "EPERM"), host
        assert net.said("a", "udp", host) in ("timeout", "EPERM"), host
    for host in net.addrs("a"):
        for what in ("tcp", "udp", "ping"):
            assert net.said("b", what, host) == "timeout", (what, host)
    for x, y in ("ac", "ca", "bc", "cb"):
        for host in net.addrs(y):
            for what in ("tcp", "udp", "ping"):
                assert net.said(x, what, host, wait=5) == "ok", (x, what, host)
    end(inj, run, f)
    for x, y in ("ab", "ba"):
        for host in net.addrs(y):
            for what in ("tcp", "udp", "ping"):
                assert net.said(x, what, host, wait=5) == "ok", (x, what, host)
    over = [e for e in events(inj, run, "fault") if e["state"] == "reverted"][-1]
    assert over["packets"] >= 12 and over["out"]["packets"] >= 3 and over["in"]["packets"] >= 6 and over["intact"], over
    inj.delete(f"runs/{run}")


def one_direction(inj, net):
    """What goes from a to b is lost; what b sends to a arrives."""
    run = inj.run()
    for direction, lost, kept in (("out", "a", "b"), ("in", "b", "a")):
        f = cut(inj, run, net, "a", "b", direction=direction)
        before = inj.get(f"runs/{run}/events?after=0")["next"]
        assert net.said("a", "udp", "b") != "ok" and net.said("b", "udp", "a") != "ok"  # the echo is lost either way
        assert net.said("a", "tcp", "fd87::2") != "ok"
        end(inj, run, f)
        over = [e for e in events(inj, run, "fault") if e["state"] == "reverted"][-1]
        other = "in" if direction == "out" else "out"
        assert over[direction]["packets"] >= 3 and over[other]["packets"] == 0, over
        assert before >= 0 and lost != kept
    # asymmetry, seen: with what b sends to a cut, a's datagram still reaches b (c asks nobody)
    f = cut(inj, run, net, "a", "b", direction="in")
    got = net.nft("b", "add", "table", "inet", "seen")
    net.nft("b", "add chain inet seen in { type filter hook input priority 0; }")
    net.nft("b", "add rule inet seen in ip saddr 10.87.0.1 udp dport 7777 counter")
    net.said("a", "udp", "b")
    assert "packets 1 " in net.nft("b", "list", "chain", "inet", "seen", "in"), got
    end(inj, run, f)
    f = cut(inj, run, net, "a", "b", direction="out")
    net.said("a", "udp", "b")
    assert "packets 1 " in net.nft("b", "list", "chain", "inet", "seen", "in"), "it left nevertheless"
    end(inj, run, f)
    net.nft("b", "delete", "table", "inet", "seen")
    inj.delete(f"runs/{run}")


def how_it_feels(inj, net):
    run = inj.run()
    for how, tcp in (("reject-rst", {"ECONNREFUSED"}), ("reject-icmp", {"EHOSTUNREACH", "EACCES"})):
        f = cut(inj, run, net, "a", "b", how=how)
        for x, y in ("ab", "ba"):
            for host in net.addrs(y):
                said, took = net.do(x, "tcp", host, wait=10)
                assert said in tcp and took < 5, (how, x, host, said, took)
        for host in net.addrs("b"):
            said, took = net.do("a", "udp", host, wait=10)
            assert said not in ("ok", "timeout"), (how, host, said)
        end(inj, run, f)
    assert net.said("a", "hold", "b", wait=5) == "ok"
    f = cut(inj, run, net, "a", "b", existing="keep")
    assert net.said("a", "held", "b", wait=5) == "ok", "an existing connection is kept"
    assert net.said("a", "tcp", "b") == "timeout" and net.said("b", "tcp", "a") == "timeout"
    got = inj.call("PATCH", f"runs/{run}/faults/{f['fault']}", {"with": {"existing": "cut"}})
    assert got[0] == 200 and got[1]["readback"]["existing"] == "cut", got
    assert net.said("a", "held", "b") == "timeout", "and cut when that is asked"
    got = inj.call("PATCH", f"runs/{run}/faults/{f['fault']}", {"with": {"how": "reject-rst"}})
    assert got[0] == 200, got
    net.until("ECONNRESET", "a", "held", "b", wait=5)
    end(inj, run, f)
    inj.delete(f"runs/{run}")


def only_what_was_named(inj, net):
    run = inj.run()
    net.do("b", "listen", port=7800)
    net.do("a", "listen", port=7801)
    f = cut(inj, run, net, "a", "b", port=["7770-7779", "80"], protocol="tcp")
    assert net.said("a", "tcp", "b") == "timeout" and net.said("a", "udp", "b", wait=5) == "ok"
    assert net.said("a", "tcp", "b", wait=5, port=7800) == "ok" and net.said("b", "tcp", "a", wait=5) == "ok"
    end(inj, run, f)
    f = cut(inj, run, net, "a", "b", local_port="7801")
    assert net.said("b", "tcp", "a", port=7801) == "timeout" and net.said("b", "tcp", "a", wait=5) == "ok"
    end(inj, run, f)
    # an ICMP partition leaves neighbour discovery alone
    f = cut(inj, run, net, "a", "b", protocol="icmp")
    assert net.said("b", "ping", "fd87::1") == "timeout" and net.said("b", "tcp", "fd87::1", wait=5) == "ok"
    end(inj, run, f)
    inj.delete(f"runs/{run}")


def refused(inj, net):
    run = inj.run()
    for others, with_, word in (([], {}, "no hosts"), (["self"], {}, "between"), (["10.87.0.300"], {}, ""),
                                (["10.0.0.0/33"], {}, ""), ("b", {"port": "0"}, "port"), ("b", {"how": "flee"}, "how"),
                                ("b", {"protocol": "udp", "how": "reject-rst"}, "reset"),
                                ("b", {"protocol": "icmp", "port": "1"}, "ICMP"), (["b; flush ruleset"], {}, "")):
        target = {"namespace": net.ns("a"), "and": [a for o in others for a in (net.addrs(o) if o in "abc" else [o])]}
        status, got = inj.call("POST", f"runs/{run}/faults",
                               {"uses": "network/partition", "target": target, "with": with_})
        assert status == 400 and word in got["error"]["message"], (others, with_, status, got)
    status, got = inj.call("POST", f"runs/{run}/faults", {"uses": "network/partition", "target": {
        "namespace": "sqt-partition-nobody", "and": ["10.0.0.1"]}})
    assert status == 404, (status, got)
    assert net.rules("a") == ""
    plan = inj.post(f"runs/{run}/plan", {"uses": "network/partition", "target": {
        "namespace": net.ns("a"), "and": ["10.87.0.2"]}})
    assert plan["hit"][0]["addresses"] == 1 and net.rules("a") == "", plan
    inj.delete(f"runs/{run}")


def beside_others(inj, net):
    """Two runs' partitions overlap and end in any order; a foreign ruleset is as it was."""
    net.nft("a", FOREIGN)
    before = strip(net.rules("a"))
    for first in (0, 1):
        runs = [inj.run(), inj.run()]
        faults = [cut(inj, runs[0], net, "a", "b"), cut(inj, runs[1], net, "a", ["b", "c"], how="reject-rst")]
        assert net.said("a", "tcp", "b") in ("timeout", "ECONNREFUSED") and net.said("a", "tcp", "c") == "ECONNREFUSED"
        end(inj, runs[first], faults[first])
        assert net.said("a", "tcp", "b") == ("ECONNREFUSED" if first == 0 else "timeout")
        assert net.said("a", "tcp", "c", wait=5) == ("ECONNREFUSED" if first == 0 else "ok")
        end(inj, runs[1 - first], faults[1 - first])
        assert net.said("a", "tcp", "b", wait=5) == "ok" and net.said("a", "tcp", "c", wait=5) == "ok"
        assert strip(net.rules("a")) == before
        for r in runs:
            inj.delete(f"runs/{r}")
    # theirs flushed everything meanwhile: ours, owned, stays; theirs is their affair
    run = inj.run()
    f = cut(inj, run, net, "a", "b")
    net.nft("a", "flush", "ruleset")
    assert net.said("a", "tcp", "b") == "timeout"
    end(inj, run, f)
    assert net.rules("a") == "", net.rules("a")
    inj.delete(f"runs/{run}")


def strip(rules):
    return re.sub(r"packets \d+ bytes \d+", "", rules)


def many(inj, net):
    """A thousand networks: applied, told apart, gone; and the loop is not held up for long."""
    run = inj.run()
    hosts = [f"10.{100 + i // 250}.{i % 250}.0/25" for i in range(1000)]
    f = cut(inj, run, net, "a", hosts + ["10.87.0.2"])
    assert f["readback"]["addresses"] == 1001, f["readback"]
    assert net.said("a", "tcp", "b") == "timeout" and net.said("a", "tcp", "c", wait=5) == "ok"
    end(inj, run, f)
    inj.delete(f"runs/{run}")


def groups(inj, net):
    """Between two groups of addresses: whoever of them this namespace is, and what it forwards."""
    run = inj.run()
    f = cut(inj, run, net, "a", "b", between=["10.87.0.0/30", "fd87::1"])
    assert net.said("a", "tcp", "b") == "timeout" and net.said("b", "tcp", "fd87::1") == "timeout"
    assert net.said("a", "tcp", "c", wait=5) == "ok"
    end(inj, run, f)
    f = cut(inj, run, net, "a", "b", between=["10.87.0.77"])
    assert net.said("a", "tcp", "b", wait=5) == "ok", "a is not in the group"
    end(inj, run, f)
    # c routes for a and b
    for x, y in ("ab", "ba"):
        subprocess.run(["ip", "-n", net.ns(x), "route", "add", net.addrs(y)[0], "via", net.addrs("c")[0]], check=True)
    subprocess.run(["ip", "netns", "exec", net.ns("c"), "sh", "-c",
                        "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/conf/all/send_redirects; "
                        "echo 0 >/proc/sys/net/ipv4/conf/eth0/send_redirects"], check=True)
    net.until("ok", "a", "tcp", "b")
    for how, said in (("drop", "timeout"), ("reject-rst", "ECONNREFUSED"), ("reject-icmp", "EHOSTUNREACH")):
        f = cut(inj, run, net, "c", "b", between=[net.addrs("a")[0]], how=how)
        assert net.said("a", "tcp", "b", wait=2) == said, (how, net.said("a", "tcp", "b", wait=2))
        assert net.said("a", "tcp", "c", wait=5) == "ok" and net.said("c", "tcp", "b", wait=5) == "ok"
        end(inj, run, f)
        net.until("ok", "a", "tcp", "b")
    for x, y in ("ab", "ba"):
        subprocess.run(["ip", "-n", net.ns(x), "route", "del", net.addrs(y)[0]], check=True)
    inj.delete(f"runs/{run}")


def main():
    net = Net()
    try:
        with tempfile.TemporaryDirectory(prefix="squall-test-") as d:
            inj = lib.Injector(d)
            try:
                for test in (only_a_and_b_are_apart, one_direction, how_it_feels, only_what_was_named, refused,
                             beside_others, groups, many):
                    test(inj, net)
                    for x in net.names:
                        assert "squall" not in net.rules(x), (test.__name__, net.rules(x))
                    print("ok", test.__name__, flush=True)
            finally:
                inj.end()
    finally:
        net.close()


main()
