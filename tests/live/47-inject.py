#!/usr/bin/env python3
"""A seccomp filter into programs that run already (attach: seccomp): Python, Node.js, Java, Go and C with threads go on as
if nothing had been, all of their threads are under it, and whatever dies, their calls are answered."""
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from injector_lib import BUILD, main, state, until

INJECT = os.path.join(BUILD, "tests/live/inject")
ODD = os.path.join(BUILD, "tests/live/odd")

# Each calls PORT again and again, from more than one thread where it has threads, while others of its threads compute,
# sleep, wait. Prints "ok", "refused" or what else came of each call, and "wrong" when a computation went wrong.
PROGRAMS = {
    "python": ["/usr/bin/python3", "-c", """
import hashlib, select, socket, sys, threading, time
def say(s): sys.stdout.write(s + "\\n"); sys.stdout.flush()
def burn():
    want = hashlib.sha256(b"x" * 100000).digest()
    while True:
        if hashlib.sha256(b"x" * 100000).digest() != want: say("wrong")
def nap():
    while True:
        t = time.monotonic(); time.sleep(0.02)
        if not 0.0199 <= time.monotonic() - t: say("wrong: slept %f" % (time.monotonic() - t))
def wait():
    e = select.epoll()
    while True:
        if e.poll(0.01) != []: say("wrong")
for f in (burn, nap, wait): threading.Thread(target=f, daemon=True).start()
def call():
    while True:
        c = socket.socket(); r = c.connect_ex(("127.0.0.1", int(sys.argv[1]))); c.close()
        say({0: "ok", 111: "refused"}.get(r, "error %d" % r)); time.sleep(0.005)
threading.Thread(target=call, daemon=True).start()
call()
"""],
    "node": ["node", "-e", """
const net = require('net'), crypto = require('crypto');
const h = () => crypto.createHash('sha256').update('x'.repeat(10000)).digest('hex'), want = h();
setInterval(() => { if (h() !== want) console.log('wrong'); }, 1);
const call = () => { const c = net.connect(+process.argv[1], '127.0.0.1', () => { console.log('ok'); c.destroy(); });
  c.on('error', e => console.log(e.code === 'ECONNREFUSED' ? 'refused' : 'error ' + e.code));
  c.on('close', () => setTimeout(call, 5)); };
call(); require('dns').lookup('localhost', () => {});
"""],
    "java": ["java", "-Xmx64m", "-XX:+UseSerialGC", "App.java"],
    "go": ["./app"],
    "c": [ODD, "forever"],
}
JAVA = """
import java.net.*;
public class App { public static void main(String[] a) throws Exception {
  int port = Integer.parseInt(a[0]);
  for (int i = 0; i < 3; i++) { Thread t = new Thread(() -> { long n = 0; while (true) { byte[] b = new byte[1000];
      for (byte x : b) n += x; if (n != 0) System.out.println("wrong"); } }); t.setDaemon(true); t.start(); }
  while (true) { try (Socket s = new Socket()) { s.connect(new InetSocketAddress("127.0.0.1", port), 2000);
      System.out.println("ok"); } catch (ConnectException e) { System.out.println("refused"); }
      catch (Exception e) { System.out.println("error " + e); } Thread.sleep(5); } } }
"""
GO = """
package main
import ("errors"; "fmt"; "net"; "os"; "syscall"; "time")
func main() {
  for i := 0; i < 3; i++ { go func() { for { s := make([]byte, 1000); n := 0; for _, x := range s { n += int(x) }
      if n != 0 { fmt.Println("wrong") } } }() }
  for { c, e := net.DialTimeout("tcp", "127.0.0.1:" + os.Args[1], 2*time.Second)
    if e == nil { fmt.Println("ok"); c.Close() } else if errors.Is(e, syscall.ECONNREFUSED) { fmt.Println("refused")
    } else { fmt.Println("error", e) }
    time.Sleep(5 * time.Millisecond) } }
"""


class Server:
    def __enter__(self):
        self.l = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.l.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()
        return self

    def run(self):
        try:
            while True:
                self.l.accept()[0].close()
        except OSError:
            pass

    def __exit__(self, *unused):
        self.l.shutdown(socket.SHUT_RDWR)
        self.l.close()


class Program:
    def __init__(self, argv, cwd, prefix=()):
        self.seen, self.lines = [], 0
        self.proc = subprocess.Popen([*prefix, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd)
        self.pid = self.proc.pid
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.proc.stdout:
            self.seen.append(line.strip())

    def only(self, what, least=10, late=0):
        """From its first one on nothing else, but for what LATE other threads say a moment later of their call of before."""
        since = len(self.seen)
        until("the first one", lambda: what in self.seen[since:], 20)
        at = self.seen.index(what, since)
        until(f"{least} calls", lambda: len(self.seen) >= at + least, 20)
        others = [x for x in self.seen[at:] if x != what]
        assert len(others) <= late, (what, others, self.seen[at:at + 9])

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.proc.kill()
        self.proc.wait()


def inject(pid, port, *more):
    p = subprocess.Popen([INJECT, str(pid), str(port), *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return p, json.loads(p.stdout.readline())


def filtered(pid):
    """Every thread of it."""
    modes = [open(f"/proc/{pid}/task/{t}/status").read().split("\nSeccomp:\t")[1][0] for t in os.listdir(f"/proc/{pid}/task")]
    return set(modes) == {"2"}


def one(name, run_dir, prefix=()):
    """Returns what the tool said."""
    with Server() as s, Program(PROGRAMS[name] + [str(s.port)], run_dir, prefix) as p:
        until(f"{name} calls", lambda: "ok" in p.seen, 30)
        tool, said = inject(p.pid, s.port)
        assert "error" not in said, said
        assert filtered(p.pid)
        p.only("refused", late=2 if name in ("python", "c") else 0)
        # Before that there were none but these.
        assert set(p.seen) <= {"ok", "refused"}, sorted(set(p.seen))
        assert state(p.pid) in "SR" and p.proc.poll() is None
        # Another thread may say a moment later what came of its call of before.
        assert p.seen[p.seen.index("refused"):].count("ok") <= 2, "refused and then again not"
        tool.stdin.close()
        tool.wait()
        return said


def runtimes(run_dir):
    more = ("node", "java", "go") if os.environ.get("INJECT_ALL") else ("node",)
    todo = ["python", "c", *more]
    with open(os.path.join(run_dir, "App.java"), "w") as f:
        f.write(JAVA)
    with open(os.path.join(run_dir, "app.go"), "w") as f:
        f.write(GO)
    if "go" in todo:
        env = dict(os.environ, HOME=run_dir, GO111MODULE="off", CGO_ENABLED="0", GOFLAGS="-p=1")
        subprocess.run(["go", "build", "-o", "app", "app.go"], cwd=run_dir, env=env, check=True)
    only = os.environ.get("INJECT_ONLY", "")
    for name in todo:
        if only in ("", name):
            for _ in range(int(os.environ.get("INJECT_ROUNDS", "1"))):
                said = one(name, run_dir)
                print(f"     {name}: stopped for {said['stopped_us']} us", flush=True)
                assert said["no_new_privs"] is False, said


def user(run_dir):
    """Not root: the kernel wants no_new_privs, which stays."""
    said = one("python", "/", ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"])
    assert said["no_new_privs"] is True, said


def orphaned(run_dir):
    """The attacher dies before anybody else has the listener: its helper stays, and lets every call go."""
    with Server() as s, Program(PROGRAMS["python"] + [str(s.port)], run_dir) as p:
        until("it calls", lambda: "ok" in p.seen)
        others = [d for d in os.listdir("/proc") if d.isdigit() and comm(d) == "squall-agent"]
        tool, said = inject(p.pid, s.port, "die")
        assert tool.wait() == 0 and "error" not in said, said
        assert filtered(p.pid)
        p.only("ok", 50)
        assert set(p.seen) == {"ok"}, set(p.seen)
        agents = [d for d in os.listdir("/proc") if d.isdigit() and d not in others and comm(d) == "squall-agent"]
        assert agents, "no agent"
        for a in agents:
            assert {os.readlink(f"/proc/{a}/fd/{n}") for n in range(3)} == {"/dev/null"}, "it keeps a pipe open"
        p.proc.kill()
        p.proc.wait()
        until("the agent ends", lambda: not set(agents) & {d for d in os.listdir("/proc") if comm(d) == "squall-agent"})


def spoofed(run_dir):
    """A file that is called like the kernel's own page is not taken for it: there it would run what the program likes."""
    trap = "import mmap, os; f = os.memfd_create('[vdso]'); os.ftruncate(f, 4096); trap = mmap.mmap(f, 4096)\n"
    with Server() as s, Program([*PROGRAMS["python"][:2], trap + PROGRAMS["python"][2], str(s.port)], run_dir) as p:
        until("it calls", lambda: "ok" in p.seen)
        with open(f"/proc/{p.pid}/maps") as f:
            assert "/memfd:[vdso]" in f.read()
        tool, said = inject(p.pid, s.port)
        assert "error" not in said, said
        p.only("refused")
        tool.stdin.close()
        tool.wait()


# System calls that say EINTR when only a tracer interrupts them: to see what a program sees, without Python's retries.
WAITS = """
import ctypes, os, select, signal, socket, struct, sys
l = ctypes.CDLL(None, use_errno=True); n = int(sys.argv[1]); b = ctypes.create_string_buffer(1024)
ep = select.epoll(); a, c = socket.socketpair(); sem = l.semget(0, 1, 0o1600)
c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 2, 0))
signal.signal(signal.SIGUSR1, lambda *x: None)
calls = {
  "epoll_wait": lambda: l.epoll_wait(ep.fileno(), b, 8, 2000),
  "epoll_pwait": lambda: l.epoll_pwait(ep.fileno(), b, 8, 2000, ctypes.create_string_buffer(128)),
  "semtimedop": lambda: l.semtimedop(sem, struct.pack("Hhh", 0, -1, 0), 1, struct.pack("ll", 2, 0)),
  "sigtimedwait": lambda: l.sigtimedwait(b"\\0\\2" + bytes(126), None, struct.pack("ll", 2, 0)),
  "recv": lambda: l.recv(c.fileno(), b, 8, 0),
  "poll": lambda: l.poll(None, 0, 2000),
  "nanosleep": lambda: l.nanosleep(struct.pack("ll", 2, 0), None),
}
print("begins", flush=True)
ctypes.set_errno(0); r = calls[sys.argv[2]](); e = ctypes.get_errno() if r < 0 else 0
print(sys.argv[2], r, e, flush=True)
"""


def interrupted(run_dir):
    """What waits goes on waiting. A signal that a program has a handler for still ends it."""
    want = {"epoll_wait": (0, 0), "epoll_pwait": (0, 0), "semtimedop": (-1, 11), "sigtimedwait": (-1, 11), "recv": (-1, 11),
            "poll": (0, 0), "nanosleep": (0, 0)}
    argv = ["/usr/bin/python3", "-c", WAITS, "0"]

    def waits(p):
        until("it waits", lambda: "begins" in p.seen and open(f"/proc/{p.pid}/stat").read().rsplit(")", 1)[1].split()[0] == "S")
        time.sleep(0.1)
    for name, (rc, err) in want.items():
        with Program(argv + [name], run_dir) as p:
            waits(p)
            tool, said = inject(p.pid, 1)
            assert "error" not in said, said
            until(name + " ends", lambda: len(p.seen) == 2, 10)
            assert p.seen[1] == f"{name} {rc} {err}", (p.seen, want[name])
            tool.stdin.close()
            tool.wait()
    for name in ("epoll_wait", "epoll_pwait", "recv"):
        with Program(argv + [name], run_dir) as p:
            waits(p)
            os.kill(p.pid, signal.SIGUSR1)
            inject(p.pid, 1)[0].stdin.close()
            until(name + " ends", lambda: len(p.seen) == 2, 10)
            assert p.seen[1] == f"{name} -1 4", p.seen


def comm(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return ""


def refused(run_dir):
    def says(pid, text):
        _, said = inject(pid, 1)
        assert text in said.get("error", ""), said
    with Program(["sleep", "60"], run_dir) as p:
        os.kill(p.pid, signal.SIGSTOP)
        until("it stops", lambda: state(p.pid) == "T")
        says(p.pid, "is stopped")
        os.kill(p.pid, signal.SIGCONT)
        tracer = subprocess.Popen(["strace", "-qq", "-o", "/dev/null", "-p", str(p.pid)])
        until("it is traced", lambda: "TracerPid:\t0" not in open(f"/proc/{p.pid}/status").read())
        says(p.pid, "can't be traced")
        tracer.terminate()
        tracer.wait()
        until("it is let go", lambda: "TracerPid:\t0" in open(f"/proc/{p.pid}/status").read())
        tool, said = inject(p.pid, 1)
        assert "error" not in said, said
        says(p.pid, "under Squall's seccomp filter already")
        tool.stdin.close()
    until("it is gone", lambda: not state(p.pid))
    program = os.path.join(run_dir, "i386")
    if subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-o", program, "-x", "c", "-"],
                      input='__asm__(".globl _start\\n_start: mov $29, %eax; int $0x80; jmp _start");', text=True,
                      capture_output=True).returncode == 0:
        with Program([program], run_dir) as p:
            time.sleep(0.1)
            if state(p.pid) == "S":
                says(p.pid, "32-bit")
                until("it goes on", lambda: state(p.pid) == "S")


if os.geteuid() != 0 or os.uname().machine != "x86_64":
    print("skipped: it needs root, on x86_64")
    sys.exit(0)
main([runtimes, user, interrupted, orphaned, spoofed, refused])
