"""What the tests of an edge's destinations share: an injector whose /etc/hosts says what the test wants."""
import os
import socket

from intercept_lib import NO_CGROUP2, Rig, Without

# /etc/hosts of its own, so that names mean what the test says.
HOSTS = "mount --bind {hosts} /etc/hosts && "


def rig_for(run_dir, mode, to, hosts="", **kw):
    path = os.path.join(run_dir, "hosts")
    with open(path, "w") as f:
        f.write("127.0.0.1 localhost\n" + hosts)
    script = HOSTS.format(hosts=path) + (NO_CGROUP2 if mode == "seccomp" else "") + 'exec "$@"'
    return Rig(run_dir, to, mode=mode, injector=Without(run_dir, ["unshare", "-m", "sh", "-c", script, "sh"]), **kw)


def say(rig, text):
    with open(os.path.join(rig.run_dir, "hosts"), "w") as f:  # in place: it is mounted
        f.write("127.0.0.1 localhost\n" + text)


def free_port(*hosts):
    for _ in range(50):
        socks = [socket.socket() for _ in hosts]
        try:
            port = 0
            for s, host in zip(socks, hosts):
                s.bind((host, port))
                port = s.getsockname()[1]
            return port
        except OSError:
            continue
        finally:
            for s in socks:
                s.close()
    raise AssertionError("no port is free on all of " + " ".join(hosts))


def both(test):
    """The same test in both ways."""

    def bpf(run_dir):
        test(run_dir, "bpf")

    def seccomp(run_dir):
        test(run_dir, "seccomp")

    bpf.__name__ = test.__name__ + "_bpf"
    seccomp.__name__ = test.__name__ + "_seccomp"
    return [bpf, seccomp]


def errs(rig, *dests):
    """errno of a connect to each (host, port)."""
    return rig.do("result = [attempt(p, host=h, ask=False)['err'] for h, p in %r]" % (list(dests),))
