#!/usr/bin/env python3
"""Who holds connections to --metrics keeps nobody out; and a user who may open the API's socket sees the metrics of its
own runs only. Two injectors whose directories have the same name do not share their cgroups: the second one is refused."""
import http.client
import os
import socket
import subprocess
import sys
import time

import injector_lib
from injector_lib import Injector, Unix, main, until

NOBODY = 65534


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def dial(port):
    """Its queue may be full for a moment."""
    got = []

    def once():
        try:
            got.append(socket.create_connection(("127.0.0.1", port), timeout=10))
        except OSError:
            return False
        return True
    until("somebody listens", once, 10)
    return got[0]


def held(run_dir):
    port = free_port()
    inj = Injector(run_dir, args=["--metrics", f"127.0.0.1:{port}"])
    conns = [dial(port) for _ in range(70)]
    for c in conns[::2]:
        c.sendall(b"GET /metr")  # a request that never ends
    for _ in range(3):
        t = time.monotonic()
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        c.sock = dial(port)
        c.request("GET", "/metrics")
        r = c.getresponse()
        assert r.status == 200 and b"squall_build_info" in r.read()
        took = time.monotonic() - t
        assert took < 10, took  # it was 30 s: when they had been idle for so long
        c.close()
        conns += [dial(port) for _ in range(10)]
    inj.post("quit")
    inj.wait()


def as_nobody(path):
    """/v1/metrics, asked by nobody."""
    code = ("import http.client, socket, sys\n"
            "c = http.client.HTTPConnection('x'); c.sock = socket.socket(socket.AF_UNIX); c.sock.connect(sys.argv[1])\n"
            "c.request('GET', '/v1/metrics'); print(c.getresponse().read().decode())")
    return subprocess.run(["/usr/bin/python3", "-c", code, path], user=NOBODY, group=NOBODY, extra_groups=[], check=True,
                          capture_output=True, text=True).stdout


def own(run_dir):
    inj = Injector(run_dir)
    run = inj.run()
    inj.post(f"runs/{run}/edges", {"name": "app->secret", "from": "app", "to": ["127.0.0.1:9"]})
    os.chmod(run_dir, 0o755)
    os.chmod(inj.dir, 0o755)
    os.chmod(inj.socket, 0o666)
    c = Unix(inj.socket)
    c.request("GET", "/v1/metrics")
    assert "app->secret" in c.getresponse().read().decode()
    text = as_nobody(inj.socket)
    assert "squall_build_info" in text and "app->secret" not in text, text
    inj.delete(f"runs/{run}")
    inj.post("quit")
    inj.wait()


def same_name(run_dir):
    dirs = [os.path.join(run_dir, d) for d in "ab"]
    for d in dirs:
        os.mkdir(d)
    name = f"p-same-{os.getpid():x}"
    inj = Injector(dirs[0], name)
    run = inj.run()
    got = inj.post(f"runs/{run}/services", {"name": "s", "command": ["sleep", "100"], "instances": 1})
    pid, cgroup = got["instances"][0]["pid"], got["instances"][0]["cgroup"]
    if not cgroup:
        print("     no cgroups here: nothing is shared")
    else:
        p = subprocess.run([injector_lib.SQUALLD, "--dir", os.path.join(dirs[1], name), "--private"],
                           env=dict(os.environ, SQUALL_RUN_DIR=dirs[1]), capture_output=True, text=True, timeout=20)
        assert p.returncode == 5 and "another injector that is called" in p.stderr, p
        assert not os.listdir(dirs[1]), os.listdir(dirs[1])
        # One by that name that died in the other directory: its sweep leaves alone who lives.
        os.mkdir(os.path.join(dirs[1], name))
        with open(os.path.join(dirs[1], name, "lock"), "w"):
            pass
        subprocess.run([injector_lib.SQUALLD, "sweep"], env=dict(os.environ, SQUALL_RUN_DIR=dirs[1]), check=True, timeout=20)
        assert not os.listdir(dirs[1]) and os.path.isdir(cgroup) and os.path.exists(f"/proc/{pid}")
    inj.delete(f"runs/{run}")
    inj.post("quit")
    inj.wait()
    # And then its name is free.
    other = Injector(dirs[1], name)
    other.post("quit")
    other.wait()


if os.geteuid() != 0:
    print("skipped: it needs root")
    sys.exit(0)
main([held, own, same_name])
