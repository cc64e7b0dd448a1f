#!/usr/bin/python3
"""Whose network a member of the group may harm through a squalld that runs as root: nobody's but their own. The member is
nobody, the group is nogroup; all of it is in a network of its own, where a fault that was granted wrongly harms nobody."""
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile

import injector_lib as lib

NOBODY = 65534
CLONE_NEWNET = 0x40000000
ME = os.path.abspath(__file__)
AMBIENT = ["--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"]
LATENCY = {"uses": "network/latency", "with": {"delay": "10ms"}}
LOSS = {"uses": "network/loss", "with": {"loss": "10%"}}
PARTITION = {"uses": "network/partition"}


def ask(path, method, what, body=None):
    c = lib.Unix(path)
    c.request(method, "/v1/" + what, json.dumps(body) if body is not None else None)
    r = c.getresponse()
    return r.status, json.loads(r.read())


def peer(sock, wants):
    """Asks for each of WANTS: [plan, fault, its end]."""
    run = ask(sock, "POST", "runs", {"name": "x", "lease": "60s"})[1]["run"]
    said = []
    for want in wants:
        plan = ask(sock, "POST", f"runs/{run}/plan", want)
        fault = ask(sock, "POST", f"runs/{run}/faults", want)
        end = ask(sock, "DELETE", f"runs/{run}/faults/{fault[1]['fault']}") if fault[0] == 201 else None
        said.append([plan, fault, end])
    ask(sock, "DELETE", f"runs/{run}")
    print(json.dumps(said))


def as_nobody(sock, wants, caps=(), wrap=()):
    with tempfile.TemporaryDirectory() as readable:  # this file may be where nobody has no way to
        os.chmod(readable, 0o755)
        for f in (ME, lib.__file__):
            shutil.copy(f, readable)
        args = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", *caps, *wrap,
                sys.executable, os.path.join(readable, os.path.basename(ME)), "peer", sock, json.dumps(wants)]
        got = subprocess.run(args, capture_output=True, text=True, timeout=60)
    assert got.returncode == 0, got.stderr
    return json.loads(got.stdout)


def on(kind, **target):
    if kind["uses"] != "network/partition":
        target["interface"] = "d0"
    else:
        target["and"] = ["10.9.0.2"]
    return dict(kind, target=target)


def rules(pid=None):
    """What is in that network that could be a fault."""
    ns = ["nsenter", f"--net=/proc/{pid}/ns/net"] if pid else []
    out = ""
    for cmd in (["nft", "list", "ruleset"], ["tc", "qdisc", "show"], ["tc", "filter", "show", "dev", "d0", "egress"]):
        out += subprocess.run(ns + cmd, capture_output=True, text=True).stdout
    net = subprocess.run(ns + ["bpftool", "-j", "net", "show"], capture_output=True, text=True).stdout
    return out + net + subprocess.run(ns + ["ip", "-br", "link"], capture_output=True, text=True).stdout


def others_networks_are_not_touched(sock, theirs):
    """Neither the host's nor root's other ones, however they are named; plan says so as well."""
    before = rules(), rules(theirs)
    wants = [on(k, **t) for k in (LATENCY, LOSS, PARTITION)
             for t in ({}, {"namespace": f"pid:{theirs}"}, {"namespace": f"/proc/{theirs}/ns/net"})]
    for want, (plan, fault, _) in zip(wants, as_nobody(sock, wants)):
        for status, got in (plan, fault):
            assert status == 403, (want, status, got)
            said = got["error"]["message"]
            assert f"uid {NOBODY}" in said and "network" in said, said
            assert "/proc" in want["target"].get("namespace", "") or "CAP_NET_ADMIN" in got["error"]["hint"], got
    assert (rules(), rules(theirs)) == before


def root_of_a_user_namespace_is_nobody_here(sock):
    """It has every capability, but in a user namespace of its own."""
    before = rules()
    (plan, fault, _), = as_nobody(sock, [on(LATENCY)], wrap=["unshare", "-Ur", "--"])
    assert plan[0] == fault[0] == 403, (plan, fault)
    assert rules() == before


def the_capability_is_enough(sock):
    for (plan, fault, end), backend in zip(as_nobody(sock, [on(LATENCY), on(PARTITION)], caps=AMBIENT), ("", "nftables")):
        assert plan[0] == 200 and fault[0] == 201, (plan, fault)
        assert backend in fault[1]["readback"]["backend"] and end[1]["clean"], (fault, end)


def a_network_of_their_own(sock):
    """A user namespace of nobody's, as rootless containers have one."""
    holder = subprocess.Popen(["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "unshare",
                               "-Urn", "sh", "-c", "ip link add d0 type veth peer name d1 && ip addr add 10.9.0.1/24 dev d0 && "
                               "ip link set d0 up && echo ready && exec sleep 100"], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "ready\n"
        wants = [on(k, namespace=f"pid:{holder.pid}") for k in (LATENCY, PARTITION)]
        for plan, fault, end in as_nobody(sock, wants):
            assert plan[0] == 200 and fault[0] == 201 and end[1]["clean"], (plan, fault, end)
        # but nobody else's: root's own
        (plan, fault, _), = as_nobody(sock, [on(LATENCY)])
        assert plan[0] == fault[0] == 403, (plan, fault)
    finally:
        holder.kill()
        holder.wait()


def a_path_is_opened_with_their_rights(sock, top):
    """What root alone may see is not looked at: there or not, the answer is the same."""
    shut = os.path.join(top, "shut")
    os.mkdir(shut, 0o700)
    open(os.path.join(shut, "there"), "w").close()
    said = []
    for name in ("there", "not-there"):
        (plan, fault, _), = as_nobody(sock, [on(LATENCY, namespace=os.path.join(shut, name))])
        assert plan[0] == fault[0] == 403, (plan, fault)
        said.append(fault[1]["error"]["message"].replace("not-there", "there"))
    assert said[0] == said[1] and "Permission denied" in said[0], said


SCENARIO = """apiVersion: squall/v1
kind: Scenario
metadata: {name: t}
spec:
  services:
    mark: {command: [sh, -c, "echo started >%s; exec sleep 60"]}
  steps:
    - {id: slow, uses: network/latency, target: {interface: d0}, with: {delay: 10ms}, duration: 1s}
  verify: [{check: clean}]
"""


def plan_and_run_say_so_before_anything(sock, top):
    """With the host's injector, and with one that an ordinary user starts."""
    mark, scenario = os.path.join(top, "mark"), os.path.join(top, "s.yaml")
    with open(scenario, "w") as f:
        f.write(SCENARIO % mark)
    home = os.path.join(top, "home")
    os.mkdir(home)
    os.chown(home, NOBODY, NOBODY)
    os.chmod(top, 0o755)
    for injector, reason in ((["--injector", sock], f"uid {NOBODY} may not change the network of this host"),
                             ([], "needs root (CAP_NET_ADMIN)")):
        env = dict(os.environ, SQUALL_RUN_DIR=os.path.join(home, "run"), HOME=home, NO_COLOR="1")
        os.makedirs(env["SQUALL_RUN_DIR"], exist_ok=True)
        os.chown(env["SQUALL_RUN_DIR"], NOBODY, NOBODY)
        for verb in ("plan", "run"):
            got = subprocess.run([os.path.join(lib.BUILD, "squall"), verb, *injector, scenario], env=env, cwd=home,
                                 user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True, timeout=60)
            said = " ".join((got.stdout + got.stderr).split())
            assert got.returncode == 5, (verb, injector, got.returncode, said)
            assert reason in said, (verb, injector, said)
            assert not os.path.exists(mark), "a service was started"


def main():
    if os.geteuid() != 0:
        print("needs root")
        sys.exit(77)
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        sys.exit("cannot make a network namespace")
    subprocess.run("ip link set lo up; ip link add d0 type veth peer name d1; ip addr add 10.9.0.1/24 dev d0; ip link set d0 up",
                   shell=True, check=True)
    top = tempfile.mkdtemp(prefix="squall-rights-")
    os.chmod(top, 0o755)
    run = os.path.join(top, "run")
    os.mkdir(run, 0o755)
    theirs = subprocess.Popen(["unshare", "-n", "sh", "-c", "ip link add d0 type veth peer name d1; ip link set d0 up; echo; exec sleep 100"],
                              stdout=subprocess.PIPE)
    theirs.stdout.readline()
    sock = os.path.join(run, "squalld", "api.sock")
    squalld = subprocess.Popen([lib.SQUALLD, "--dir", os.path.dirname(sock), "--group", "nogroup"],
                               env=dict(os.environ, SQUALL_RUN_DIR=run))

    def answers():
        try:
            return ask(sock, "GET", "info")[0] == 200
        except (FileNotFoundError, ConnectionError):
            return False

    try:
        lib.until("the API answers", answers, 20)
        for test, args in ((others_networks_are_not_touched, (theirs.pid,)), (root_of_a_user_namespace_is_nobody_here, ()),
                           (the_capability_is_enough, ()), (a_network_of_their_own, ()),
                           (a_path_is_opened_with_their_rights, (top,)), (plan_and_run_say_so_before_anything, (top,))):
            test(sock, *args)
            print("ok  ", test.__name__, flush=True)
    finally:
        squalld.terminate()
        squalld.wait(20)
        theirs.kill()
        theirs.wait()
        shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["peer"]:
        peer(sys.argv[2], json.loads(sys.argv[3]))
    else:
        main()
