#!/usr/bin/env python3
"""Captures what tc itself sends for a netem of many combinations of its options (needs root, iproute2 and strace; the
kernel need not have netem). tests/unit/test_netem.c encodes the same parameters and compares.

    tests/golden/netem-capture.py > tests/golden/netem.txt      make it anew
    tests/golden/netem-capture.py --check [EVERY]               capture now, compare with netem.txt (each EVERY-th line)

A line: the fault's parameters as JSON, a tab, struct tc_netem_qopt in hex, then for each attribute TYPE=HEX, or
TYPE=#LENGTH:FNV-1a-64 of one that is longer than 128 bytes. "@" in a path stands for tests/golden."""
import itertools
import json
import os
import random
import re
import struct
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SEED = 20240229

# One value of each is a combination; None leaves the option out. Times in whole microseconds: tc's netem knows no finer.
SPACE = {
    "delay": [None, "1us", "100us", "99999us", "100ms", "2500ms", "270s"],
    "jitter": [None, "5us", "10ms", "1999999us"],
    "correlation": [None, "25%", "33.3%", "100%"],
    "distribution": [None, "normal", "pareto", "paretonormal", "file:@/netem-custom.dist"],
    "loss": [None, {"loss": "0.1%"}, {"loss": "1%", "loss_correlation": "12.5%"}, {"loss": "100%"},
             {"loss_state": {"p13": "1%"}}, {"loss_state": {"p13": "0.3%", "p31": "71%"}},
             {"loss_state": {"p13": "2%", "p31": "80%", "p32": "5.5%"}},
             {"loss_state": {"p13": "2%", "p31": "80%", "p32": "5%", "p23": "44%", "p14": "0.01%"}},
             {"loss_gemodel": {"p": "1%"}}, {"loss_gemodel": {"p": "3.7%", "r": "10%"}},
             {"loss_gemodel": {"p": "1%", "r": "10%", "1-h": "70%"}},
             {"loss_gemodel": {"p": "1.5%", "r": "12%", "1-h": "99.9%", "1-k": "0.1%"}}],
    "ecn": [None, True],
    "duplicate": [None, {"duplicate": "1%"}, {"duplicate": "50%", "duplicate_correlation": "30%"}],
    "corrupt": [None, {"corrupt": "0.02%"}, {"corrupt": "5%", "corrupt_correlation": "20%"}],
    "reorder": [None, {"reorder": "25%"}, {"reorder": "10%", "reorder_correlation": "50%"},
                {"reorder": "99.5%", "gap": 5}],
    "rate": [None, {"rate": "10mbit"}, {"rate": "56kbit", "packet_overhead": 20},
             {"rate": "1.5gbit", "packet_overhead": -14, "cell_size": 48, "cell_overhead": 5},
             {"rate": "40gbit"}, {"rate": "1tbit", "packet_overhead": 4}, {"rate": "125kbps"},
             {"rate": "64kibit", "packet_overhead": 0, "cell_size": 53}, {"rate": "9600"}, {"rate": "3mibps"},
             {"rate": "34359738360bit"}, {"rate": "34359738368bit"}],
    "slot": [None, {"min": "800us"}, {"min": "800us", "max": "1ms"}, {"min": "10ms", "max": "20ms", "packets": 42},
             {"min": "1ns", "max": "999999999ns", "packets": 7, "bytes": 65536},
             {"distribution": "pareto", "delay": "3ms", "jitter": "400us"},
             {"distribution": "file:@/netem-custom.dist", "delay": "5ms", "jitter": "1ms", "packets": 3, "bytes": 9000}],
    "limit": [1, 1000, 12345, 4194304],
}


def possible(c):
    """What tc takes, and Squall, too. tc loses the correlation of `duplicate` when it is the only one: left out."""
    if (c["correlation"] or c["distribution"]) and not c["jitter"]:
        return False
    if c["jitter"] and not c["delay"]:
        return False
    if c["ecn"] and not c["loss"] or c["reorder"] and not c["delay"]:
        return False
    if "duplicate_correlation" in (c["duplicate"] or {}) and not (
            c["correlation"] or "loss_correlation" in (c["loss"] or {}) or
            "corrupt_correlation" in (c["corrupt"] or {}) or "reorder_correlation" in (c["reorder"] or {})):
        return False
    return any(c[k] for k in ("delay", "loss", "duplicate", "corrupt", "rate", "slot"))


def draw(rng, fixed):
    while True:
        c = {k: rng.choice(v) if rng.random() < 0.6 else v[0] for k, v in SPACE.items()}
        c.update(fixed)
        # Make up what the fixed values need.
        if c["correlation"] or c["distribution"]:
            c["jitter"] = c["jitter"] or "10ms"
        if (c["jitter"] or c["reorder"]) and not c["delay"] and "delay" not in fixed:
            c["delay"] = "100ms"
        if c["ecn"] and not c["loss"] and "loss" not in fixed:
            c["loss"] = {"loss": "1%", "loss_correlation": "12.5%"}
        if "duplicate_correlation" in (c["duplicate"] or {}) and "corrupt" not in fixed:
            c["corrupt"] = {"corrupt": "5%", "corrupt_correlation": "20%"}
        c.update(fixed)
        if possible(c):
            return c
        if rng.random() < 0.02:
            return None


def combinations():
    """Every pair of values that can be together, at least once; then random ones."""
    rng = random.Random(SEED)
    names = list(SPACE)
    left = {(a, i, b, j) for a, b in itertools.combinations(names, 2)
            for i in range(len(SPACE[a])) for j in range(len(SPACE[b]))}
    index = {k: {json.dumps(v): i for i, v in enumerate(vs)} for k, vs in SPACE.items()}
    out = []

    def take(c):
        at = {k: index[k][json.dumps(c[k])] for k in names}
        new = {(a, at[a], b, at[b]) for a, b in itertools.combinations(names, 2)} & left
        left.difference_update(new)
        out.append(c)

    for pair in sorted(left, key=lambda p: rng.random()):
        if pair in left:
            a, i, b, j = pair
            best = [c for c in (draw(rng, {a: SPACE[a][i], b: SPACE[b][j]}) for _ in range(4)) if c]
            if best:
                take(best[0])
            else:
                left.discard(pair)
    while len(out) < 400:
        take(draw(rng, {}))
    return out


def parameters(c):
    w = {}
    for k, v in c.items():
        if v is None:
            continue
        if isinstance(v, dict) and k != "slot":
            w.update(v)
        else:
            w[k] = v
    return w


def dist(name):
    return re.sub(r"^file:@/(.*)\.dist$", r"\1", name)


def arguments(w):
    """The same in tc's words."""
    a = ["limit", str(w["limit"])]
    if "delay" in w:
        a += ["delay"] + [w[k] for k in ("delay", "jitter", "correlation") if k in w]
    if "distribution" in w:
        a += ["distribution", dist(w["distribution"])]
    if "loss" in w:
        a += ["loss", "random"] + [w[k] for k in ("loss", "loss_correlation") if k in w]
    if "loss_state" in w:
        a += ["loss", "state"] + [w["loss_state"][k] for k in ("p13", "p31", "p32", "p23", "p14")
                                  if k in w["loss_state"]]
    if "loss_gemodel" in w:
        a += ["loss", "gemodel"] + [w["loss_gemodel"][k] for k in ("p", "r", "1-h", "1-k") if k in w["loss_gemodel"]]
    a += ["ecn"] if w.get("ecn") else []
    for k in ("duplicate", "corrupt", "reorder"):
        if k in w:
            a += [k] + [w[x] for x in (k, k + "_correlation") if x in w]
    if "gap" in w:
        a += ["gap", str(w["gap"])]
    if "rate" in w:
        a += ["rate"] + [str(w[k]) for k in ("rate", "packet_overhead", "cell_size", "cell_overhead") if k in w]
    if "slot" in w:
        s = w["slot"]
        a += ["slot"]
        if "distribution" in s:
            a += ["distribution", dist(s["distribution"]), s["delay"], s["jitter"]]
        else:
            a += [s[k] for k in ("min", "max") if k in s]
        for k in ("packets", "bytes"):
            if k in s:
                a += [k, str(s[k])]
    return a


def fnv(data):
    h = 0xcbf29ce484222325
    for b in data:
        h = (h ^ b) * 0x100000001b3 & 0xffffffffffffffff
    return h


def text(options):
    """TCA_OPTIONS' payload, as described above."""
    words, at = [options[:24].hex()], 24
    while at < len(options):
        length, kind = struct.unpack_from("<HH", options, at)
        payload = options[at + 4:at + length]
        words.append(f"{kind}=" + (payload.hex() if len(payload) <= 128 else f"#{len(payload)}:{fnv(payload):016x}"))
        at += (length + 3) & ~3
    return " ".join(words)


def library():
    for d in ("/usr/lib/x86_64-linux-gnu/tc", "/usr/lib/aarch64-linux-gnu/tc", "/usr/lib/tc", "/usr/lib64/tc"):
        if os.path.exists(d + "/normal.dist"):
            return d
    sys.exit("tc's distributions are not installed")


def capture(args, tables):
    # tc looks for its tables in one directory.
    r = subprocess.run(["strace", "-xx", "-s", "200000", "-e", "trace=sendmsg", "tc", "qdisc", "add", "dev", "lo", "root",
                        "handle", "5c1a:", "netem"] + args, env=dict(os.environ, TC_LIB_DIR=tables), text=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    m = re.search(r'RTM_NEWQDISC.*?nla_type=TCA_OPTIONS\}, "([^"]*)"(\.*)', r.stderr)
    if not m or m[2]:
        sys.exit("tc sent nothing for " + " ".join(args) + ":\n" + r.stderr[-2000:])
    return text(bytes.fromhex(m[1].replace("\\x", "")))


def main():
    check = sys.argv[1:2] == ["--check"]
    every = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    if "SQUALL_IN_NETNS" not in os.environ:
        os.execvpe("unshare", ["unshare", "-n", sys.executable] + sys.argv, dict(os.environ, SQUALL_IN_NETNS="1"))
    import tempfile
    with tempfile.TemporaryDirectory() as tables:
        for name in os.listdir(library()):
            if name.endswith(".dist"):
                os.symlink(f"{library()}/{name}", f"{tables}/{name}")
        os.symlink(f"{HERE}/netem-custom.dist", f"{tables}/netem-custom.dist")
        want = open(f"{HERE}/netem.txt").read().splitlines() if check else []
        if not check:
            for c in combinations():
                w = parameters(c)
                print(json.dumps(w, separators=(",", ":")) + "\t" + capture(arguments(w), tables), flush=True)
        bad = 0
        for line in want[::every]:
            w, sent = line.split("\t")
            now = capture(arguments(json.loads(w)), tables)
            if now != sent:
                print(f"tc sends something else than netem.txt says for {w}:\n  {now}\n  {sent}")
                bad += 1
        if check:
            print(f"{len(want[::every])} of {len(want)} combinations captured, {bad} differ")
            sys.exit(1 if bad or not want else 0)


main()
