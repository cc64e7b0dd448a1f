#!/usr/bin/env python3
"""Processes that are gone by the time that squalld looks at where they called from: others there are taken all the same."""
import os
import signal
import sys

from attach_lib import Attached, Program
from injector_lib import until
from intercept_lib import Dependency, main
from netns_lib import Net, makers, there

SPACES = 16  # SQ_SPACES

# In the program: a child that goes to the namespace and makes calls there; one that stays, or one for a single call.
CHILDREN = r"""
import builtins, ctypes
def enter(name):
    with open("/run/netns/" + name) as f:
        if ctypes.CDLL(None).setns(f.fileno(), 0x40000000): os._exit(9)
def serve(ns, r, w):
    enter(ns)
    for line in r:
        w.write(json.dumps(attempt(int(line))) + "\n"); w.flush()
def forked(what):
    # does WHAT with what it is told by lines, and its answers
    a, b = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        for fd in set(range(3, 256)) - {a[0], b[1]}:
            try: os.close(fd)
            except OSError: pass
        what(os.fdopen(a[0]), os.fdopen(b[1], "w"))
        os._exit(0)
    os.close(a[0]); os.close(b[1])
    return pid, os.fdopen(a[1], "w"), os.fdopen(b[0])
def child(ns):
    return forked(lambda r, w: serve(ns, r, w))
def call(c, port):
    c[1].write(f"{port}\n"); c[1].flush()
    return json.loads(c[2].readline())
def end(c):
    c[1].close(); c[2].close(); os.waitpid(c[0], 0)
"""


def short_lived(run_dir):
    """The first one that is seen lives, the second one does not: what the first one was for stays."""
    with Net() as net, there(net.c, Dependency) as one, there(net.c, Dependency) as two, Program(run_dir) as prog:
        rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{one.port}"])
        rig.declare("app->two", [f"127.0.0.1:{two.port}"])
        f = rig.fault("call/latency", {"delay": "200ms"})
        os.kill(rig.inj.pid, signal.SIGSTOP)
        try:
            got = prog.do(CHILDREN + f"""
stays, goes = child({net.c!r}), child({net.c!r})
builtins.stays = stays
result = [call(stays, {one.port}), call(goes, {two.port})]
end(goes)
""")
        finally:
            os.kill(rig.inj.pid, signal.SIGCONT)
        assert all(r["body"] == "real" for r in got), got
        until("sockets are made there", lambda: len(makers(rig.inj.pid)) == 1)
        r = prog.do(CHILDREN + f"result = call(builtins.stays, {one.port})")
        assert r["body"] == "real" and r["ms"] >= 190, r
        prog.do(CHILDREN + "end(builtins.stays); result = 0")
        rig.clear(f)
        rig.end()


# A child in a network namespace of its own, with a dependency there.
ALONE = CHILDREN + r"""
import threading
def alone(port):
    def what(r, w):
        if ctypes.CDLL(None).unshare(0x40000000): os._exit(9)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        s = socket.create_server(("127.0.0.1", port))
        def serve():
            while True:
                c = s.accept()[0]; c.recv(4096); c.sendall(b"HTTP/1.0 200 OK\r\n\r\nreal"); c.close()
        threading.Thread(target=serve, daemon=True).start()
        for line in r:
            w.write(json.dumps(attempt(port)) + "\n"); w.flush()
    return forked(what)
"""


def room(run_dir):
    """One more namespace than the proxy can be in: it is in that one, too, when another one is empty."""
    with Program(run_dir) as prog:
        port = 7777
        rig = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{port}"])
        f = rig.fault("call/latency", {"delay": "200ms"})
        prog.do(ALONE + f"builtins.all = [alone({port}) for _ in range({SPACES + 1})]; result = 0", 60)
        # The first call from each may go past.
        assert all(r["body"] == "real" for r in prog.do(ALONE + "result = [call(c, 0) for c in builtins.all]", 60))
        until("the proxy is in all that it can be", lambda: len(makers(rig.inj.pid)) == SPACES)
        slow = prog.do(ALONE + "result = [call(c, 0)['ms'] >= 190 for c in builtins.all]", 60)
        assert slow.count(False) == 1, slow
        out = slow.index(False)
        gone = (out + 1) % len(slow)
        prog.do(ALONE + f"end(builtins.all[{gone}]); result = 0")
        until("there is room for the last one", lambda: prog.do(
            ALONE + f"result = call(builtins.all[{out}], 0)")["ms"] >= 190, 20)
        prog.do(ALONE + f"[end(c) for i, c in enumerate(builtins.all) if i != {gone}]; result = 0")
        rig.clear(f)
        rig.end()


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("needs root")
        sys.exit(77)
    main([short_lived, room])
