#!/usr/bin/env python3
"""The packet backend beside others: somebody else's configuration, another injector. Nobody else's configuration is touched."""
from packet_lib import V4, Echo, Injector, Wire, configured, end_fault, faults, main, rtt, same, sh, takes

AWAY = ("action", "mirred", "egress", "redirect", "dev", "lo")
CLSACT = {"SQUALL_PACKET_ATTACH": "clsact"}


def quit_clean(inj, before, w):
    inj.post("quit")
    assert inj.proc.wait(30) == 0
    same(before, configured(w.a, w.b))


def foreign(run_dir):
    """A classful root, an ingress qdisc, clsact with filters, and nftables rules of somebody else's keep working."""
    for what in ("htb", "ingress", "clsact", "nft", "fq_codel"):
        for env in ({}, CLSACT):
            with Wire("for") as w:
                echo = Echo(w.b, V4[1])
                tc = lambda *args, **kw: sh("tc", "-n", w.a, *args, **kw)  # noqa: E731
                if what == "htb":
                    tc("qdisc", "add", "dev", "v0", "root", "handle", "1:", "htb", "default", "10")
                    tc("class", "add", "dev", "v0", "parent", "1:", "classid", "1:10", "htb", "rate", "100mbit")
                elif what == "fq_codel":
                    sh("tc", "-n", w.a, "qdisc", "add", "dev", "v0", "root", "fq_codel", check=False)
                elif what == "ingress":
                    tc("qdisc", "add", "dev", "v0", "handle", "ffff:", "ingress")
                    tc("filter", "add", "dev", "v0", "parent", "ffff:", "protocol", "ip", "u32", "match", "ip", "dport", "99",
                       "0xffff", *AWAY)
                elif what == "clsact":
                    tc("qdisc", "add", "dev", "v0", "clsact")
                    tc("filter", "add", "dev", "v0", "egress", "protocol", "ip", "pref", "60000", "u32", "match", "ip",
                       "dport", "99", "0xffff", *AWAY)
                else:
                    sh("ip", "netns", "exec", w.a, "nft", "add table inet theirs; add chain inet theirs out { type filter "
                       "hook output priority 0; }; add rule inet theirs out udp dport 99 counter drop")
                dropped = Echo(w.b, V4[1], 99)
                before = configured(w.a, w.b)
                counted = [x for x in before.split("\n") if "counter" not in x]
                inj = Injector(run_dir, env=env)
                run = inj.run(lease="60s")
                if what == "ingress" and env:  # the one that can't be
                    status, body = inj.call("POST", f"runs/{run}/faults", {
                        "uses": "network/impair", "with": {"delay": "10ms", "backend": "packet"},
                        "target": {"interface": "v0", "namespace": w.a, "direction": "egress"}})
                    assert status == 409 and "ingress qdisc" in body["error"]["message"], (status, body)
                else:
                    f = faults(inj, run, w.a, {"delay": "10ms"}, "both")
                    takes(w.a, V4[1], 20)
                    if what in ("clsact", "nft"):
                        assert rtt(w.a, V4[1], port=99, wait=0.2) is None, what
                    end_fault(inj, run, f)
                takes(w.a, V4[1], 0)
                inj.post("quit")
                assert inj.proc.wait(30) == 0
                now = [x for x in configured(w.a, w.b).split("\n") if "counter" not in x]
                same("\n".join(counted), "\n".join(now))
                echo.close()
                dropped.close()


def two_injectors(run_dir):
    with Wire("two") as w:
        echo = Echo(w.b, V4[1])
        before = configured(w.a, w.b)
        one, two = Injector(run_dir, "p-one"), Injector(run_dir, "p-two")
        run1, run2 = one.run(lease="60s"), two.run(lease="60s")
        faults(one, run1, w.a, {"delay": "10ms"})
        status, body = two.call("POST", f"runs/{run2}/faults", {
            "uses": "network/impair", "with": {"delay": "10ms", "backend": "packet"},
            "target": {"interface": "v0", "namespace": w.a, "direction": "egress"}})
        said = body["error"]["message"]
        assert status == 409 and f"another injector: squalld with pid {one.pid} " in said, (status, body)
        takes(w.a, V4[1], 10)  # the refused one changed nothing
        faults(two, run2, w.b, {"delay": "10ms"})  # the other end of the wire is another device
        takes(w.a, V4[1], 20)
        one.post("quit")
        assert one.proc.wait(30) == 0
        echo.close()
        quit_clean(two, before, w)


if __name__ == "__main__":
    main([foreign, two_injectors])
