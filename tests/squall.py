"""What the tests written in Python share: the programs under test, and what a host must be free of."""
import fcntl, http.client, json, os, shutil, signal, socket, subprocess, sys, tempfile, threading, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("SQUALL_BUILD", os.path.join(ROOT, "build"))
SQUALL = os.path.join(BUILD, "squall")
SQUALLD = os.path.join(BUILD, "squalld")
NOBODY = 65534


def install(folder):
    """The packages of FOLDER's lock file: once, whoever comes first."""
    lock = os.path.join(folder, "package-lock.json")
    done = os.path.join(folder, "node_modules", ".package-lock.json")  # npm's last word
    with open(lock) as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        if os.path.exists(done) and os.path.getmtime(done) >= os.path.getmtime(lock):
            return
        got = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, capture_output=True,
                             text=True)
        if got.returncode:
            die(f"npm ci: {got.stdout}{got.stderr}")


def port_is_free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Host:
    """A run directory and an output directory of its own; knows which processes and marks belong to it."""

    def __init__(self, uid=0):
        self.uid = uid
        self.dir = tempfile.mkdtemp(prefix="squall-test-")
        self.run_dir = os.path.join(self.dir, "run")
        self.out = os.path.join(self.dir, "out")
        for d in (self.run_dir, self.out):
            os.mkdir(d, 0o700)
            os.chown(d, uid, uid)
        os.chmod(self.dir, 0o755)
        self.env = dict(os.environ, SQUALL_RUN_DIR=self.run_dir, NO_COLOR="1", HOME=self.dir)
        self.env.pop("XDG_RUNTIME_DIR", None)
        self.ids = set()  # of every injector that was here: their cgroups are ours to look for, others' are not
        self.closed = threading.Event()
        threading.Thread(target=self._see, daemon=True).start()

    def _see(self):
        while not self.closed.wait(0.02):
            try:
                self.ids.update(os.listdir(self.run_dir))
            except OSError:
                return

    def _as(self, kw):
        if self.uid and os.geteuid() == 0:
            kw.update(user=self.uid, group=self.uid, extra_groups=[])
        return kw

    def start(self, *args, **kw):
        kw.setdefault("cwd", ROOT)
        return subprocess.Popen([SQUALL, *args], env=self.env, **self._as(kw))

    def run(self, *args, timeout=240, **kw):
        kw.setdefault("cwd", ROOT)
        return subprocess.run([SQUALL, *args], env=self.env, timeout=timeout, capture_output=True, text=True,
                              **self._as(kw))

    def processes(self):
        """Everything alive that was started with our run directory in its environment: {pid: (comm, state)}."""
        found = {}
        mark = f"SQUALL_RUN_DIR={self.run_dir}".encode()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    if mark not in f.read().split(b"\0"):
                        continue
                with open(f"/proc/{pid}/stat") as f:
                    text = f.read()
            except OSError:
                continue
            comm, state = text[text.index("(") + 1:text.rindex(")")], text[text.rindex(")") + 2]
            if state != "Z":
                found[int(pid)] = (comm, state)
        return found

    def by_name(self, *names):
        return [pid for pid, (comm, _) in self.processes().items() if comm in names]

    def left(self, but=()):
        """What of any fault or run is still there, as a list of sentences; empty is clean. BUT: pids and names of processes
        that may be there."""
        processes = self.processes()
        found = [f"process {pid} {comm} ({state})" for pid, (comm, state) in processes.items()
                 if pid not in but and comm not in but]
        if os.path.isdir(self.run_dir):
            found += [f"directory {d}" for d in os.listdir(self.run_dir)]
        found += bpf_programs(processes) + cgroups(self.ids)
        return found

    def close(self):
        self.closed.set()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        shutil.rmtree(self.dir, ignore_errors=True)


# Of injector/intercept.
HOOKS = ("sq_connect", "sq_getpeer", "sq_dconnect", "sq_dpeer", "sq_dsend", "sq_drecv", "sq_fork", "sq_exit", "sq_exec")


def bpf_programs(own=()):
    """Programs of Squall, while no proxy but one of the processes OWN lives: another Squall's are its own affair."""
    tool = shutil.which("bpftool") or "/usr/sbin/bpftool"
    if os.geteuid() != 0 or not os.path.exists(tool):
        return []
    got = subprocess.run([tool, "-j", "prog", "show"], capture_output=True, text=True)
    try:
        found = [p for p in json.loads(got.stdout) if p.get("name", "").startswith(HOOKS)]
    except ValueError:
        return []
    return [f"BPF program {p['name']}" for p in found] if found and not foreign_proxies(own) else []


def foreign_proxies(own):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as f:
                if f.read().strip() == "squall-proxy" and int(pid) not in own:
                    found.append(int(pid))
        except OSError:
            pass
    return found


def cgroup2():
    with open("/proc/self/mounts") as f:
        for line in f:
            fields = line.split()
            if fields[2] == "cgroup2":
                return fields[1]
    return None


def cgroups(ids):
    """Cgroups of these injectors without a process in them: left behind. (Those with one are named by their processes.)"""
    top = cgroup2()
    found = []
    for d, names, _ in os.walk(top) if top else ():
        for n in names:
            try:
                with open(os.path.join(d, n, "cgroup.events")) as f:
                    if n.startswith("squall-") and n[7:] in ids and "populated 0" in f.read():
                        found.append(f"cgroup {os.path.join(d, n)}")
            except OSError:
                pass
    return found


def wait_clean(host, seconds, but=()):
    """What is left after at most so many seconds."""
    end = time.monotonic() + seconds
    while True:
        left = host.left(but)
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.05)


def verdict(run_dir):
    with open(os.path.join(run_dir, "verdict.json")) as f:
        return json.load(f)


def failed_checks(v):
    return sorted({c["check"] for c in v["checks"] if c["verdict"] == "fail"})


def die(text):
    print(text, file=sys.stderr)
    sys.exit(1)


class Api(http.client.HTTPConnection):
    """The injector's API on its Unix socket."""

    def __init__(self, path):
        super().__init__("squall", timeout=20)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self.path)

    def call(self, method, path, body=None, expect=None):
        self.request(method, path, json.dumps(body) if body is not None else None)
        answer = self.getresponse()
        text = answer.read()
        got = json.loads(text) if text else {}
        if expect is not None and answer.status != expect:
            die(f"{method} {path}: {answer.status} instead of {expect}: {got}")
        return got if expect is not None else (answer.status, got)


class Stalls:
    """A watch beside runs whose times matter: sleeps for 10 ms again and again, and notes when that took so much longer
    (seconds) that a run at that time says more about the host than about what it tried."""

    def __init__(self, over=0.1):
        self.over, self.seen = over, []
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while True:
            begin = time.monotonic()
            time.sleep(0.01)
            end = time.monotonic()
            if end - begin > 0.01 + self.over:
                self.seen.append((end, end - begin))

    def since(self, begin):
        """The longest one since then, in seconds; 0: there was none."""
        return max((length for end, length in self.seen if end > begin), default=0)

    def wait_quiet(self, seconds):
        """Until there was none for 5 s, at most for so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.since(time.monotonic() - 5):
            time.sleep(0.5)


class Injector:
    """A private squalld of a test's own."""

    def __init__(self, host, name=None):
        self.host = host
        self.dir = os.path.join(host.run_dir, name or "p-test%d" % time.monotonic_ns())
        self.proc = subprocess.Popen([SQUALLD, "--private", "--dir", self.dir], env=host.env, cwd=ROOT)
        self.api = Api(os.path.join(self.dir, "api.sock"))
        end = time.monotonic() + 15
        while True:
            try:
                self.info = self.api.call("GET", "/v1/info", expect=200)
                break
            except (OSError, http.client.HTTPException):
                self.api.close()
                if time.monotonic() > end:
                    die("squalld does not answer")
                time.sleep(0.02)

    def quit(self):
        self.api.call("POST", "/v1/quit", {})
        return self.proc.wait(20)
