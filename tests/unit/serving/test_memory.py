"""Memory of requests is kept for the next ones, and rarely searched for cycles."""

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


SEARCHES = """
import gc, json, sys
from securetf.serving import memory
if sys.argv[1] == "rarely":
    memory.collect_rarely()
request = json.dumps([[1.0, 2.0, 3.0]] * 40_000)
def searches():
    return sum(one["collections"] for one in gc.get_stats())
before = searches()
json.loads(request)
print(searches() - before)
"""


def test_cycles_when_a_request_has_a_list_for_each_row_are_not_searched_for_while_it_is_read() -> None:
    searches = {
        way: int(subprocess.check_output([sys.executable, "-c", SEARCHES, way]))
        for way in ("rarely", "default")
    }
    if sys.version_info < (3, 12):  # from then on only between byte codes, of which a JSON reader has none
        assert searches["default"] > 20, "this Python searches rarely by itself: the setting has no use here"
    assert searches["rarely"] == 0


def test_cycles_when_requests_leave_some_are_found_in_the_end() -> None:
    program = """
import gc
from securetf.serving import memory
memory.collect_rarely()
for _ in range(120_000):
    cycle = []
    cycle.append(cycle)
print(len(gc.get_objects()))
"""
    assert int(subprocess.check_output([sys.executable, "-c", program])) < 100_000
