#!/usr/bin/env python3
"""squall baseline and squall compare on real runs: nothing changed is no regression, 30 % slower blocks, too few runs and an
accepted regression are said to be so. The server waits by its own clock, long enough that a busy host does
not hide 30 %: what is compared is what the probe measured."""
import json, os, subprocess, sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from squall import *

SERVER = r"""
import asyncio, sys
delay = float(sys.argv[2]) / 1000
async def serve(reader, writer):
    try:
        while (await reader.readuntil(b"\r\n\r\n")):
            await asyncio.sleep(delay)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1])) as s:
        await s.serve_forever()
asyncio.run(main())
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


host = Host()
scenario = os.path.join(host.dir, "perf.yaml")
with open(os.path.join(host.dir, "server.py"), "w") as f:
    f.write(SERVER)
with open(scenario, "w") as f:
    f.write(f"""apiVersion: squall/v1
kind: Scenario
metadata: {{name: perf}}
vars: {{ms: "100"}}
spec:
  services:
    web: {{command: [{json.dumps(sys.executable)}, server.py, "${{port}}", "${{ms}}"], port: {free_port()}, ready: {{tcp: true}}}}
    idle: {{command: [sleep, "1000"]}}
  load:
    page: {{executor: constant-arrival-rate, rate: 100/s, request: {{url: "http://127.0.0.1:${{web}}/"}}}}
  lateness: {{over: 100ms, share: 5%}}
  steady_state: {{for: 1s, thresholds: ["error_rate<50%"]}}
  steps: [{{id: k, uses: process/kill, target: {{service: idle}}, duration: 10ms}}]
""".replace("${web}", "PORT"))
with open(scenario) as f:
    text = f.read()
port = text.split("port: ")[1].split(",")[0]
with open(scenario, "w") as f:
    f.write(text.replace("PORT", port))


def squall(*args, code=0):
    got = subprocess.run([SQUALL, *args], env=host.env, cwd=host.dir, capture_output=True, text=True)
    if got.returncode != code:
        die(f"squall {' '.join(args)}: exit {got.returncode}, not {code}\n{got.stdout}{got.stderr}")
    return got.stdout + got.stderr


def rows(*args, code):
    return {(r["endpoint"], r["metric"]): r for r in json.loads(squall("compare", "--json", *args, code=code))["rows"]}


squall("baseline", "-o", "old.json", "--runs", "8", "--keep", "old", scenario)
squall("baseline", "-o", "slow.json", "--runs", "8", "--keep", "slow", "--var", "ms=130", scenario)
with open(os.path.join(host.dir, "old.json")) as f:
    old = json.load(f)
if len(old["runs"]) != 8 or not all(100e6 <= r["values"]["page"]["p50"] < 160e6 for r in old["runs"]):
    die(f"the baseline is not what was measured: {old}")

# A folder of runs and the file made of it are the same: nothing changed.
got = rows("old.json", "old", "-m", "p50", code=0)
if got["page", "p50"]["outcome"] != "same" or got["page", "p50"]["change"] != 0:
    die(f"compared with itself: {got}")
got = rows("old.json", "slow.json", "-m", "p50", code=1)["page", "p50"]
if got["outcome"] != "block" or not 20 < got["change"] < 40 or not got["interval"][0] > 10 or got["p_adjusted"] > 0.001:
    die(f"30 ms of 100 more: {got}")
if rows("slow.json", "old.json", "-m", "p50", code=0)["page", "p50"]["outcome"] != "better":
    die("30 ms less is not better")
# One run a side decides nothing, however far apart.
got = rows("old/001", "slow/001", "-m", "p50", code=3)["page", "p50"]
if got["outcome"] != "inconclusive" or "8 a side" not in got["why"]:
    die(f"one run a side: {got}")
# Somebody accepted it; then the day is over.
for until, code, outcome in (("2999-12-31", 0, "accepted"), ("2020-01-01", 1, "block")):
    with open(os.path.join(host.dir, "accept.yaml"), "w") as f:
        f.write(f"accept:\n  - {{metric: latency_p50, endpoint: page, reason: signing is new, by: ana, until: {until}}}\n")
    got = rows("old.json", "slow.json", "-m", "p50", "--accept", "accept.yaml", code=code)["page", "p50"]
    if got["outcome"] != outcome or "ana" not in got["why"]:
        die(f"accepted until {until}: {got}")
with open(os.path.join(host.dir, "accept.yaml"), "w") as f:
    f.write("accept: [{metric: p50, by: ana, until: 2999-12-31}]\n")
if "reason" not in squall("compare", "old.json", "slow.json", "--accept", "accept.yaml", code=2):
    die("an acceptance without a reason was taken")
table = squall("compare", "old.json", "slow.json", code=1)
if "block" not in table or "p50" not in table or "throughput" not in table:
    die(table)
for args in (("compare", "none", "old.json"), ("compare", "perf.yaml", "old.json"), ("compare", "old.json", "old.json", "--p", "7")):
    squall(*args, code=2)
host.close()
print(table)
