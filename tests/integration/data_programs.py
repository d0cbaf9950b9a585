"""More programs that run on a mounted volume, as `posix_programs.py`: contents, databases and remounts."""

import contextlib
import errno
import mmap
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def writes_at_random_places_read_back_as_in_a_model(root: Path) -> None:
    generator = random.Random(7)
    model = bytearray(3 << 20)
    size = 0
    descriptor = os.open(root / "file", os.O_RDWR | os.O_CREAT)
    for turn in range(600):
        action = generator.random()
        if action < 0.6:
            offset, length = (
                generator.randrange(0, 2 << 20),
                generator.choice([1, 100, 4096, 65536, 70001, 200000]),
            )
            data = generator.randbytes(length)
            assert os.pwrite(descriptor, data, offset) == length
            model[offset : offset + length] = data
            size = max(size, offset + length)
        elif action < 0.9:
            offset, length = generator.randrange(0, 2 << 20), generator.choice([1, 5000, 131072, 300000])
            assert os.pread(descriptor, length, offset) == bytes(
                model[offset : min(offset + length, max(size, offset))]
            )
        else:
            length = generator.randrange(0, 2 << 20)
            os.ftruncate(descriptor, length)
            model[length:] = bytes(len(model) - length)
            size = length
        if turn % 150 == 149:
            os.fsync(descriptor)
        assert os.fstat(descriptor).st_size == size
    os.close(descriptor)
    assert (root / "file").read_bytes() == bytes(model[:size])


def shared_and_private_mappings(root: Path) -> None:
    path = root / "file"
    path.write_bytes(bytes(1 << 20))
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0) as shared:
            shared[100:105] = b"hello"
            shared[-3:] = b"end"
            assert os.pread(file.fileno(), 5, 100) == b"hello"
            shared.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as private:
            private[0:4] = b"mine"
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as reading:
            assert reading[100:105] == b"hello"
    contents = path.read_bytes()
    assert contents[:4] == bytes(4)
    assert contents[100:105] == b"hello"
    assert contents.endswith(b"end")


def whole_trees_are_copied(root: Path) -> None:
    source = root / "source"
    source.mkdir()
    for number in range(50):
        (source / f"{number}").write_bytes(random.Random(number).randbytes(number * 997))
    (source / "link").symlink_to("1")
    shutil.copytree(source, root / "copy", symlinks=True)
    for number in range(50):
        assert (root / "copy" / f"{number}").read_bytes() == (source / f"{number}").read_bytes()
    with (source / "49").open("rb") as read, (root / "range").open("wb") as write:
        assert os.copy_file_range(read.fileno(), write.fileno(), 40_000) == 40_000
    assert (root / "range").read_bytes() == (source / "49").read_bytes()[:40_000]


def temporary_files_work(root: Path) -> None:
    with tempfile.TemporaryFile(dir=root) as file:
        file.write(b"x" * 100_000)
        file.seek(0)
        assert len(file.read()) == 100_000
    with (
        tempfile.TemporaryDirectory(dir=root) as directory,
        tempfile.NamedTemporaryFile(dir=directory) as named,
    ):
        named.write(b"y")
    assert os.listdir(root) == []


def programs_and_libraries_run_from_the_mount(root: Path) -> None:
    script = root / "script"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o755)
    assert subprocess.run([script], capture_output=True, check=True).stdout == b"ran\n"
    shutil.copy(
        sys.executable if not Path(sys.executable).is_symlink() else Path(sys.executable).resolve(),
        root / "py",
    )
    assert subprocess.run(
        [root / "py", "-S", "-c", "print(1)"], capture_output=True, check=False
    ).returncode in (0, 1)
    (root / "package").mkdir()
    (root / "package" / "__init__.py").write_text("value = 7\n")
    done = subprocess.run(
        [sys.executable, "-c", "import package; print(package.value)"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"7\n"


def two_processes_see_each_others_writes_at_once(root: Path) -> None:
    path = root / "file"
    path.write_bytes(b"")
    with path.open("rb") as reader:
        for number in range(50):
            subprocess.run(["sh", "-c", f"printf %03d {number} >> {path}"], check=True)
            assert reader.read() == b"%03d" % number
            assert path.stat().st_size == 3 * (number + 1)


def sqlite_with_a_rollback_journal(root: Path) -> None:
    _sqlite(root / "rollback.db", "DELETE")


def sqlite_with_a_write_ahead_log(root: Path) -> None:
    _sqlite(root / "wal.db", "WAL")


def _sqlite(path: Path, mode: str) -> None:
    first, second = sqlite3.connect(path), sqlite3.connect(path)
    assert first.execute(f"PRAGMA journal_mode={mode}").fetchone()[0].upper() == mode
    first.execute("PRAGMA synchronous=FULL")
    first.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")
    for start in range(0, 400, 40):
        with first:
            first.executemany(
                "INSERT INTO t VALUES (?, ?)",
                [(k, random.Random(k).randbytes(3000)) for k in range(start, start + 40)],
            )
        assert second.execute("SELECT count(*) FROM t").fetchone()[0] == start + 40
    with contextlib.suppress(ZeroDivisionError), second:
        second.execute("DELETE FROM t WHERE k < 200")
        raise ZeroDivisionError
    with first:
        first.execute("UPDATE t SET v = x'00' WHERE k % 3 = 0")
    assert second.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert second.execute("SELECT count(*), sum(length(v)) FROM t").fetchone() == (400, 134 + 266 * 3000)
    first.close()
    second.close()


def leave_a_tree_behind(root: Path) -> None:
    """Write what `the_tree_is_still_there` expects after a new mount."""
    (root / "kept" / "below").mkdir(parents=True)
    (root / "kept" / "small").write_bytes(b"small")
    (root / "kept" / "big").write_bytes(random.Random(1).randbytes(5_000_000))
    (root / "kept" / "below" / "link").symlink_to("../small")
    os.link(root / "kept" / "small", root / "kept" / "below" / "second")
    os.setxattr(root / "kept" / "small", "user.note", b"value")
    (root / "kept" / "small").chmod(0o741)
    os.utime(root / "kept" / "big", ns=(111, 222_000_000_333))


def many_ask_for_holes_at_once(root: Path) -> None:
    """Each answer waits for writes of the kernel, which somebody has to serve; a hole may be called data."""
    hole, threads = 1 << 20, 40

    def ask(number: int) -> set[int]:
        found = set()
        with (root / f"holes-{number}").open("w+b") as file:
            file.truncate(hole + 8192)
            with mmap.mmap(file.fileno(), 0) as mapping:
                for turn in range(5):
                    mapping[hole + turn] = 1
                    found.add(os.lseek(file.fileno(), 0, os.SEEK_DATA))
                    found.add(os.lseek(file.fileno(), hole, os.SEEK_HOLE) - 8192)
        return found

    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(ask, range(threads)))
    assert all(found <= {0, hole} for found in answers), answers
    assert {hole} <= set.union(*answers)


def many_sync_while_others_go_on(root: Path) -> None:
    """Each fsync waits for its anchor, more of them than a queue of the kernel has entries."""
    ended = threading.Event()

    def sync(number: int) -> int:
        with (root / f"synced-{number}").open("wb", buffering=0) as file:
            for _ in range(5):
                file.write(bytes(100))
                os.fsync(file.fileno())
        return (root / f"synced-{number}").stat().st_size

    def look() -> int:
        looks = 0
        while not ended.is_set():
            assert not (root / f"missing-{looks}").exists()
            looks += 1
        return looks

    with ThreadPoolExecutor(50) as pool:
        others = [pool.submit(look) for _ in range(2)]
        assert list(pool.map(sync, range(48))) == [500] * 48
        ended.set()
        assert all(other.result() > 0 for other in others)


def the_tree_is_still_there(root: Path) -> None:
    assert (root / "kept" / "small").read_bytes() == b"small"
    assert (root / "kept" / "big").read_bytes() == random.Random(1).randbytes(5_000_000)
    assert os.readlink(root / "kept" / "below" / "link") == "../small"
    assert (root / "kept" / "below" / "second").stat().st_nlink == 2
    assert os.getxattr(root / "kept" / "small", "user.note") == b"value"
    assert stat.S_IMODE((root / "kept" / "small").stat().st_mode) == 0o741
    assert (root / "kept" / "big").stat().st_mtime_ns == 222_000_000_333
    assert os.fstatvfs(os.open(root, os.O_RDONLY)).f_flag & os.ST_RDONLY
    try:
        (root / "new").write_bytes(b"")
    except OSError as error:
        if error.errno == errno.EROFS:
            return
    raise AssertionError("a read-only mount took a write")


if __name__ == "__main__":
    directory = Path(sys.argv[2])
    if len(sys.argv) > 3 and sys.argv[3] == "own":
        directory /= sys.argv[1]
        directory.mkdir()
    globals()[sys.argv[1]](directory)
