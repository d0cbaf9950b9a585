"""Memory of requests is kept for the next ones."""

import subprocess
import sys

PROGRAM = """
import resource, sys
from securetf.serving import memory
if sys.argv[1] == "kept":
    memory.keep_freed()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):  # two blocks of which one outlives the other, as of a request's body and its parts
        first = b"x" * 600_000
        second = first + b"y"
        del first, second
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def test_pages_when_freed_memory_is_kept_are_touched_once() -> None:
    faults = {
        way: int(subprocess.check_output([sys.executable, "-c", PROGRAM, way])) for way in ("kept", "default")
    }
    assert faults["default"] > 5_000, "this allocator keeps memory by itself: the setting has no use here"
    assert faults["kept"] < 100
