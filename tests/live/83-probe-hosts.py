#!/usr/bin/env python3
"""Load from several hosts: two injectors, each in a network namespace (and one with a clock) of its own, send one schedule
to a server in a third. Nothing of the host's own network is touched."""
import collections
import json
import os
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from hosts_lib import *  # noqa: E402


def whole(host, sockets):
    seen_agents = {}
    out = os.path.join(host.out, "whole")
    done = threading.Event()

    def watch():
        while not done.wait(0.1):
            seen_agents.update(agents())

    watcher = threading.Thread(target=watch)
    watcher.start()
    r = host.run("run", scenario(host, sockets), "--out", out)
    done.set()
    watcher.join()
    if r.returncode != 0:
        die("exit %d\n%s%s" % (r.returncode, r.stdout, r.stderr))
    log = records(out)
    samples = [x for x in log if x["type"] == "sample"]
    probes = {x["endpoint"]: x for x in log if x["type"] == "probe"}
    # Everything was sent once, each host its half, by the count of the server itself.
    rows, got = collections.Counter(), collections.Counter()
    for key, n in ask_seen().items():
        got[key.rsplit("/", 1)[0] if "/both/" in key else key] += n
        if "/both/" in key:
            rows[int(key.rsplit("/", 1)[1])] += n
    # The hosts' parts interleave: each row of the data is used once, by one of them.
    if max(rows.values()) != 1 or len(set(range(300)) - set(rows)) > 0:
        die("rows used several times: %s; not used: %s" % ({k: v for k, v in rows.items() if v > 1}, set(range(300)) - set(rows)))
    want = {"10.77.1.2 /both": sum(s["sent"] for s in samples if s["from"] == "east"),
            "10.77.2.2 /both": sum(s["sent"] for s in samples if s["from"] == "west" and s["endpoint"] == "both"),
            "10.77.2.2 /one": sum(s["sent"] for s in samples if s["endpoint"] == "one")}
    if got != want or abs(want["10.77.1.2 /both"] - want["10.77.2.2 /both"]) > 20 or want["10.77.1.2 /both"] < 150:
        die("the server saw %s, the hosts say that they sent %s" % (got, want))
    if probes["both"]["sent"] != want["10.77.1.2 /both"] + want["10.77.2.2 /both"] or probes["both"]["void"] or \
            [h["from"] for h in probes["both"]["hosts"]] != ["east", "west"]:
        die("probe: %s" % probes["both"])
    # One schedule: in each second but the last 60, 30 of each, whatever its clock shows.
    by_second = collections.defaultdict(dict)
    for s in samples:
        if s["endpoint"] == "both":
            by_second[s["sec"]][s["from"]] = s["planned"]
    seconds = sorted(by_second)
    if len(seconds) < 6 or any(by_second[s] != {"east": 30, "west": 30} for s in seconds[:-1]):
        die("seconds: %s" % dict(by_second))
    # Histograms add up exactly: what the check judged is what the hosts counted in the step's window.
    with open(os.path.join(out, "verdict.json")) as f:
        judged = json.load(f)["checks"][0]
    lo, hi = judged["window"]
    n = sum(sum(s["h"][1::2]) for s in samples if s["endpoint"] == "both" and lo <= s["sec"] < hi)
    if judged["n"] not in (n, n - by_second_sum(by_second, lo)) or judged["n"] < 60:
        die("judged n = %d, the hosts counted %d in [%s, %s)" % (judged["n"], n, lo, hi))
    clocks = {(c["host"], c["when"]): c for c in log if c["type"] == "clock"}
    if len(clocks) != 4 or any(c["error_ns"] > 500e6 for c in clocks.values()):
        die("clocks: %s" % clocks)
    for (name, _), c in clocks.items():
        if abs(c["ahead_ns"] / 1e9 - (AHEAD if name == "east" else 0)) > 0.001 + c["error_ns"] / 1e9:
            die("clock: %s" % c)
    # Each agent was nobody, with no rights to gain.
    for pid, s in seen_agents.items():
        if s["Uid"].split() != ["65534"] * 4 or int(s["CapEff"], 16) or s["NoNewPrivs"] != "1":
            die("the agent %d: %s" % (pid, {k: s[k] for k in ("Uid", "CapEff", "NoNewPrivs")}))
    if len(seen_agents) != 2 or agents():
        die("agents seen: %s, left: %s" % (list(seen_agents), list(agents())))
    for name, api in sockets.items():
        if Api(api).call("GET", "/v1/snapshot", expect=200)["journal"]:
            die("%s still holds something" % name)


def by_second_sum(by_second, lo):
    """A step that begins within a second: the check may leave that second out."""
    return sum(by_second.get(int(lo), {}).values())


def agent_killed(host, sockets):
    p = host.start("run", scenario(host, sockets, wait="60s"), "--out", os.path.join(host.out, "killed"),
                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    victim = next(iter(wait_for("two agents", lambda: (lambda a: a if len(a) == 2 else None)(agents()))))
    time.sleep(5)
    os.kill(victim, signal.SIGKILL)
    out, err = p.communicate(timeout=40)
    if p.returncode != 5 or "the probe on host " not in out + err or "signal 9" not in out + err:
        die("an agent was killed: exit %d\n%s%s" % (p.returncode, out, err))
    wait_for("the other agent's end", lambda: not agents())


def controller_killed(host, sockets):
    p = host.start("run", scenario(host, sockets, wait="60s", lease="2s"), "--out", os.path.join(host.out, "gone"),
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for("two agents", lambda: len(agents()) == 2)
    p.kill()
    p.wait()
    wait_for("the agents' end with the lease", lambda: not agents())


def refused(host, sockets):
    r = host.run("run", scenario(host, {**sockets, "west": host.dir + "/none.sock"}), "--out", os.path.join(host.out, "no"))
    if r.returncode != 5 or "host west" not in r.stdout + r.stderr:
        die("no injector there: exit %d\n%s%s" % (r.returncode, r.stdout, r.stderr))
    wait_for("the end of what east began", lambda: not agents())
    r = host.run("check", scenario(host, sockets, sender="[east, wets]"))
    if r.returncode != 2 or 'did you mean "west"?' not in r.stdout + r.stderr:
        die("an unknown host: exit %d\n%s%s" % (r.returncode, r.stdout, r.stderr))


with_hosts(whole, agent_killed, controller_killed, refused)
