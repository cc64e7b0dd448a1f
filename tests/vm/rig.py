"""What the tests of netem share: a wire to a namespace that answers, an injector with its runs, and what is configured."""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from squall import *  # noqa: E402,F403
from squall import Host, Injector, die, json, socket, subprocess, time

ECHO = """
import select, socket, sys
all = []
for port in (7, 8, 9):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.bind(("::", port))
    all.append(s)
print("ready", flush=True)
while True:
    for s in select.select(all, [], [])[0]:
        data, who = s.recvfrom(2048)
        try:
            s.sendto(data, who)
        except OSError:
            pass
"""
LEASE = "900s"  # a private injector leaves when its last one is over
NEAR, FAR = "10.99.0.1", "10.99.0.2"


def sh(*args, ok=True):
    if len(args) == 1:
        args = args[0].split()
    got = subprocess.run(args, capture_output=True, text=True)
    if ok and got.returncode:
        die(f"{' '.join(args)}: {got.stdout}{got.stderr}")
    return got.stdout


def want(what, ok, more=""):
    print(("ok: " if ok else "NOT: ") + what, flush=True)
    if not ok:
        die(f"{what} {more}")


def until(what, fn, seconds=15):
    end = time.monotonic() + seconds
    while not (got := fn()):
        if time.monotonic() > end:
            die(f"not within {seconds} s: {what}")
        time.sleep(0.05)
    return got


def echo(ns):
    p = subprocess.Popen(["ip", "netns", "exec", ns, sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
    p.stdout.readline()
    return p


def wire(dev="sq-a", ns="sq-n", near=NEAR, far=FAR, options=""):
    """A veth from here to the namespace NS (made when it is not there)."""
    if ns not in sh("ip netns list").split():
        sh(f"ip netns add {ns}")
        for at in ([], ["ip", "netns", "exec", ns]):  # link-local addresses come when they like
            sh(*at, "sysctl", "-qw", "net.ipv6.conf.default.addr_gen_mode=1")
        batch("ip", ["link set lo up"], ns)
    sh(f"ip link add {dev} {options} type veth peer name {dev}p netns {ns}")
    batch("ip", [f"addr add {far}/24 dev {dev}p", f"link set {dev}p up"], ns)
    batch("ip", [f"addr add {near}/24 dev {dev}", f"link set {dev} up"], None)


def rtts(n=5, to=FAR, port=7, wait=1.0, source=None):
    """Sorted round trips in ms, one after the other; lost ones are left out, and so is the first, which pays for ARP."""
    s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(wait)
    if source:
        s.bind((source, 0))
    times = []
    for i in range(n + 1):
        begin = time.monotonic()
        try:
            s.sendto(str(i).encode(), (to, port))
            while s.recv(2048) != str(i).encode():
                pass
            times.append((time.monotonic() - begin) * 1000)
        except OSError:  # also: network is unreachable
            if not times:
                times.append(0)
    s.close()
    return sorted(times[1:])


def least(**kw):
    got = rtts(**kw)
    return got[0] if got else -1


def batch(tool, lines, ns):
    """Many questions by one process: starting one takes the test kernel 10 to 20 ms."""
    got = subprocess.run([tool, *(["-n", ns] if ns else []), *(["-d"] if tool == "ip" else []), "-force", "-batch", "-"],
                         input="\n".join(lines) + "\n", capture_output=True, text=True)
    return got.stdout.splitlines()


def configured(*namespaces, routes=True):
    """Everything that is configured here and in those namespaces, without counters, ages and flows, a line each."""
    text = []
    for ns in (None, *namespaces):
        classes, filters = set(), []
        for q in json.loads(sh(f"tc {f'-n {ns} ' if ns else ''}-j qdisc show")):
            classes.add(f"class show dev {q['dev']}")
            at = {"clsact": ["ffff:fff2", "ffff:fff3"], "ingress": ["ffff:"], "htb": [q["handle"]], "prio": [q["handle"]]}
            filters += [f"filter show dev {q['dev']} parent {p}" for p in at.get(q["kind"], []) if q["handle"] != "0:"]
        lines = batch("tc", ["qdisc show"], ns)
        # The order of classes depends on how many there ever were.
        lines += sorted(x for x in batch("tc", sorted(classes), ns) if not x.startswith("class fq_codel"))
        lines += batch("tc", filters, ns) if filters else []
        lines += batch("ip", ["link show"] + (["addr show", "route show table all", "rule show"] if routes else []), ns)
        lines += sh(*(["ip", "netns", "exec", ns] if ns else []), "nft", "list", "ruleset", ok=False).splitlines() if routes else []
        text += [f"{ns or 'here'}: {x.strip()}" for x in lines if x.strip()]
    text = [re.sub(r"direct_packets_stat \d+|refcnt \d+|valid_lft \w+|preferred_lft \w+|expires \w+|packets \d+ bytes \d+|rule hit \d+ success \d+|"
                   r"(used|installed|age) \d+ sec", "", x) for x in text]
    text = [re.sub(r"filter (ingress|egress|parent \w+:\w*) ", "filter ", x) for x in text]  # said or not, as tc likes
    return "\n".join(re.sub(r" +", " ", x).strip() for x in text)


def difference(a, b):
    x, y = a.splitlines(), b.splitlines()
    return "\n".join([f"- {t}" for t in x if t not in y] + [f"+ {t}" for t in y if t not in x] or ["(the order)"])


def same(what, before, now):
    want(what, before == now, difference(before, now))


class Asking:
    """An Api that asks by a new connection each time: one that is idle for long is closed by squalld."""

    def __init__(self, api):
        self.api = api

    def call(self, *args, **kw):
        self.api.close()
        return self.api.call(*args, **kw)


class Squall:
    """An injector with a run; faults by netem."""

    def __init__(self, host=None, lease=LEASE, name=None):
        self.host = host or Host()
        self.inj = Injector(self.host, name)
        self.api = Asking(self.inj.api)
        self.run = self.new_run(lease)

    def new_run(self, lease=LEASE):
        return self.api.call("POST", "/v1/runs", {"name": "vm", "lease": lease}, 201)["run"]

    def ask(self, with_, run=None, uses="network/impair", **target):
        target.setdefault("interface", "sq-a")
        return self.api.call("POST", f"/v1/runs/{run or self.run}/faults", {
            "uses": uses, "step": "s", "target": dict({"spare_control": False}, **target), "with": dict({"backend": "netem"}, **with_)})

    def on(self, with_, **kw):
        status, got = self.ask(with_, **kw)
        if status != 201:
            die(f"{with_} {kw}: {status} {got}")
        return got

    def refused(self, what, with_, status=409, **kw):
        got, said = self.ask(with_, **kw)
        if got == 201:
            self.off(said)
        want(f"{what}: refused", got == status, f"{got} {said}")
        return said["error"]["message"]

    def off(self, fault, run=None):
        got = self.api.call("DELETE", f"/v1/runs/{run or self.run}/faults/{fault['fault']}", expect=200)
        if not got["clean"]:
            die(f"not clean: {got}")

    def events(self, kind="warning", run=None):
        return [e for e in self.api.call("GET", f"/v1/runs/{run or self.run}/events?after=0", expect=200)["events"] if e["type"] == kind]

    def quit(self):
        self.api.call("POST", "/v1/quit", {})
        return self.inj.proc.wait(30)
