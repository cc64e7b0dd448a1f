#!/usr/bin/python3
"""A partition ends with whoever holds it: squalld killed, squalld and keeper killed at any moment, the namespace gone.
And its names are looked up again while it lasts."""
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

import injector_lib as lib
from partition_lib import Net, sh

if os.geteuid() != 0:
    print("needs root")
    sys.exit(77)


def apply(inj, net, lease="30s", **with_):
    run = inj.run(lease)
    return run, inj.post(f"runs/{run}/faults", {"uses": "network/partition", "with": with_, "target": {
        "namespace": net.ns("a"), "and": list(net.addrs("b"))}})


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def squalld_is_killed(net, d):
    inj = lib.Injector(d)
    # a service that squalld started must not hold the socket that owns the table
    run, _ = apply(inj, net, lease="3s")
    inj.post(f"runs/{run}/services", {"name": "s", "command": ["/bin/sleep", "60"]})
    apply(inj, net, lease="3s")
    assert net.said("a", "tcp", "b") == "timeout"
    t = time.monotonic()
    kill(inj.pid)
    net.until("ok", "a", "tcp", "b", wait=0.1)
    print(f"   traffic flows {1000 * (time.monotonic() - t):.0f} ms after kill -9 of squalld")
    inj.wait(20)
    assert net.rules("a") == "", net.rules("a")


def both_are_killed_at_any_moment(net, d):
    worst = 0
    for i in range(20):
        inj = lib.Injector(d, name=f"p-{i}")
        run = inj.run()
        child = os.fork()
        if child == 0:  # applies, changes and reverts until somebody dies
            try:
                while True:
                    f = inj.post(f"runs/{run}/faults", {"uses": "network/partition", "target": {
                        "namespace": net.ns("a"), "and": list(net.addrs("b"))}})["fault"]
                    inj.call("PATCH", f"runs/{run}/faults/{f}", {"with": {"direction": "out"}})
                    inj.delete(f"runs/{run}/faults/{f}")
            except BaseException:
                os._exit(0)
        time.sleep(random.uniform(0, 0.4))
        t = time.monotonic()
        kill(inj.keeper)
        kill(inj.pid)
        net.until("ok", "a", "tcp", "b", wait=0.1)
        worst = max(worst, time.monotonic() - t)
        os.waitpid(child, 0)
        inj.proc.wait(10)
        assert net.rules("a") == "", (i, net.rules("a"))
    print(f"   traffic flows at most {1000 * worst:.0f} ms after both were killed, 20 times")
    # the next start sweeps their records: directories go
    inj = lib.Injector(d, name="p-after")
    left = [x for x in os.listdir(d) if x != "p-after"]
    assert not left, left
    inj.end()


def the_lease_ends(net, d):
    inj = lib.Injector(d)
    apply(inj, net, lease="1s")
    assert net.said("a", "tcp", "b", wait=0.2) == "timeout"
    net.until("ok", "a", "tcp", "b", limit=5, wait=0.2)
    assert net.rules("a") == ""
    inj.end()


def the_namespace_dies_first(net, d):
    inj = lib.Injector(d)
    sh("ip", "netns", "add", net.pre + "d")
    sh("ip", "-n", net.ns("br"), "link", "add", "to-d", "type", "veth", "peer", "name", "eth0", "netns", net.pre + "d")
    run = inj.run("30s")
    inj.post(f"runs/{run}/faults", {"uses": "network/partition", "target": {
        "namespace": net.pre + "d", "and": ["10.87.0.2"]}})
    sh("ip", "netns", "del", net.pre + "d")
    # the veth's other end goes when the namespace really does: not while our socket is in it
    lib.until("the namespace is let go", lambda: "to-d" not in sh("ip", "-n", net.ns("br"), "link"), 10)
    over = [e for e in inj.get(f"runs/{run}/events?after=0")["events"] if e.get("state") == "reverted"]
    assert over and over[0]["by"] == "gone" and over[0]["clean"], over
    assert inj.delete(f"runs/{run}") == {"clean": True, "left": []}
    inj.end()


def names_follow_their_addresses(net, d):
    """A real dnsmasq in c's namespace serves a; the name moves from b to c during the fault."""
    hosts, etc = os.path.join(d, "hosts"), f"/etc/netns/{net.ns('a')}"
    os.makedirs(etc)

    def says(*addrs):
        with open(hosts, "w") as f:
            f.write("".join(f"{a} db.sqt.example\n" for a in addrs))

    says(net.addrs("b")[0])
    with open(etc + "/resolv.conf", "w") as f:
        f.write(f"nameserver {net.addrs('c')[0]}\n")
    os.chmod(d, 0o755)
    dns = subprocess.Popen(["ip", "netns", "exec", net.ns("c"), "dnsmasq", "-k", "--no-resolv", "--no-hosts",
                            "--conf-file=/dev/null", f"--addn-hosts={hosts}", "--pid-file=", "--user=root"])
    inj = lib.Injector(d)
    try:
        run = inj.run("60s")
        want = {"uses": "network/partition", "target": {"namespace": net.ns("a"), "and": ["nobody.sqt.example"]},
                "with": {"protocol": "tcp"}}
        status, got = inj.call("POST", f"runs/{run}/faults", want)
        assert status == 404 and "nobody.sqt.example" in got["error"]["message"], (status, got)
        assert net.rules("a") == ""
        want["target"]["and"] = ["db.sqt.example"]
        lib.until("dnsmasq answers", lambda: inj.call("POST", f"runs/{run}/faults", want)[0] == 201, 10)
        assert net.said("a", "tcp", "b") == "timeout" and net.said("a", "tcp", "c", wait=5) == "ok"
        says(net.addrs("c")[0])
        dns.send_signal(signal.SIGHUP)
        net.until("ok", "a", "tcp", "b", limit=15, wait=0.2)
        assert net.said("a", "tcp", "c") == "timeout"
        got = inj.delete(f"runs/{run}")
        assert got["clean"], got
        assert net.rules("a") == ""
    finally:
        inj.end()
        dns.kill()
        dns.wait()
        os.unlink(etc + "/resolv.conf")
        os.rmdir(etc)


def main():
    net = Net()
    try:
        for test in (squalld_is_killed, both_are_killed_at_any_moment, the_lease_ends, the_namespace_dies_first,
                     names_follow_their_addresses):
            with tempfile.TemporaryDirectory(prefix="squall-test-") as d:
                test(net, d)
            print("ok", test.__name__, flush=True)
    finally:
        net.close()


main()
