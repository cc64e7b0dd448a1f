#!/usr/bin/env python3
"""`squall verify` on evidence from a file: exit codes, the table, --json, and that nothing is written."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

SQUALL = os.path.join(os.path.abspath(os.environ.get("SQUALL_BUILD", "build")), "squall")
P95 = {"metric": "p", "p": 95, "op": "<", "value": 500_000_000}


def evidence(limit_ns=500_000_000, per_s=60, end=None, checks=True):
    slo = {"check": "slo", "step": "s", "thresholds": [dict(P95, value=limit_ns)]}
    spec = {"steps": [{"id": "s", "uses": "process/kill"}], "verify": [slo] if checks else []}
    out = [{"t": 0, "type": "run", "v": 1, "id": "r", "name": "n", "scenario": {"spec": spec}},
           {"t": 5, "type": "fault", "state": "applied", "step": "s", "fault": "f1", "uses": "process/kill"},
           {"t": 15, "type": "fault", "state": "reverted", "step": "s", "fault": "f1", "clean": True}]
    for sec in range(20):  # bucket 12000: about 8 us
        out.append({"t": sec + 1, "type": "sample", "sec": sec, "endpoint": "cart", "sent": per_s, "ok": per_s,
                    "bad": {}, "h": [12000, per_s]})
    if end is not None:
        out.append(dict({"t": 21, "type": "end", "reason": "completed", "why": "", "clean": True, "left": []}, **end))
    return "".join(json.dumps(o) + "\n" for o in out)


def verify(folder, *more):
    return subprocess.run([SQUALL, "verify", *more, folder], capture_output=True, text=True, timeout=20)


def main():
    root = tempfile.mkdtemp(prefix="squall-verify-")
    cases = [("pass", 0, evidence(end={})), ("fail", 1, evidence(limit_ns=10, end={})),
             ("inconclusive", 3, evidence(per_s=2, end={})), ("inconclusive", 3, evidence(checks=False, end={})),
             ("aborted", 4, evidence()), ("aborted", 4, evidence(end={"reason": "aborted", "why": "Ctrl-C"})),
             ("aborted", 4, evidence(end={})[:-20]), ("infrastructure", 5, evidence(end={"reason": "infrastructure"})),
             ("unclean", 6, evidence(end={"clean": False, "left": ["a qdisc on eth0"]}))]
    try:
        for i, (verdict, code, text) in enumerate(cases):
            folder = os.path.join(root, str(i))
            os.mkdir(folder)
            with open(os.path.join(folder, "evidence.jsonl"), "w") as f:
                f.write(text)
            table, as_json = verify(folder), verify(folder, "--json")
            assert table.returncode == as_json.returncode == code, (i, table.returncode, as_json.returncode, table.stderr)
            v = json.loads(as_json.stdout)
            assert v["verdict"] == verdict and v["exit"] == code and v["why"], (i, v)
            assert table.stdout.splitlines()[-1].startswith(verdict + ": "), (i, table.stdout)
            assert "\033" not in table.stdout, "colours without a terminal"
            assert os.listdir(folder) == ["evidence.jsonl"], "something was written"
            assert verify(folder, "--json").stdout == as_json.stdout, "the same evidence, another verdict"
        none = verify(os.path.join(root, "nothing"))
        assert none.returncode == 2 and "no run" in none.stderr, (none.returncode, none.stderr)
        with open(os.path.join(root, "0", "evidence.jsonl"), "wb") as f:
            f.write(os.urandom(4096))
        junk = verify(os.path.join(root, "0"))
        assert junk.returncode == 2 and "no evidence log" in junk.stderr, (junk.returncode, junk.stderr)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    sys.exit(main())
