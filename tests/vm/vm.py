"""What the tests on the test kernel share: each is a program that starts itself again inside of it (tests/vm/run)."""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
KEPT = ("VM_KILLS", "VM_SEED", "VM_FIRST", "CI")  # of the environment


def boot(program):
    """Returns inside of the test kernel only."""
    if not os.environ.get("VM_UML"):
        kept = [f"{k}={os.environ[k]}" for k in KEPT if k in os.environ]
        os.execv(f"{HERE}/run", [f"{HERE}/run", *kept, os.path.abspath(program), *sys.argv[1:]])
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    os.chdir(ROOT)
    os.system("ip link set lo up")
    sys.path[:0] = [os.path.join(ROOT, "tests"), os.path.join(ROOT, "tests", "live")]
