#!/usr/bin/python3
"""What keeps people in control gets through the worst fault: a session of a real sshd and new ones, and the probe, while
all that passes the interface is lost or cut; unless the scenario says that they are meant, too. Two network namespaces:
H has squalld, sshd and the probe, R the ssh client, the service that is probed and a port that is cut."""
import http.server
import json
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

import injector_lib as lib
from packet_lib import inside, sh, until

H, R = (f"sqt-spared-{os.getpid()}-{x}" for x in "hr")
AT_H, AT_R = "10.88.0.1", "10.88.0.2"
SSH, PROBED, CUT = 2222, 8080, 5432
EVERYTHING = ["0.0.0.0/0", "::/0"]
IN_H = ["ip", "netns", "exec", H]

SSHD = """Port {port}
Port {more}
ListenAddress {at}
HostKey {dir}/host
PidFile none
AuthorizedKeysFile {dir}/user.pub
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
"""

SCENARIO = """apiVersion: squall/v1
kind: Scenario
metadata: {{name: spared}}
spec:
  load:
    home: {{executor: constant-arrival-rate, rate: 20/s, request: {{url: "http://{at}:{probed}/", timeout: 3s}}}}
  lateness: {{over: 3s, share: 50%}}
  steady_state: {{for: 1s, thresholds: ["error_rate<50%"]}}
  steps:
    - {{id: apart, uses: network/partition, target: {{and: [0.0.0.0/0, "::/0"]}}, duration: 4s}}
    - {{id: lost, uses: network/loss, target: {{interface: eth0, direction: both}}, with: {{loss: 100%}}, duration: 4s}}
  verify:
    - {{check: fault_felt, step: "*"}}
    - {{check: clean}}
"""


class Session:
    """A cat behind ssh: what is sent comes back."""

    def __init__(self, d):
        self.p = subprocess.Popen(["ip", "netns", "exec", R, "ssh", "-F", "none", "-p", str(SSH), "-i", f"{d}/user",
                                   "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "ConnectTimeout=20",
                                   "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", f"root@{AT_H}", "cat"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.sel = selectors.DefaultSelector()
        self.sel.register(self.p.stdout, selectors.EVENT_READ)

    def hear(self, limit):
        return self.p.stdout.read(64) if self.sel.select(limit) else None

    def echoes(self, limit):
        self.p.stdin.write(b"there?\n")
        return self.hear(limit) == b"there?\n"

    def close(self):
        self.p.kill()
        self.p.wait()
        self.p.stdout.close()
        self.p.stdin.close()


def reaches(port, limit=1.0):
    with inside(H):
        s = socket.socket()
    s.settimeout(limit)
    try:
        s.connect((AT_R, port))
        return True
    except OSError:
        return False
    finally:
        s.close()


def faults(more, directions=("both",)):
    yield {"uses": "network/partition", "target": dict({"and": EVERYTHING}, **more)}
    for direction in directions:
        yield {"uses": "network/loss", "with": {"loss": "100%"},
               "target": dict({"interface": "eth0", "direction": direction}, **more)}


def ssh_survives(inj, d):
    run = inj.run("60s")
    session = Session(d)
    try:
        assert session.echoes(20)
        for want in faults({}, ("egress", "ingress", "both")):
            fault = inj.post(f"runs/{run}/faults", want)["fault"]
            assert not reaches(CUT), want
            assert session.echoes(20), want
            another = Session(d)
            assert another.echoes(20), want
            another.close()
            assert inj.delete(f"runs/{run}/faults/{fault}")["clean"]
            assert reaches(CUT, 20)
        for want in faults({"spare_control": False}):
            fault = inj.post(f"runs/{run}/faults", want)["fault"]
            assert not session.echoes(1), want
            assert inj.delete(f"runs/{run}/faults/{fault}")["clean"]
            assert session.hear(40) == b"there?\n", "what was held up arrives afterwards"
    finally:
        session.close()
        inj.delete(f"runs/{run}")


def squall(d, verb, *args):
    path = os.path.join(d, "scenario.yaml")
    with open(path, "w") as f:
        f.write(SCENARIO.format(at=AT_R, probed=PROBED))
    env = dict(os.environ, SQUALL_RUN_DIR=os.path.join(d, "run"), NO_COLOR="1")
    got = subprocess.run([*IN_H, os.path.join(lib.BUILD, "squall"), verb, *args, path], env=env, cwd=d,
                         capture_output=True, text=True, timeout=90)
    return got.returncode, got.stdout + got.stderr


def the_plan_says_it(d):
    code, said = squall(d, "plan")
    assert code == 0, said
    assert len(re.findall(rf"excepted: SSH, local port ({SSH}, {SSH + 1}|{SSH + 1}, {SSH}) ", said)) == 2, said
    assert len(re.findall(rf"probe's (?:own packets|path) to {AT_R}:{PROBED}", said)) == 2, said
    assert "-> squalld's own, by nftables: 2 networks" in said, said
    for direction in ("egress", "ingress"):
        assert re.search(rf"-> eth0, {direction}, by (packet|netem): ", said), said


def the_probe_survives(d):
    """And what else this host sends does not: or nothing would have been hit."""
    over = threading.Event()

    def others():
        while not over.wait(0.05):
            reaches(CUT, 0.1)

    t = threading.Thread(target=others)
    t.start()
    try:
        code, said = squall(d, "run")
    finally:
        over.set()
        t.join()
    assert code == 0, said
    out = os.path.join(d, "squall-runs")
    with open(os.path.join(out, os.listdir(out)[0], "evidence.jsonl")) as f:
        lines = [json.loads(line) for line in f]
    for step in ("apart", "lost"):
        at = {x["state"]: x["t"] for x in lines if x["type"] == "fault" and x["step"] == step}
        whole = [x for x in lines if x["type"] == "sample" and at["applied"] <= x["sec"] and x["sec"] + 1 <= at["reverted"]]
        sent, ok = (sum(x[k] for x in whole) for k in ("sent", "ok"))
        assert sent >= 20 and ok >= sent / 4, (step, at, whole)  # not one, were it not spared; a busy machine fails some


def serve():
    class Quiet(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *a):
            pass

    with inside(R):
        served = http.server.ThreadingHTTPServer((AT_R, PROBED), Quiet)
        cut = socket.create_server((AT_R, CUT), backlog=1000)
    threading.Thread(target=served.serve_forever, daemon=True).start()

    def take():
        while True:
            cut.accept()[0].close()

    threading.Thread(target=take, daemon=True).start()


def network():
    for ns in (H, R):
        sh("ip", "netns", "add", ns)
    sh("ip", "-n", H, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", R)
    for ns, at in ((H, AT_H), (R, AT_R)):
        sh("ip", "-n", ns, "addr", "add", f"{at}/24", "dev", "eth0")
        for dev in ("lo", "eth0"):
            sh("ip", "-n", ns, "link", "set", dev, "up")


def start_sshd(d):
    for key in ("host", "user"):
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{d}/{key}")
    with open(f"{d}/sshd_config", "w") as f:
        f.write(SSHD.format(port=SSH, more=SSH + 1, at=AT_H, dir=d))
    made = not os.path.isdir("/run/sshd")  # its separation of privileges wants it, whatever its configuration
    os.makedirs("/run/sshd", 0o755, exist_ok=True)
    sshd = subprocess.Popen([*IN_H, shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", f"{d}/sshd_config"],
                            stderr=subprocess.DEVNULL)
    return sshd, made


def main():
    if os.geteuid() != 0:
        print("needs root")
        sys.exit(77)
    d = tempfile.mkdtemp(prefix="squall-spared-")
    os.mkdir(f"{d}/run", 0o700)
    sshd = inj = None
    made = False
    try:
        network()
        serve()
        sshd, made = start_sshd(d)
        os.environ["SQUALL_RUN_DIR"] = f"{d}/run"
        with inside(H):
            inj = lib.Injector(f"{d}/run")
        until("sshd answers", lambda: answers(), 20)
        ssh_survives(inj, d)
        print("ok   ssh_survives", flush=True)
        inj.end()
        the_plan_says_it(d)
        print("ok   the_plan_says_it", flush=True)
        the_probe_survives(d)
        print("ok   the_probe_survives", flush=True)
    finally:
        if inj:
            inj.end()
        if sshd:
            sshd.terminate()
            sshd.wait(10)
        if made:
            os.rmdir("/run/sshd")
        for ns in (H, R):
            sh("ip", "netns", "del", ns, check=False)
        shutil.rmtree(d, ignore_errors=True)


def answers():
    with inside(R):
        s = socket.socket()
    try:
        s.connect((AT_H, SSH))
        return s.recv(4) == b"SSH-"
    except OSError:
        return False
    finally:
        s.close()


main()
