#!/usr/bin/env python3
"""Services and edges under squalld: faults on them end at once when squalld dies, they themselves when the lease ends."""
import http.server
import os
import signal
import threading
import time

from injector_lib import Injector, alive, main, state, until

CLIENT = """
import sys, time, http.client
port, log = int(sys.argv[1]), sys.argv[2]
out = open(log, "w", buffering=1)
while True:
    t0 = time.monotonic()
    try:
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
        c.request("GET", "/")
        code = c.getresponse().status
        c.close()
    except OSError as e:
        code = e.errno or type(e).__name__
    out.write(f"{time.monotonic()} {time.monotonic() - t0:.4f} {code}\\n")
    time.sleep(0.02)
"""


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *unused):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *unused):
        pass  # resets are what these tests are about


def server():
    s = Server(("127.0.0.1", 0), Quiet)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s, s.server_address[1]


def sleeper(inj, run, n=2):
    got = inj.post(f"runs/{run}/services", {"name": "s", "command": ["/bin/sleep", "300"], "instances": n})
    return got["instances"]


def cgroup_gone(instances):
    return all(i["cgroup"] is None or not os.path.exists(i["cgroup"]) for i in instances)


def end_with_run(run_dir):
    inj = Injector(run_dir)
    run = inj.run()
    inst = sleeper(inj, run)
    assert [i["name"] for i in inst] == ["s.0", "s.1"], inst
    snap = inj.get(f"runs/{run}/snapshot")
    assert snap["journal"] == 2, snap
    if os.geteuid() == 0 and inst[0]["cgroup"]:
        assert len(snap["cgroups"]) >= 2, snap
    inj.post(f"runs/{run}/faults", {"uses": "process/pause", "target": {"service": "s", "instance": 1}})
    assert [s["instance"] for s in inj.get(f"runs/{run}/snapshot")["stopped"]] == ["s.1"]
    assert inj.delete(f"runs/{run}") == {"clean": True, "left": []}
    assert not any(alive(i["pid"]) for i in inst) and cgroup_gone(inst)
    snap = inj.get("snapshot")
    assert snap["journal"] == 0 and not snap.get("cgroups"), snap
    inj.post("quit")
    assert inj.wait() == 0


def end_with_lease(run_dir):
    inj = Injector(run_dir)
    inst = sleeper(inj, inj.run(lease="1s"))
    until("services end with the lease", lambda: not any(alive(i["pid"]) for i in inst), 4)
    assert inj.wait() == 0
    assert cgroup_gone(inst) and not os.path.exists(inj.dir)


def killed(run_dir, whom, sig):
    inj = Injector(run_dir)
    run = inj.run(lease="4s")
    inst = sleeper(inj, run)
    t0 = time.monotonic()
    inj.post(f"runs/{run}/renew")
    inj.post(f"runs/{run}/faults", {"uses": "process/pause", "target": {"service": "s", "count": "all"}})
    os.kill(inj.pid if whom == "squalld" else inj.keeper, sig)
    if whom == "squalld":
        until("the keeper lets them go", lambda: inj_frozen(inst) == 0, 1 if sig == signal.SIGKILL else 3.5)
        assert all(alive(i["pid"]) for i in inst)  # the lease has not ended
    until("services end with the lease", lambda: not any(alive(i["pid"]) for i in inst), 6)
    assert time.monotonic() - t0 < 6.5
    inj.wait()
    until("no cgroup and no directory is left", lambda: cgroup_gone(inst) and not os.path.exists(inj.dir), 3)


def inj_frozen(inst):
    n = 0
    for i in inst:
        if state(i["pid"]) == "T":
            n += 1
        elif i["cgroup"]:
            with open(os.path.join(i["cgroup"], "cgroup.events")) as f:
                n += "frozen 1" in f.read()
    return n


def squalld_killed(run_dir):
    killed(run_dir, "squalld", signal.SIGKILL)


def squalld_stopped(run_dir):
    killed(run_dir, "squalld", signal.SIGSTOP)


def keeper_killed(run_dir):
    killed(run_dir, "keeper", signal.SIGKILL)


def lines(log):
    with open(log) as f:
        return [l.split() for l in f.read().splitlines() if len(l.split()) == 3]


def client(inj, run, port, log):
    edge = {"name": "c->d", "from": "c", "to": [f"127.0.0.1:{port}"], "protocol": "auto"}
    mode = inj.post(f"runs/{run}/edges", edge)["mode"]
    inj.post(f"runs/{run}/services", {"name": "c", "command": ["/usr/bin/python3", "-c", CLIENT, str(port), log],
                                      "instances": 1})
    until("the client calls", lambda: os.path.exists(log) and len(lines(log)) > 10, 10)
    return mode


def edge_survives(run_dir):
    """Under a call fault squalld is killed: the fault ends, and no call fails with ENOSYS or hangs."""
    srv, port = server()
    inj = Injector(run_dir)
    run = inj.run(lease="4s")
    log = os.path.join(run_dir, "log")
    client(inj, run, port, log)
    assert {l[2] for l in lines(log)} == {"200"}, lines(log)[:5]
    inj.post(f"runs/{run}/faults", {"uses": "call/error", "target": {"edge": "c->d"}, "with": {"errno": "ECONNREFUSED"}})
    until("calls are refused", lambda: lines(log)[-1][2] == "111", 3)
    inj.post(f"runs/{run}/renew")
    os.kill(inj.pid, signal.SIGKILL)
    until("calls are answered again", lambda: lines(log)[-1][2] == "200", 2)
    t0 = time.monotonic()
    time.sleep(1)
    after = [l for l in lines(log) if float(l[0]) > t0]
    assert after and {l[2] for l in after} == {"200"} and max(float(l[1]) for l in after) < 1, after
    assert all(l[2] in ("200", "111") for l in lines(log)), {l[2] for l in lines(log)}
    inj.wait()
    srv.shutdown()


def proxy_hangs(run_dir):
    """A stopped proxy is ended within some 2 s, and calls go direct."""
    srv, port = server()
    inj = Injector(run_dir)
    run = inj.run(lease="20s")
    log = os.path.join(run_dir, "log")
    client(inj, run, port, log)
    proxies = [e["pid"] for e in inj.get(f"runs/{run}/events")["events"] if e["type"] == "proxy" and e.get("pid")]
    assert proxies, inj.get(f"runs/{run}/events")["events"][:5]
    os.kill(proxies[0], signal.SIGSTOP)
    until("the keeper ends it", lambda: not alive(proxies[0]), 4)
    until("calls are answered", lambda: lines(log)[-1][2] == "200" and float(lines(log)[-1][0]) > time.monotonic() - 0.5, 5)
    inj.delete(f"runs/{run}")
    inj.post("quit")
    inj.wait()
    srv.shutdown()


main([end_with_run, end_with_lease, squalld_killed, squalld_stopped, keeper_killed, edge_survives, proxy_hangs])
