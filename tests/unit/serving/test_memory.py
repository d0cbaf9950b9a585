"""Memory of requests is kept for the next ones, and rarely searched for cycles."""

import subprocess
import sys
from pathlib import Path

import pytest

from securetf.serving import memory

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
    # Python 3.12 and later search between two steps of a program, not within json.loads.
    within_calls = sys.version_info < (3, 12)
    assert (searches["default"] > 20) == within_calls, "this Python searches at other times than is known"
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


@pytest.mark.parametrize("size", [0, 5, (32 << 20) + 5])
def test_file_when_it_is_read_is_what_it_holds_in_large_pages_or_small(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(bytes(range(1, 252)) * (size // 251) + bytes(range(1, 1 + size % 251)))
    found = memory.read(path)
    assert type(found) is bytes
    assert found == path.read_bytes()
    assert len(found) == size


def test_large_file_when_it_is_cut_while_it_is_read_is_what_was_left(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"left" + bytes(33 << 20))
    advise = memory._advise_huge

    def cut(begin: int, size: int) -> None:
        advise(begin, size)
        with path.open("r+b") as file:
            file.truncate(4)

    monkeypatch.setattr(memory, "_advise_huge", cut)
    assert memory.read(path) == b"left"
