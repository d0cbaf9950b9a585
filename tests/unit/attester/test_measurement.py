"""The software measurement: every byte of the package and the interpreter counts."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import securetf
from securetf.attester.measurement import measured_files, software_measurement
from securetf.errors import AttesterError


@pytest.fixture
def package(tmp_path: Path) -> Path:
    tree = tmp_path / "package"
    (tree / "inner").mkdir(parents=True)
    (tree / "a.py").write_bytes(b"one")
    (tree / "inner" / "b.py").write_bytes(b"two")
    (tree / "core.so").write_bytes(bytes(1000))
    return tree


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    path = tmp_path / "python"
    path.write_bytes(b"interpreter")
    return path


def test_measurement_when_nothing_changes_then_equal_and_48_bytes(package: Path, interpreter: Path) -> None:
    first = software_measurement(package, interpreter)
    assert len(first) == 48
    assert software_measurement(package, interpreter) == first


def test_measurement_when_any_byte_name_or_file_changes_then_differs(
    package: Path, interpreter: Path
) -> None:
    seen = {software_measurement(package, interpreter)}

    def check() -> None:
        now = software_measurement(package, interpreter)
        assert now not in seen
        seen.add(now)

    (package / "inner" / "b.py").write_bytes(b"twp")
    check()
    (package / "inner" / "b.py").rename(package / "inner" / "c.py")
    check()
    (package / "inner" / "c.py").rename(package / "c.py")
    check()
    (package / "new.txt").write_bytes(b"")
    check()
    (package / "core.so").write_bytes(bytes(999) + b"\1")
    check()
    interpreter.write_bytes(b"interpretes")
    check()
    (package / "a.py").unlink()
    check()


def test_measurement_when_bytes_move_between_files_then_differs(package: Path, interpreter: Path) -> None:
    before = software_measurement(package, interpreter)
    (package / "a.py").write_bytes(b"onet")
    (package / "inner" / "b.py").write_bytes(b"wo")
    assert software_measurement(package, interpreter) != before


def test_measurement_when_only_caches_change_then_equal(package: Path, interpreter: Path) -> None:
    before = software_measurement(package, interpreter)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    (package / "inner" / "b.pyc").write_bytes(b"x")
    assert software_measurement(package, interpreter) == before


def test_measurement_when_of_this_installation_then_covers_it() -> None:
    names = [name for name, _ in measured_files()]
    assert names[0] == "interpreter"
    assert "securetf/attester/measurement.py" in names
    assert names == list(dict.fromkeys(names))


def test_measurement_when_of_this_installation_then_takes_little_more_than_hashing_its_bytes() -> None:
    measured = [Path(sys.executable).resolve(), *Path(securetf.__file__).parent.rglob("*")]
    size = sum(path.stat().st_size for path in measured if path.is_file() and path.suffix != ".pyc")
    content = bytes(size)
    # Time of this process alone, both in turn: other processes slow down both or neither.
    rounds = [
        (_cpu_seconds(software_measurement), _cpu_seconds(lambda: hashlib.sha256(content))) for _ in range(7)
    ]
    measuring, hashing = (min(each) for each in zip(*rounds, strict=True))
    assert measuring < 8 * hashing, f"{measuring * 1000:.0f} ms, its hash alone {hashing * 1000:.0f} ms"


def _cpu_seconds(operation: Callable[[], object]) -> float:
    started = time.process_time()
    operation()
    return time.process_time() - started


def test_measurement_when_a_link_stands_in_the_package_then_refused(package: Path, interpreter: Path) -> None:
    (package / "link.py").symlink_to(package / "a.py")
    with pytest.raises(AttesterError, match="neither a file nor a directory"):
        software_measurement(package, interpreter)


def test_measurement_when_a_file_is_missing_then_names_it(package: Path, tmp_path: Path) -> None:
    with pytest.raises(AttesterError, match=f"cannot measure {tmp_path}/absent"):
        software_measurement(package, tmp_path / "absent")
    with pytest.raises(AttesterError, match="cannot measure"):
        software_measurement(tmp_path / "absent", Path(sys.executable))


def test_measurement_when_the_first_ones_of_a_process_are_made_at_once_then_all_are_equal(
    package: Path, interpreter: Path
) -> None:
    program = (
        "import sys, threading, pathlib;"
        "from securetf.attester.measurement import software_measurement as of;"
        "sys.setswitchinterval(1e-6);"  # so that they meet in whatever is read at the first use
        "paths = [pathlib.Path(one) for one in sys.argv[1:]]; found = set();"
        "threads = [threading.Thread(target=lambda: found.add(of(*paths))) for _ in range(8)];"
        "[one.start() for one in threads]; [one.join() for one in threads];"
        "print(*[one.hex() for one in found])"
    )
    command = [sys.executable, "-c", program, str(package), str(interpreter)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [software_measurement(package, interpreter).hex()]
