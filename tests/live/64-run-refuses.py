#!/usr/bin/env python3
"""What can't go well is refused before anything is touched, or ends the run with its reason: and always an end record."""
import json
import socket

from run_lib import Place, check

PAUSE = "[{id: pause, uses: process/pause, target: {service: payments}, duration: 2s}]"


def refused(p, path, word, code=5, *args):
    rc, out, err = p.run("run", path, *args)
    check(rc == code and word in err, f"{word}: exit {rc}\n{out}{err}")
    return err


# What this host can't do.
with Place() as p:
    rc, out, err = p.run("doctor", "--json")
    checks = {c["name"]: c for c in json.loads(out)["checks"]}
    check(rc == 0 and "process/pause" in checks, f"doctor: {rc} {out}{err}")
    rc, out, err = p.run("doctor")
    check(rc == 0 and "process/pause" in out, f"doctor: {rc} {out}{err}")
    for kind in checks:
        if "/" in kind:
            check(kind in out, f"doctor does not name {kind}")
    if not checks["network/latency"]["ok"]:
        net = "[{id: net, uses: network/latency, target: {interface: lo}, with: {delay: 1ms}, duration: 1s}]"
        err = refused(p, p.scenario(net), "network/latency")
        check("nothing was started" in err, err)
        check(p.end()["reason"] == "infrastructure" and not p.records("service"), "something was started")

# Somebody else's server on the service's port.
with Place() as p, socket.socket() as other:
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind(("127.0.0.1", p.port))
    other.listen()
    refused(p, p.scenario(PAUSE), str(p.port))
    check(not p.records("service"), "it was started all the same")

# A service that ends at once says why; one that is never ready, too.
with Place() as p:
    dies = '[/bin/sh, -c, "echo no database >&2; exit 3"]'
    err = refused(p, p.scenario(PAUSE, command=dies), "no database")
    check("status 3" in err, err)
    sleeps = '[/bin/sleep, "30"]'
    err = refused(p, p.scenario(PAUSE, command=sleeps), "not ready within")
    refused(p, p.scenario(PAUSE, command="[/nonexistent]"), "nonexistent")

# Not steady: nothing is injected, inconclusive.
with Place() as p:
    err = refused(p, p.scenario(PAUSE, steady='{for: 1s, thresholds: ["p(50)<1us"]}'), "not_steady", 3)
    check(not p.records("fault"), "a fault all the same")
    check(p.records("phase", phase="steady", state="end")[0]["met"] is False, "met")
    check(p.end()["clean"] is True, f"{p.end()}")

# No injector; a scenario that is none; an unknown option.
with Place() as p:
    refused(p, p.scenario(PAUSE), "nobody.sock", 5, "--injector", p.dir + "/nobody.sock")
    open(p.dir + "/bad.yaml", "w").write("apiVersion: squall/v1\nkind: Scenario\nspeck: {}\n")
    rc, out, err = p.run("run", p.dir + "/bad.yaml")
    check(rc == 2 and "bad.yaml:3" in err, f"{rc} {err}")
    rc, out, err = p.run("run", "--seeed", "1", p.dir + "/s.yaml")
    check(rc == 2 and "--seed" in err, f"{rc} {err}")
