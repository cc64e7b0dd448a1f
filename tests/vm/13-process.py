#!/usr/bin/env python3
"""Who is out of the OOM killer's reach. The container that the other tests often run in may not lower a score; here root may."""
import vm

vm.boot(__file__)
from squall import *  # noqa: E402,F403


def score(pid):
    with open(f"/proc/{pid}/oom_score_adj") as f:
        return int(f.read())


host = Host()
inj = Injector(host)
squalld, keeper = host.by_name("squalld"), host.by_name("squall-keeper")
if len(squalld) != 1 or len(keeper) != 1:
    die(f"squalld {squalld}, keeper {keeper}")
if [score(squalld[0]), score(keeper[0])] != [-1000, -1000]:
    die(f"squalld {score(squalld[0])}, keeper {score(keeper[0])}")
run = inj.api.call("POST", "/v1/runs", {"name": "oom", "lease": "30s"}, 201)["run"]
got = inj.api.call("POST", f"/v1/runs/{run}/services", {"name": "sleeper", "command": ["sleep", "60"]}, 201)
pid = got["instances"][0]["pid"]
end = time.monotonic() + 15
while score(pid) != 0 and time.monotonic() < end:  # it is forked first, and lowers nothing
    time.sleep(0.05)
if score(pid) != 0:
    die(f"a service: {score(pid)}")
if inj.quit() != 0:
    die("squalld did not end well")
left = wait_clean(host, 5)
host.close()
if left:
    die(f"left: {left}")
print("squalld and keeper -1000, the service 0")
