#!/usr/bin/env python3
"""What changes under a fault: a partition while its interface goes down, is renamed, deleted and made anew, while addresses
change and routes flap; a delay while the route goes elsewhere and comes back; faults in namespaces that only processes
hold, by pid and by a container's id, which die first."""
import os
import subprocess

from injector_lib import main
from packet_lib import (V4, Echo, Injector, Wire, configured, end_fault, faults, packet_processes, rtt, same, sh, takes,
                        udp, until)

OTHER = ("10.78.0.1", "10.78.0.2")


def ip(ns, *args, check=True):
    return sh("ip", "-n", ns, *args, check=check)


def partition(inj, run, ns, hosts):
    return inj.post(f"runs/{run}/faults", {"uses": "network/partition", "target": {"namespace": ns, "and": hosts}})["fault"]


def confirmed(inj, run, fault):
    """It is in the kernel as it was asked for."""
    status, got = inj.call("PATCH", f"runs/{run}/faults/{fault}", {"with": {}})
    assert status == 200 and got["readback"]["backend"] == "nftables", (status, got)


def cut(ns, to):
    """The kernel says so to a sender of datagrams: no way there would be another error."""
    s = udp(ns)
    try:
        s.sendto(b"x", (to, 7))
        raise AssertionError(f"{to} is not cut off")
    except PermissionError:
        pass
    finally:
        s.close()


def flows(ns, to):
    until(f"{to} answers", lambda: rtt(ns, to, wait=0.4) is not None)


def partition_stays(run_dir):
    """It is of hosts, not of an interface: whatever happens to that."""
    with Wire("chgp") as w:
        echo = Echo(w.b, "0.0.0.0")
        inj = Injector(run_dir)
        run = inj.run(lease="60s")
        f = partition(inj, run, w.a, [V4[1], OTHER[1]])
        for was, now in (("v0", "other0"), ("other0", "v0")):
            ip(w.a, "link", "set", was, "down")
            ip(w.a, "link", "set", was, "name", now)
            ip(w.a, "link", "set", now, "up")
            cut(w.a, V4[1])
        # addresses come and go on both sides
        for ns, at in ((w.a, OTHER[0]), (w.b, OTHER[1])):
            ip(ns, "addr", "add", f"{at}/24", "dev", "v0")
        cut(w.a, OTHER[1])
        ip(w.a, "addr", "del", f"{V4[0]}/24", "dev", "v0")
        cut(w.a, OTHER[1])
        # routes flap
        for _ in range(5):
            ip(w.a, "route", "replace", f"{V4[1]}/32", "via", OTHER[1])
            cut(w.a, V4[1])
            ip(w.a, "route", "del", f"{V4[1]}/32")
        confirmed(inj, run, f)
        # the interface is another one
        ip(w.a, "link", "del", "v0")
        w.connect()
        cut(w.a, V4[1])
        confirmed(inj, run, f)
        end_fault(inj, run, f)
        flows(w.a, V4[1])
        events = inj.get(f"runs/{run}/events?after=0")["events"]
        over = [e for e in events if e.get("state") == "reverted"][-1]
        assert over["packets"] > 0 and over["intact"], over
        assert not [e for e in events if e["type"] == "warning"], events
        assert "squall" not in configured(w.a, w.b)
        inj.delete(f"runs/{run}")
        echo.close()
        inj.post("quit")
        assert inj.proc.wait(30) == 0


def routes_flap_under_a_delay(run_dir):
    """A delay is on an interface: what takes another way is not held, and it is again when it comes back."""
    with Wire("flap") as w:
        ip(w.a, "link", "add", "v1", "type", "veth", "peer", "name", "v1", "netns", w.b)
        for ns, at in ((w.a, OTHER[0]), (w.b, OTHER[1])):
            ip(ns, "addr", "add", f"{at}/24", "dev", "v1")
            ip(ns, "link", "set", "v1", "up")
        echo = Echo(w.b, "0.0.0.0")
        flows(w.a, OTHER[1])
        until("the wires have their carriers", lambda: "NO-CARRIER" not in ip(w.a, "link") + ip(w.b, "link"))
        before = configured(w.a, w.b)
        inj = Injector(run_dir)
        run = inj.run(lease="60s")
        f = faults(inj, run, w.a, {"delay": "30ms"}, dev="auto", match=[{"host": [V4[1]]}])
        takes(w.a, V4[1], 30)
        for _ in range(3):
            ip(w.a, "route", "add", f"{V4[1]}/32", "via", OTHER[1])
            until("the other way is not delayed", lambda: (rtt(w.a, V4[1]) or 99) < 30)
            ip(w.a, "route", "del", f"{V4[1]}/32")
            takes(w.a, V4[1], 30)
        ip(w.a, "addr", "add", "10.77.0.9/25", "dev", "v0")
        ip(w.a, "addr", "del", f"{V4[0]}/24", "dev", "v0")
        takes(w.a, V4[1], 30)
        ip(w.a, "addr", "del", "10.77.0.9/25", "dev", "v0")
        ip(w.a, "addr", "add", f"{V4[0]}/24", "dev", "v0")
        end_fault(inj, run, f)
        takes(w.a, V4[1], 0)
        inj.delete(f"runs/{run}")
        inj.post("quit")
        assert inj.proc.wait(30) == 0
        echo.close()
        same(before, configured(w.a, w.b))


def unnamed_namespaces_die(run_dir):
    """Held by one process alone, found by its pid, by the id of its container, by its path."""
    cgroup2 = next(line.split()[1] for line in open("/proc/self/mounts") if line.split()[2] == "cgroup2")
    cid = os.urandom(32).hex()
    where = os.path.join(cgroup2, f"docker-{cid}.scope")
    os.mkdir(where)
    other = f"sqt-changes-{os.getpid()}"  # the far end of each wire
    sh("ip", "netns", "add", other)
    inj = Injector(run_dir)
    try:
        for how in ("pid:%d", f"container:{cid[:12]}", "/proc/%d/ns/net"):
            p = subprocess.Popen(["unshare", "-n", "sh", "-c", "ip link set lo up; echo; exec sleep 300"], stdout=subprocess.PIPE)
            try:
                p.stdout.readline()
                with open(os.path.join(where, "cgroup.procs"), "w") as f:
                    f.write(str(p.pid))
                ip(other, "link", "add", "far", "type", "veth", "peer", "name", "v0", "netns", str(p.pid))
                sh("nsenter", f"--net=/proc/{p.pid}/ns/net", "ip", "link", "set", "v0", "up")
                name = how % p.pid if "%" in how else how
                run = inj.run(lease="60s")
                partition(inj, run, name, ["10.1.0.0/16"])
                faults(inj, run, name, {"delay": "10ms"}, "both")
                faults(inj, run, name, {"loss": "10%"})
                assert packet_processes(run_dir)
            finally:
                p.kill()
                p.wait()
            until("the namespace is really gone", lambda: "far" not in ip(other, "link"), 30)
            until("its process leaves", lambda: not packet_processes(run_dir))

            def ended():
                return {e["fault"]: e for e in inj.get(f"runs/{run}/events?after=0")["events"] if e.get("state") == "reverted"}

            until("all three are over", lambda: len(ended()) == 3, 30)
            assert all(e["clean"] for e in ended().values()), ended()
            assert inj.delete(f"runs/{run}") == {"clean": True, "left": []}
        inj.post("quit")
        assert inj.proc.wait(30) == 0
    finally:
        inj.end()
        sh("ip", "netns", "del", other, check=False)
        os.rmdir(where)


if __name__ == "__main__":
    main([partition_stays, routes_flap_under_a_delay, unnamed_namespaces_die])
