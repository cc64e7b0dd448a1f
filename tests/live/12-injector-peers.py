#!/usr/bin/python3
"""What a member of the group may not do through a squalld that runs as root: move, freeze or continue a process of
root's, or read its keys. The member is nobody, the group is nogroup."""
import ctypes
import json
import os
import platform
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

import injector_lib as lib

NOBODY = 65534
NR_KEYCTL, NR_ADD_KEY = {"x86_64": (250, 248)}.get(platform.machine(), (219, 217))


def as_nobody(fn):
    """Run fn() in a child that is nobody; returns what it returns, through JSON."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        os.write(w, json.dumps(fn()).encode())
        os._exit(0)
    os.close(w)
    with os.fdopen(r) as f:
        text = f.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def ask(path, method, what, body=None):
    c = lib.Unix(path)
    c.request(method, "/v1/" + what, json.dumps(body) if body is not None else None)
    r = c.getresponse()
    return r.status, json.loads(r.read())


def answers(sock):
    try:
        return ask(sock, "GET", "info")[0] == 200
    except (FileNotFoundError, ConnectionError):
        return False


def pause_leaves_roots_process_alone(sock):
    told = tempfile.TemporaryFile()
    victim = subprocess.Popen([sys.executable, "-c", "import signal, time\n"
                               "signal.signal(signal.SIGCONT, lambda *a: print('continued', flush=True))\n"
                               "print('ready', flush=True)\n"
                               "while True: time.sleep(1)"], stdout=told)

    def said():
        told.seek(0)
        return told.read().decode().split()

    def peer():
        run = ask(sock, "POST", "runs", {"name": "x"})[1]["run"]
        got = ask(sock, "POST", f"runs/{run}/faults", {"uses": "process/pause", "target": {"pid": victim.pid}})
        return got, ask(sock, "DELETE", f"runs/{run}")

    try:
        lib.until("the victim is ready", lambda: "ready" in said())
        got, end = as_nobody(peer)
        assert got[0] == 403, got
        assert end == [200, {"clean": True, "left": []}], end
        time.sleep(0.3)
        assert said() == ["ready"], f"a process of root's was sent SIGCONT: {said()}"
    finally:
        victim.kill()
        victim.wait()


def a_set_user_id_program_is_no_launcher(sock, suid):
    """The one that connected becomes root's; its child still holds the socket and the token."""

    def peer():
        run = ask(sock, "POST", "runs", {"name": "x"})[1]["run"]
        status, token = ask(sock, "POST", f"runs/{run}/exec", {"name": "e"})
        assert status == 201, token
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            s.connect(token["socket"])
            if os.fork():
                os.execv(suid, [suid, "30"])
            lib.until("it is root's", lambda: os.stat(f"/proc/{os.getppid()}").st_uid == 0)
            s.send(b"T" + token["token"].encode())
            os.write(w, s.recv(4096))
            os._exit(0)
        os.close(w)
        answer = os.read(r, 4096).decode()
        with open(f"/proc/{pid}/cgroup") as f:
            where = f.read()
        ask(sock, "DELETE", f"runs/{run}")
        return pid, answer, where

    pid, answer, where = as_nobody(peer)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    assert answer.startswith("E") and "is not a launcher" in answer, answer
    assert "/squall-" not in where.split("0::", 1)[1], where


def keyctl(*args):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc.syscall(NR_KEYCTL, *args)


READ_KEY = f"""
import ctypes
libc = ctypes.CDLL(None)
libc.syscall.restype = ctypes.c_long
print("key", libc.syscall({NR_KEYCTL}, 10, -3, b"user", b"squall-secret", 0))
"""


def a_service_has_not_roots_keys(sock):
    """squalld was started in a session of root's with a key in its keyring (main)."""

    def peer():
        run = ask(sock, "POST", "runs", {"name": "x"})[1]["run"]
        ask(sock, "POST", f"runs/{run}/services", {"name": "k", "command": ["/usr/bin/python3", "-c", READ_KEY]})

        def tails():
            events = ask(sock, "GET", f"runs/{run}/events?after=0")[1]["events"]
            return [e["tail"] for e in events if e.get("state") == "exited"]

        lib.until("the service has ended", tails)
        said = tails()
        ask(sock, "DELETE", f"runs/{run}")
        return said

    said = as_nobody(peer)
    assert said == ["key -1"], said


def main():
    if os.geteuid() != 0:
        print("skip: needs root")
        return
    top = tempfile.mkdtemp(prefix="squall-peers-")
    os.chmod(top, 0o755)
    run = os.path.join(top, "run")
    os.mkdir(run, 0o755)
    suid = os.path.join(top, "sleep")
    shutil.copy("/bin/sleep", suid)
    os.chmod(suid, stat.S_ISUID | 0o755)
    args = [lib.SQUALLD, "--dir", os.path.join(run, "squalld"), "--group", "nogroup"]
    if keyctl(1, b"squall-test") >= 0:
        ctypes.CDLL(None).syscall(NR_ADD_KEY, b"user", b"squall-secret", b"x", 1, -3)
    squalld = subprocess.Popen(args, env=dict(os.environ, SQUALL_RUN_DIR=run))
    sock = os.path.join(run, "squalld", "api.sock")
    try:
        lib.until("the API answers", lambda: answers(sock))
        pause_leaves_roots_process_alone(sock)
        print("ok   pause_leaves_roots_process_alone")
        a_set_user_id_program_is_no_launcher(sock, suid)
        print("ok   a_set_user_id_program_is_no_launcher")
        a_service_has_not_roots_keys(sock)
        print("ok   a_service_has_not_roots_keys")
    finally:
        squalld.terminate()
        squalld.wait(20)
        shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    main()
