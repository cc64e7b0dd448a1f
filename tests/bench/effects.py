"""What faults do to packets, netem and the packet backend side by side, as a table: tests/vm/effects.py by netem in the test
kernel, by the packet backend there, too, and on this host.
  tests/bench/effects.sh      as root; SQUALL_BUILD names the binaries' directory"""
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("SQUALL_BUILD", os.path.join(ROOT, "build")))
EFFECTS = os.path.join(ROOT, "tests/vm/effects.py")
VM = [os.path.join(ROOT, "tests/vm/run"), "/usr/bin/python3", EFFECTS]
COLUMNS = {"netem, Linux 6.1": VM + ["netem"], "packet, Linux 6.1": VM + ["packet"],
           f"packet, Linux {'.'.join(os.uname().release.split('.')[:2])}": [sys.executable, EFFECTS, "packet"]}


def measured(command):
    r = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=600, env=dict(os.environ, SQUALL_BUILD=BUILD))
    lines = [json.loads(x) for x in r.stdout.split("\n") if x.startswith('{"what"')]
    return {x["what"]: x for x in lines}, r


def cell(x):
    if x is None:
        return "-"
    return f"{json.dumps(x['got']).strip('[]')}{'' if x['ok'] else ' (not ok)'}"


def main():
    got, bad = {}, 0
    for name, command in COLUMNS.items():
        got[name], r = measured(command)
        bad += r.returncode != 0
        if not got[name]:
            sys.exit(f"{name}: exit {r.returncode}: {r.stdout[-2000:]}")
    print("| measured | asked | " + " | ".join(COLUMNS) + " |")
    print("| --- | ---: |" + " ---: |" * len(COLUMNS))
    for what in dict.fromkeys(w for column in got.values() for w in column):
        asked = next(column[what]["asked"] for column in got.values() if what in column)
        asked = asked if isinstance(asked, str) else json.dumps(asked).strip("[]")
        print(f"| {what} | {asked} | " + " | ".join(cell(column.get(what)) for column in got.values()) + " |")
    sys.exit(bad != 0)


if __name__ == "__main__":
    main()
