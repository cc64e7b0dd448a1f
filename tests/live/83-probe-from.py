#!/usr/bin/env python3
"""squall probe --from: a load from several hosts without a scenario; and squall plan, which says who sends."""
import collections
import json
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from hosts_lib import *  # noqa: E402


def adhoc(host, sockets):
    """squall probe --from: the same engine, clocks and sums, without a scenario."""
    before, out = collections.Counter(ask_seen()), os.path.join(host.out, "adhoc")
    where = "east=%s,west=%s" % (sockets["east"], sockets["west"])
    args = ["probe", "http://10.77.9.9:8080/adhoc", "--header", "x-tag: " + TAG, "--rate", "90/s", "--for", "3s", "--lateness", "10s", "--timeout", "20s"]
    r = host.run(*args, "--from", where, "--threshold", "error_rate<50%", "--json", "--out", out)
    got = collections.Counter(ask_seen()) - before
    if r.returncode != 0 or got != {"10.77.1.2 /adhoc": 135, "10.77.2.2 /adhoc": 135}:
        die("probe --from: exit %d, the server saw %s\n%s%s" % (r.returncode, dict(got), r.stdout, r.stderr))
    end = [x for x in records(out) if x["type"] == "probe"][0]
    if json.loads(r.stdout)["thresholds"][0]["n"] != 270 or [(h["from"], h["sent"]) for h in end["hosts"]] != [("east", 135), ("west", 135)]:
        die("probe --from: %s, %s" % (end, r.stdout))
    # The same from its evidence, whose second 0 is not the load's first.
    if host.run("verify", out).returncode != 0:
        die("squall verify of what several hosts sent")
    for bad, code, said in (("self", 2, "connections"), ("self,self", 2, "each host once"), ("east", 2, "NAME=SOCKET"),
                            ("west=%s/none.sock" % host.dir, 5, "host west")):
        r = host.run(*args, "--from", bad, "--connections", "0" if bad == "self" else "5", "--quiet")
        if r.returncode != code or said not in r.stderr:
            die("--from %s: exit %d, %s" % (bad, r.returncode, r.stderr))
    p = host.start(*args[:6], "--for", "60s", "--from", where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    victim = next(iter(wait_for("two agents", lambda: (lambda a: a if len(a) == 2 else None)(agents()))))
    time.sleep(1)
    os.kill(victim, signal.SIGKILL)
    out, err = p.communicate(timeout=40)
    if p.returncode != 5 or "signal 9" not in err:
        die("an agent of probe --from was killed: exit %d\n%s%s" % (p.returncode, out, err))
    wait_for("the other agent's end", lambda: not agents())


def planned(host, sockets):
    r = host.run("plan", scenario(host, sockets))
    if r.returncode != 0 or "an equal part each from east (%s)," % sockets["east"] not in r.stdout or "and from west (" not in r.stdout:
        die("the plan does not say who sends: exit %d\n%s%s" % (r.returncode, r.stdout, r.stderr))
    r = host.run("plan", scenario(host, {**sockets, "west": host.dir + "/none.sock"}))
    if r.returncode != 5 or "host west: " not in r.stdout:
        die("a plan whose host does not answer: exit %d\n%s%s" % (r.returncode, r.stdout, r.stderr))


with_hosts(adhoc, planned)
