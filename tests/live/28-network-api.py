#!/usr/bin/env python3
"""What nobody would write, asked of the API of network faults: wrong types, numbers that overflow, names that are too long,
huge lists. Each is an error with a message (or a plan that is meant so), soon, and nothing of it is in the kernel."""
import json
import random
import time

import injector_lib
from injector_lib import main
from packet_lib import Injector, Wire, configured, packet_processes, same

ODD = [None, True, False, 0, -1, 1, 2**31, 2**32, 2**63 - 1, -2**63, 1e300, -0.0, 1e-300, "", " ", "0", "-1", "100%", "101%",
       "-1%", "nan", "inf", "1e9s", "9223372036854775807s", "18446744073709551616ns", "10ms", "x" * 5000, "\u0000", "a\nb",
       "../../etc/passwd", "%s%n", [], [[]], [None], [1] * 5000, ["80"] * 5000, {}, {"a": {}}, {"p": "x", "r": []}]
WITH = {"network/impair": ["delay", "jitter", "correlation", "distribution", "loss", "loss_correlation", "loss_state",
                           "loss_gemodel", "ecn", "duplicate", "duplicate_correlation", "corrupt", "reorder", "gap", "rate",
                           "packet_overhead", "cell_size", "cell_overhead", "slot", "limit", "preset", "backend", "dose", "no"],
        "network/partition": ["direction", "how", "existing", "protocol", "port", "local_port", "no"]}
TARGET = {"network/impair": ["interface", "direction", "namespace", "match", "except", "of", "spare_control", "insert", "no"],
          "network/partition": ["between", "and", "namespace", "spare_control", "no"]}
GROUP = ["host", "port", "local_port", "protocol", "dscp", "vlan", "no"]


def base(kind, ns):
    if kind == "network/partition":
        return {"uses": kind, "target": {"namespace": ns, "and": ["10.0.0.1"]}, "with": {}}
    return {"uses": kind, "target": {"namespace": ns, "interface": "v0"}, "with": {"delay": "10ms", "backend": "packet"}}


def requests(ns):
    for kind in WITH:
        for part, keys in (("with", WITH[kind]), ("target", TARGET[kind])):
            for key in keys:
                for odd in ODD:
                    want = base(kind, ns)
                    want[part][key] = odd
                    if want["target"].get("namespace") == ns:  # else it would be a plan for another one
                        yield want
            for odd in ODD:
                yield dict(base(kind, ns), **{part: odd}) if part == "with" else dict(base(kind, ns), target=odd or {"no": 1})
    for key in GROUP:
        for odd in ODD:
            want = base("network/impair", ns)
            want["target"]["match"] = [{key: odd}]
            yield want


def planned_or_refused(run_dir):
    with Wire("api") as w:
        before = configured(w.a, w.b)
        inj = Injector(run_dir)
        run = inj.run(lease="600s")
        said = {}
        for want in requests(w.a):
            status, got = inj.call("POST", f"runs/{run}/plan", want)
            said[status] = said.get(status, 0) + 1
            short = json.dumps(want)[:300]
            assert status in (200, 400, 404, 409, 501), (short, status, got)
            assert status == 200 or 0 < len(got["error"]["message"]) < 1000, (short, got)
        print("   answers:", said)
        assert said[400] > 500 and said[200] > 20
        assert inj.get("info")["pid"] == inj.pid
        same(before, configured(w.a, w.b))
        inj.post("quit")
        assert inj.proc.wait(30) == 0


def confirmed_or_nothing(run_dir):
    """Some of them for real: what is applied is what was asked for, or it is refused and nothing is left."""
    with Wire("api") as w:
        before = configured(w.a, w.b)
        inj = Injector(run_dir)
        run = inj.run(lease="600s")
        random.seed(7)
        applied = 0
        for want in random.sample(list(requests(w.a)), 150):
            status, got = inj.call("POST", f"runs/{run}/faults", want)
            assert status in (201, 400, 404, 409, 501), (json.dumps(want)[:300], status, got)
            if status == 201:
                applied += 1
                assert inj.delete(f"runs/{run}/faults/{got['fault']}")["clean"]
        print("   applied:", applied)
        inj.delete(f"runs/{run}")
        for _ in range(100):
            if not packet_processes(run_dir):
                break
            time.sleep(0.1)
        same(before, configured(w.a, w.b))
        inj.post("quit")
        assert inj.proc.wait(30) == 0


def huge(run_dir):
    """As much as fits into a request: refused, or carried out, but never a hang."""
    with Wire("api") as w:
        inj = Injector(run_dir)
        run = inj.run(lease="600s")
        nets = [f"10.{i // 256 % 256}.{i % 256}.{i // 65536}" for i in range(30000)]
        for kind, target, want in (
                ("network/partition", {"and": nets}, (200, 400)),
                ("network/partition", {"and": ["10.0.0.1"], "between": nets}, (200, 400)),
                ("network/impair", {"interface": "v0", "match": [{"host": nets}]}, (200, 400, 501)),
                ("network/impair", {"interface": "v0", "match": [{"port": [str(1 + i % 60000) for i in range(40000)]}]}, (200, 400, 501)),
                ("network/impair", {"interface": "v0", "match": [{"dscp": 1}] * 20000}, (400, 501)),
                ("network/impair", {"interface": "v0", "except": [{"host": "10.0.0.1"}] * 257}, (400, 501)),
                ("network/partition", {"and": ["10.0.0.1"] * 60000}, (200, 400)),
                ("network/partition", {"and": [f"n{i}.sqt.invalid" for i in range(2000)]}, (400, 404)),
                ("network/impair", {"interface": "v0", "namespace": "n" * 500000}, (400, 404))):
            body = base(kind, w.a)
            body["target"] = dict({"namespace": w.a}, **target)
            t = time.monotonic()
            status, got = inj.call("POST", f"runs/{run}/plan", body)
            took = time.monotonic() - t
            what = (kind, next(iter(target)), len(json.dumps(target)), status, str(got)[:200], took)
            print("  ", *what[:4], f"{took:.2f} s")
            assert status in want and took < 9, what
        status, got = inj.call("POST", f"runs/{run}/plan", raw="[" * 100000)
        assert status == 400, got
        assert inj.get("info")["pid"] == inj.pid
        inj.post("quit")
        assert inj.proc.wait(30) == 0


def alone(test):
    """A squalld that a failed test leaves must not live on with its lease."""
    def run(run_dir):
        made = []
        start = injector_lib.Injector.__init__

        def noted(self, *args, **kw):
            made.append(self)
            start(self, *args, **kw)

        injector_lib.Injector.__init__ = noted
        try:
            test(run_dir)
        finally:
            injector_lib.Injector.__init__ = start
            for inj in made:
                inj.end()
    run.__name__ = test.__name__
    return run


if __name__ == "__main__":
    main([alone(t) for t in (planned_or_refused, confirmed_or_nothing, huge)])
