#!/usr/bin/env python3
"""The packet backend when somebody dies or hangs: traffic flows at once, and nothing is left. (At random moments:
23-packet-moments.py.)"""
import os
import signal
import time

from packet_lib import (V4, Echo, Injector, Stream, Wire, configured, end_fault, faults, flows_after, gone_clean, main, packet_processes,
                        sweep, takes, udp, until)
from injector_lib import alive

CLSACT = {"SQUALL_PACKET_ATTACH": "clsact"}
DELAY = {"delay": "30ms"}


def process_killed(run_dir):
    for env in ({}, CLSACT):
        with Wire("kill") as w:
            before = configured(w.a, w.b)
            inj = Injector(run_dir, env=env)
            run = inj.run(lease="60s")
            fault = faults(inj, run, w.a, DELAY)
            stream = Stream(w, 2000)
            until("datagrams arrive", lambda: len(stream.got) > 200)
            held = [stream.got[n] - stream.sent[n] for n in sorted(stream.got)]
            assert min(held[20:]) > 0.029, min(held[20:])
            pid, = packet_processes(run_dir)
            os.kill(pid, signal.SIGKILL)
            flows_after(stream, time.monotonic())
            stream.end()
            until("squalld says so", lambda: [e for e in inj.get(f"runs/{run}/events?after=0")["events"]
                                              if e["type"] == "packet" and e["state"] == "died" and "SIGKILL" in e["why"]])
            until("the filter is gone", lambda: not any("squall" in x for x in configured(w.a).split("\n")))
            status, body = inj.call("POST", f"runs/{run}/faults", {"uses": "network/impair", "with": {
                "delay": "1ms", "backend": "packet"}, "target": {"interface": "v0", "namespace": w.a, "direction": "egress"}})
            assert status >= 500 and "dead" in body["error"]["message"], (status, body)
            inj.delete(f"runs/{run}/faults/{fault}")
            run2 = inj.run(lease="60s")
            faults(inj, run2, w.a, DELAY)  # with the last of the old ones a new process may come
            echo = Echo(w.b, V4[1])
            takes(w.a, V4[1], 30)
            echo.close()
            inj.post("quit")
            assert inj.wait(30) == 0
            gone_clean(w, before, inj)


def process_stopped(run_dir):
    for env in ({}, CLSACT):
        with Wire("stop") as w:
            before = configured(w.a, w.b)
            inj = Injector(run_dir, env=env)
            run = inj.run(lease="60s")
            fault = faults(inj, run, w.a, DELAY)
            stream = Stream(w, 2000)
            until("datagrams arrive", lambda: len(stream.got) > 200)
            pid, = packet_processes(run_dir)
            os.kill(pid, signal.SIGSTOP)
            t0 = time.monotonic()
            flows_after(stream, t0, 0.5)
            until("squalld ends it", lambda: not alive(pid))
            stream.end()
            until("squalld says so", lambda: [e for e in inj.get(f"runs/{run}/events?after=0")["events"]
                                              if e["type"] == "packet" and e["state"] == "died"])
            inj.delete(f"runs/{run}/faults/{fault}")
            over, = [e for e in inj.get(f"runs/{run}/events?after=0")["events"] if e.get("state") == "reverted"]
            # What passed it by was not hit. (Neighbours' packets count, too.)
            led = sum(sent < t0 + 0.5 for sent in stream.sent)
            assert 200 < over["packets"] < led + 50 < len(stream.sent), (over, led, len(stream.sent))
            inj.post("quit")
            assert inj.wait(30) == 0
            gone_clean(w, before, inj)


def squalld_killed(run_dir):
    for env in ({}, CLSACT):
        with Wire("sqk") as w:
            before = configured(w.a, w.b)
            inj = Injector(run_dir, env=env)
            faults(inj, inj.run(lease="60s"), w.a, DELAY, "both")
            stream = Stream(w, 2000)
            until("datagrams arrive", lambda: len(stream.got) > 200)
            os.kill(inj.pid, signal.SIGKILL)
            killed = time.monotonic()
            flows_after(stream, killed)
            lost = [round(stream.sent[n] - killed, 4) for n in stream.end()]
            # Taking clsact out makes the kernel drop for a moment (net/sched/sch_api.c: dev_deactivate).
            assert len(lost) <= (100 if env else 1), f"an orderly end loses nothing: sent, relative to the kill: {lost}"
            assert inj.wait(30) == 5
            gone_clean(w, before, inj)


def both_killed(run_dir):
    """With a stopped process beside: then nobody is left to end it, but the next start of Squall."""
    for env in ({}, CLSACT):
        with Wire("both") as w:
            before = configured(w.a, w.b)
            inj = Injector(run_dir, env=env)
            faults(inj, inj.run(lease="60s"), w.a, DELAY, "both")
            stream = Stream(w, 2000)
            until("datagrams arrive", lambda: len(stream.got) > 200)
            os.kill(inj.keeper, signal.SIGKILL)
            os.kill(inj.pid, signal.SIGKILL)
            flows_after(stream, time.monotonic())
            stream.end()
            inj.proc.wait(20)
            until("the process has left", lambda: not packet_processes(run_dir))
            sweep(run_dir, inj)
            gone_clean(w, before, inj)


def all_killed(run_dir):
    """Keeper, squalld and the packet process in one moment: what is left of it in the kernel lets everything pass."""
    for env in ({}, CLSACT):
        with Wire("all") as w:
            before = configured(w.a, w.b)
            inj = Injector(run_dir, env=env)
            faults(inj, inj.run(lease="60s"), w.a, DELAY, "both")
            stream = Stream(w, 2000)
            until("datagrams arrive", lambda: len(stream.got) > 200)
            for pid in (inj.keeper, inj.pid, *packet_processes(run_dir)):
                os.kill(pid, signal.SIGKILL)
            flows_after(stream, time.monotonic())
            stream.end()
            inj.proc.wait(20)
            sweep(run_dir, inj)
            gone_clean(w, before, inj)


def killed_while_draining(run_dir):
    """squalld and keeper, when the last fault on lo has ended and its packets are still on their way: the sysctls that
    these need are owed until then, and the next start puts them back."""
    for env in ({}, CLSACT):
        with Wire("drn") as w:
            before = configured(w.a, w.b)
            inj = Injector(run_dir, env=env)
            run = inj.run(lease="60s")
            f = faults(inj, run, w.a, {"delay": "4s"}, dev="lo")
            with udp(w.a, "127.0.0.1") as s:
                for _ in range(3):
                    s.sendto(b"on its way", ("127.0.0.1", 9))
            end_fault(inj, run, f)
            assert configured(w.a, w.b) != before, "it drains"
            for pid in (inj.keeper, inj.pid):
                os.kill(pid, signal.SIGKILL)
            inj.proc.wait(20)
            until("the process has left", lambda: not packet_processes(run_dir))
            assert configured(w.a, w.b) != before, "nobody was left to put them back"
            sweep(run_dir, inj)
            gone_clean(w, before, inj)


def hung_and_killed(run_dir):
    with Wire("hung") as w:
        before = configured(w.a, w.b)
        inj = Injector(run_dir)
        faults(inj, inj.run(lease="60s"), w.a, DELAY, "both")
        pid, = packet_processes(run_dir)
        os.kill(pid, signal.SIGSTOP)
        os.kill(inj.pid, signal.SIGKILL)
        assert inj.wait(30) == 5
        until("it is gone", lambda: not alive(pid))
        gone_clean(w, before, inj)


if __name__ == "__main__":
    main([process_killed, process_stopped, squalld_killed, both_killed, all_killed, killed_while_draining, hung_and_killed])
