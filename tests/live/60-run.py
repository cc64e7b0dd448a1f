#!/usr/bin/env python3
"""A scenario runs from its first request to its verdict, and leaves nothing."""
import json
import os

from run_lib import Place, check, state_of

PAUSE = "[{id: pause, uses: process/pause, target: {service: payments}, duration: 2s, settle: 1s}, {id: rest, wait: 500ms}]"

with Place() as p:
    rc, out, err = p.run("run", p.scenario(PAUSE), "--seed", "42", "--junit", "j/junit.xml", "--html", "j/r.html")
    check(rc == 0, f"exit {rc}\n{out}{err}")
    check(p.end()["reason"] == "completed" and p.end()["clean"] is True, f"end: {p.end()}")
    run = p.evidence()[0]
    check(run["type"] == "run" and run["seed"] == 42 and run["scenario"]["metadata"]["name"] == "live", "run record")
    on, off = p.records("fault", state="applied"), p.records("fault", state="reverted")
    check(len(on) == 1 and len(off) == 1, f"faults: {on} {off}")
    check(on[0]["uses"] == "process/pause" and on[0]["step"] == "pause" and on[0]["readback"], f"applied: {on[0]}")
    check(off[0]["by"] == "request" and off[0]["clean"] is True and off[0]["left"] == [], f"reverted: {off[0]}")
    check(1.9 < off[0]["t"] - on[0]["t"] < 3.5, f"lasted {off[0]['t'] - on[0]['t']} s")
    pid = on[0]["hit"][0]["pid"]
    check(state_of(pid) is None, "the service still lives")
    phases = [(r["phase"], r["state"]) for r in p.records("phase")]
    check(phases == [("steady", "begin"), ("steady", "end"), ("step", "begin"), ("step", "end"), ("wait", "begin"),
                     ("wait", "end")], f"phases: {phases}")
    check([r["when"] for r in p.records("snapshot")] == ["before", "after"], "snapshots")
    # What users felt: answers stop while it is paused, and come back.
    bad = sum(sum(s["bad"].values()) for s in p.records("sample") if on[0]["t"] < s["sec"] < off[0]["t"] - 1)
    check(bad > 20, f"only {bad} requests failed during the pause")
    probe = p.records("probe")[0]
    check(probe["planned"] == probe["sent"] == sum(s["sent"] for s in p.records("sample")), f"probe: {probe}")
    folder = os.path.join(p.dir, "squall-runs", run["id"])
    for name in ("verdict.json", "report.json", "junit.xml", "report.md", "report.html"):
        check(os.path.getsize(os.path.join(folder, name)) > 0, name)
    check(os.path.exists(p.dir + "/j/junit.xml") and os.path.exists(p.dir + "/j/r.html"), "copies of reports")
    check(not os.path.exists(os.path.join(folder, "squalld.log")), "an empty log was kept")
    check("pass" in out and "live" in out, f"summary: {out}")
    check("pause: process/pause on payments.0" in err, f"progress: {err}")
    check("\033" not in err + out, "escape sequences without a terminal")

    # The same again: quiet, as JSON, into a folder of our own.
    rc, out, err = p.run("run", p.scenario(PAUSE), "--quiet", "--out", p.dir + "/here")
    check(rc == 0 and out == "" and err == "", f"quiet: {rc} {out!r} {err!r}")
    check(os.path.exists(p.dir + "/here/evidence.jsonl"), "--out")
    rc, out, err = p.run("run", p.scenario(PAUSE), "--out", p.dir + "/here")
    check(rc == 5 and "exist" in err.lower(), f"a folder with a run in it was used again: {rc} {err}")
    rc, out, err = p.run("run", p.scenario(PAUSE), "--json")
    check(rc == 0 and json.loads(out)["result"]["verdict"] == "pass", f"--json: {rc} {out[:300]}")
