"""The packet backend against no fault, and where the kernel has it against netem, in interleaved rounds on one veth pair between two network namespaces: datagrams of
18 bytes as fast as one sender can, TCP by iperf3, round trips with 2 and 50 ms; and the CPU its process takes.
  tests/bench/packet.sh [rounds [seconds]]      3 3; as root; SQUALL_BUILD names the binaries' directory
  tests/vm/run tests/bench/packet.sh 1 2        in the test kernel, which has netem"""
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(here, "../live"), os.path.join(here, "..")]
from packet_lib import V4, Injector, Wire, end_fault, faults, packet_processes  # noqa: E402

ROUNDS, SECONDS = [int(x) for x in (sys.argv[1:] + ["3", "3"][len(sys.argv) - 1:])]
TOOL = os.path.join(os.environ.get("SQUALL_BUILD", "build"), "tests/bench/bench_packet")


def inside(ns, *args, **kw):
    return subprocess.Popen(["ip", "netns", "exec", ns, *args], stdout=subprocess.PIPE, text=True, **kw)


def out(ns, *args):
    p = inside(ns, *args)
    text = p.communicate(timeout=60 + 10 * SECONDS)[0]
    assert p.returncode == 0, args
    return text


def cpu(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tcp(w):
    server = inside(w.b, "iperf3", "-s", "-1")
    for _ in range(100):
        if ":5201 " in out(w.b, "ss", "-Hltn"):
            break
        time.sleep(0.05)
    text = out(w.a, "iperf3", "-f", "m", "-c", V4[1], "-t", str(SECONDS))
    server.communicate(timeout=10)
    return float([x for x in text.split("\n") if "receiver" in x][0].split()[6]) / 1000


def udp(w):
    rx = inside(w.b, TOOL, "rx")
    time.sleep(0.2)
    sent = int(out(w.a, TOOL, "tx", V4[1], "0", str(SECONDS)))
    got, took = rx.communicate(timeout=30)[0].split()
    return int(got) / float(took) / 1000, int(got), sent


def rtt(w, n):
    echo = inside(w.b, TOOL, "echo")
    time.sleep(0.2)
    try:
        return [float(x) for x in out(w.a, TOOL, "rtt", V4[1], str(n)).split()[1:]]
    finally:
        echo.kill()
        echo.wait()


def measure(w, run_dir, rows, name):
    pid = max(packet_processes(run_dir)) if name.startswith("packet") else None
    row = rows.setdefault(name, {k: [] for k in ("tcp", "tcp_cpu", "udp", "udp_lost", "udp_cpu", "p50", "p99")})
    p = rtt(w, 1000 if "50" not in name else 100)
    row["p50"].append(p[1])
    row["p99"].append(p[2])
    if "50" in name:
        return
    c, t = cpu(pid) if pid else 0, tcp(w)
    row["tcp"].append(t)
    row["tcp_cpu"].append(((cpu(pid) if pid else 0) - c) / SECONDS * 100)
    c, (kpps, got, sent) = cpu(pid) if pid else 0, udp(w)
    row["udp"].append(kpps)
    row["udp_lost"].append(100 - 100 * got / sent)
    row["udp_cpu"].append(((cpu(pid) if pid else 0) - c) * 1e6 / got)


def backends(inj):
    """Those that work here."""
    checks = {c["name"]: c["ok"] for c in inj.get("doctor")["checks"]}
    return [b for b in ("netem", "packet") if checks.get(b)]


def main():
    run_dir, rows = tempfile.mkdtemp(prefix="squall-bench-"), {}
    try:
        with Wire("cost") as w:
            inj = Injector(run_dir)
            run = inj.run(lease="600s")
            for _ in range(ROUNDS):
                measure(w, run_dir, rows, "none")
                for delay, backend in itertools.product(("2ms", "50ms"), backends(inj)):
                    f = faults(inj, run, w.a, {"delay": delay, "backend": backend})
                    measure(w, run_dir, rows, f"{backend}, {delay}")
                    end_fault(inj, run, f)
            inj.post("quit")
            inj.wait()
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)
    print(f"median of {ROUNDS} rounds of {SECONDS} s; load {os.getloadavg()[0]:.1f}")
    print("| | round trip p50, us | p99 | TCP Gbit/s | its CPU | packets/s, thousands | lost | its CPU, s a million |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, row in rows.items():
        own = {"tcp_cpu", "udp_cpu"} if not name.startswith("packet") else set()
        m = {k: statistics.median(v) if v and k not in own else None for k, v in row.items()}
        cells = [(m["p50"], ".0f"), (m["p99"], ".0f"), (m["tcp"], ".2f"), (m["tcp_cpu"], ".0f", " %"), (m["udp"], ".0f"),
                 (m["udp_lost"], ".2f", " %"), (m["udp_cpu"], ".2f")]
        print(f"| {name} | " + " | ".join("" if v is None else format(v, f) + "".join(unit) for v, f, *unit in cells) + " |")


if __name__ == "__main__":
    main()
