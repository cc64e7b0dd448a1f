#!/usr/bin/env python3
"""Datagrams when squalld or the proxy dies, and of a program that ran before."""
import os
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from attach_lib import Attached, Program
from dgram_lib import CALLER, Echo, rig
from injector_lib import alive, until
from intercept_lib import main


def test_deaths(run_dir):
    """kill -9 of squalld: sockets that are connected go on; of the proxy: what is new goes direct at once."""
    echo = Echo()
    r = rig(run_dir, echo)
    f = r.fault("call/loss", {"loss": "100%"})
    assert r.run("g = dial(); import builtins; builtins.kept = g\nresult = ask(g, timeout=0.3)")["err"] == 110
    proxy = r.proxy_pid()
    os.kill(r.inj.pid, signal.SIGKILL)
    again = "result = ask(__import__('builtins').kept, timeout=0.5)"
    until("the fault has ended", lambda: r.run(again)["err"] == 0, 10)
    assert alive(proxy)
    peer = echo.peers[-1]
    assert r.run("s = dial()\nresult = [ask(s), s.getsockname()]")[0]["err"] == 0
    assert echo.peers[-1] != peer
    time.sleep(13)  # the flow goes when it was idle, its port does not
    assert alive(proxy)
    assert r.run("result = ask(__import__('builtins').kept)")["err"] == 0
    r.run("__import__('builtins').kept.close()\nresult = 0")
    until("the proxy leaves when nobody is connected to it", lambda: not alive(proxy), 30)
    r.inj.end()


def test_proxy_death(run_dir):
    echo = Echo()
    r = rig(run_dir, echo)
    assert r.ask("ask(dial())")["err"] == 0
    os.kill(r.proxy_pid(), signal.SIGKILL)
    until("it is direct", lambda: r.run("""
s = dial(); u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(1)
me = s.getsockname()[1]; a = ask(s, timeout=1)
u.sendto(b"x", ("127.0.0.1", PORT)); u.recvfrom(10)
result = [a["err"], me, u.getsockname()[1]]""")[1:] == [p[1] for p in echo.peers[-2:]], 10)
    r.inj.end()


def test_running(run_dir):
    """A program that runs already, chosen by its pid: its datagrams are taken, those of another one are not."""
    echo = Echo()
    prog, other = Program(run_dir), Program(run_dir, "other")
    code = f"PORT={echo.port}\n" + CALLER
    r = Attached(run_dir, {"pid": prog.pid}, [f"127.0.0.1:{echo.port}"], protocol="udp")
    assert r.answer["mode"] == "bpf", r.answer
    f = r.fault("call/blackhole")
    both = """
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(0.5)
def unconnected():
    u.sendto(b"x", ("127.0.0.1", PORT))
    try: return list(u.recvfrom(10)[1])
    except socket.timeout: return 110
result = [ask(dial(), timeout=0.5)["err"], unconnected()]
"""
    assert prog.do(code + both) == [110, 110]
    assert other.do(code + both) == [0, ["127.0.0.1", echo.port]]
    r.clear(f)
    assert prog.do(code + both) == [0, ["127.0.0.1", echo.port]]
    until("they are counted", lambda: len(r.calls()) >= 2, 10)
    prog.end()
    other.end()
    r.end()


if __name__ == "__main__":
    main([test_deaths, test_proxy_death, test_running])
