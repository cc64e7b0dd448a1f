#!/usr/bin/env python3
"""Programs that call in odd ways: io_uring, MSG_FASTOPEN, sendmsg and sendmmsg, a 32-bit program, vfork children, a
setuid program, a process with a seccomp filter of its own, a socket made before the fork, many threads, storms of
signals. Each is covered, and each call is counted once, or it is refused with a clear reason: by cgroup-BPF, and by
seccomp as root without cgroups and as an ordinary user."""
import json
import os
import shutil
import subprocess
import sys

from injector_lib import BUILD, until
from intercept_lib import NO_BPF, Dependency, Rig, Without, main

USER = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
HERE = os.path.dirname(os.path.abspath(__file__))
ODD = os.path.join(BUILD, "tests/live/odd")
UNREACHABLE = 113


class Odd(Rig):
    """A caller that runs odd programs, and what became of their calls."""

    def __init__(self, run_dir, way):
        self.dep = Dependency()
        self.way = way
        os.chmod(run_dir, 0o755)
        if way == "user":
            os.chown(run_dir, 65534, 65534)
        inj = None if way == "bpf" else Without(run_dir, USER if way == "user" else NO_BPF)
        super().__init__(run_dir, [f"127.0.0.1:{self.dep.port}"], mode="bpf" if way == "bpf" else "seccomp",
                         injector=inj)
        self.program = os.path.join(run_dir, "odd")
        shutil.copy(ODD, self.program)
        os.chmod(self.program, 0o755)
        self.answered = self.failed = 0

    def odd(self, *args, program=None, user=None):
        argv = [program or self.program, *[str(a) for a in args]]
        argv.insert(2 if program is None else 1, str(self.dep.port))
        got = self.do(f"p = subprocess.run({argv!r}, capture_output=True, text=True, user={user!r});"
                      " result = [p.returncode, p.stdout, p.stderr]")
        if program is not None:
            return got[0]
        assert got[0] == 0, got
        return json.loads(got[1])

    def counted(self, answered=0, failed=0):
        """So many calls more were answered, and failed by the fault, and none was anything else."""
        self.answered += answered
        self.failed += failed

        def now():
            calls = self.calls()
            return (sum(c[1] == 0 and c[2] == 0 for c in calls), sum(c[1] == 1 and c[2] == 1 for c in calls), len(calls))
        want = (self.answered, self.failed, self.answered + self.failed)
        try:
            until("every call is counted once", lambda: now() == want)
        except AssertionError:
            raise AssertionError(f"calls (answered, failed, all) are {now()} instead of {want}: {self.calls()[-5:]}")

    def both(self, run, calls=1, check=lambda got: None):
        """Answered without a fault; failed, once each, with one."""
        got = run()
        assert got["err"] == 0, got
        check(got)
        self.counted(answered=calls)
        f = self.fault("call/error", {"errno": "EHOSTUNREACH"})
        got = run()
        assert got["err"] == (UNREACHABLE if calls == 1 else calls), got
        self.counted(failed=calls)
        self.clear(f)

    def end(self):
        super().end()
        self.dep.__exit__()


def uring(rig):
    """Where seccomp takes the calls, new rings are refused as by a kernel without them: programs fall back."""
    if open("/proc/sys/kernel/io_uring_disabled").read().strip() == "2":
        print("     (io_uring is disabled on this host)")
        return
    setup = 0 if rig.way == "bpf" else 38
    rig.both(lambda: rig.odd("uring"), check=lambda got: got["setup"] == setup or 1 / 0)


def fastopen(rig):
    on = int(open("/proc/sys/net/ipv4/tcp_fastopen").read()) & 1
    for how in ("sendto", "sendmsg", "sendmmsg"):
        # Not blocking, it is a connect that has begun, as the kernel has it without a cookie.
        def check(got):
            assert got["first"] == (115 if on else 95), got
        rig.both(lambda: rig.odd(how, 1), check=check)
        # Blocking, seccomp can't send the data with the SYN, and says what a kernel without the option says.
        def check_blocking(got):
            assert got["first"] == (0 if rig.way == "bpf" and on else 95), got
        rig.both(lambda: rig.odd(how, 0), check=check_blocking)


def datagrams(rig):
    f = rig.fault("call/error", {"errno": "EHOSTUNREACH"})
    got = rig.odd("datagrams")
    assert got == {"err": 0, "got": 4}, got
    rig.clear(f)
    rig.counted()


def processes(rig):
    rig.both(lambda: rig.odd("vfork"))
    rig.both(lambda: rig.odd("beforefork"))


def setuid(rig):
    """A setuid program is covered. Under no_new_privs, which seccomp needs where it is not root that calls, it does not
    become root: what SCENARIO.md says of it."""
    if rig.way == "user":
        # The kernel gives no privilege to anything below this caller.
        assert rig.do("result = open('/proc/self/status').read().count('NoNewPrivs:\\t1')") == 1
        rig.both(lambda: rig.odd("ids"), check=lambda got: got["euid"] == 65534 or 1 / 0)
        return
    os.chmod(rig.program, 0o4755)
    rig.both(lambda: rig.odd("ids", user=65534), check=lambda got: got["euid"] == 0 or 1 / 0)


def setuid_of_a_user(run_dir):
    """The same program, really setuid, for a caller under no_new_privs."""
    program = os.path.join(run_dir, "odd")
    shutil.copy(ODD, program)
    rig = Odd(run_dir, "user")
    os.chown(program, 0, 0)
    os.chmod(program, 0o4755)
    rig.both(lambda: rig.odd("ids"), check=lambda got: got["euid"] == 65534 or 1 / 0)
    rig.end()


def filters(rig):
    """What a program's own filter refuses is not a call any more. Only one supervisor can be there."""
    got = rig.odd("filter")
    assert got == {"loaded": 0, "err": 1}, got  # ERRNO is stronger than USER_NOTIF, and earlier than BPF
    rig.counted()
    got = rig.odd("listener")
    assert got == {"loaded": 0 if rig.way == "bpf" else 16, "err": 0}, got
    rig.counted(answered=1)


def many_threads(rig):
    rig.both(lambda: rig.odd("threads", 50), calls=500)


def storm(rig):
    n = 150
    rig.both(lambda: rig.odd("storm", n), calls=n)
    f = rig.fault("call/latency", {"delay": "20ms"})
    got = rig.odd("storm", 20)
    assert got["err"] == 0 and got["alarms"] > 50, got
    rig.counted(answered=20)
    rig.clear(f)


def i386(rig):
    program = os.path.join(rig.run_dir, "i386")
    made = subprocess.run(["gcc", "-m32", "-O1", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-fno-stack-protector",
                           "-fno-asynchronous-unwind-tables", "-o", program, os.path.join(HERE, "odd/i386.c")],
                          capture_output=True, text=True)
    runs = made.returncode == 0
    if runs:
        try:
            subprocess.run([program, "1", "c"])
        except OSError:  # a kernel without IA32 emulation
            runs = False
    if not runs:
        assert os.uname().machine != "x86_64" or made.returncode == 0, made.stderr
        print("     (no 32-bit programs here)")
        return
    for how in "cCtmnTMN":
        rig.both(lambda: {"err": rig.odd(how, program=program)})


def another_supervisor(run_dir):
    """Squall started below another seccomp supervisor can't launch under one of its own, and says so."""
    script = os.path.join(run_dir, "below.py")
    with open(script, "w") as f:
        f.write('import ctypes, os, struct, sys\n'
                'code = struct.pack("HBBI", 6, 0, 0, 0x7fff0000)\n'  # allow everything, with a listener
                'buf = ctypes.create_string_buffer(code)\n'
                'prog = struct.pack("HxxxxxxP", 1, ctypes.addressof(buf))\n'
                'fd = ctypes.CDLL(None).syscall(317 if os.uname().machine == "x86_64" else 277, 1, 8, prog)\n'
                'os.set_inheritable(fd, True); os.execvp(sys.argv[1], sys.argv[1:])\n')
    with Dependency() as dep:
        inj = Without(run_dir, [sys.executable, script] + NO_BPF)
        try:
            run = inj.run()
            inj.post(f"runs/{run}/edges", {"name": "e", "from": "app", "to": [f"127.0.0.1:{dep.port}"]})
            status, got = inj.call("POST", f"runs/{run}/services", {"name": "app", "command": ["sleep", "1"]})
            assert status >= 400 and "already intercepted by another seccomp supervisor" in json.dumps(got), (status, got)
            assert inj.delete(f"runs/{run}")["clean"]
        finally:
            inj.end()


def each(run_dir, way):
    rig = Odd(run_dir, way)
    for test in (uring, fastopen, datagrams, processes, filters, many_threads, storm, i386, setuid):
        try:
            test(rig)
        except Exception as e:
            raise AssertionError(f"{test.__name__}: {e}") from e
    rig.end()


def bpf(run_dir):
    each(run_dir, "bpf")


def seccomp(run_dir):
    each(run_dir, "root")


def seccomp_of_a_user(run_dir):
    each(run_dir, "user")


if os.geteuid() != 0:
    print("skipped: it changes users")
    sys.exit(0)
main([bpf, seccomp, seccomp_of_a_user, setuid_of_a_user, another_supervisor])
