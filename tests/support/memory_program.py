"""A program, not a test: keeps one of everything in a directory, changes it from run to run, and checks it.

argv: the directory. The number of the run stands in its file `round`. Prints the number; an assertion says
what is not as the run before left it.
"""

import mmap
import os
import stat
import sys
from pathlib import Path

BIG = bytes(range(256)) * 12_000  # some blocks of a megabyte, the last one not whole
SPARSE_END = 5_000_000
THEN = 1_500_000_000_123_456_789  # ns


def first(root: Path) -> None:
    for name in ("kept", "doomed"):
        (root / name).write_text(name)
    (root / "below" / "deeper").mkdir(parents=True)
    (root / "below" / "deeper" / "doomed").write_text("doomed")
    (root / "below").chmod(0o2750)
    (root / "tool").write_text("#!/bin/sh\n")
    (root / "tool").chmod(0o4755)
    (root / "one").write_text("one node")
    os.link(root / "one", root / "below" / "other")
    os.setxattr(root / "kept", "user.label", b"a label")
    (root / "link").symlink_to("../elsewhere")
    os.mkfifo(root / "pipe", 0o640)
    with (root / "sparse").open("wb") as file:
        file.seek(2_000_000)
        file.write(b"island")
        file.truncate(SPARSE_END)
    (root / "big").write_bytes(BIG)
    os.utime(root / "kept", ns=(THEN, THEN))


def check(root: Path, big: bytes) -> None:
    """What every later run finds."""
    assert stat.S_IMODE((root / "below").stat().st_mode) == 0o2750
    assert stat.S_IMODE((root / "tool").stat().st_mode) == 0o4755
    one = (root / "one").stat()
    assert (one.st_ino, one.st_nlink) == ((root / "below" / "other").stat().st_ino, 2)
    assert os.getxattr(root / "kept", "user.label") == b"a label"
    assert (root / "kept").stat().st_mtime_ns == THEN
    assert os.readlink(root / "link") == "../elsewhere"
    assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
    sparse = (root / "sparse").read_bytes()
    assert (len(sparse), sparse.strip(b"\0")) == (SPARSE_END, b"island")
    assert (root / "sparse").stat().st_blocks * 512 < 300_000
    assert (root / "big").read_bytes() == big


def changed(big: bytes) -> bytes:
    """Return what the second run makes of `big`."""
    return big[:1_500_000] + b"mapped" + big[1_500_006:]


def second(root: Path) -> None:
    check(root, BIG)
    (root / "doomed").unlink()
    (root / "below" / "deeper" / "doomed").unlink()
    (root / "below" / "deeper").rmdir()
    times = (root / "big").stat()
    with (root / "big").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        assert mapping[1_500_000:1_500_006] == BIG[1_500_000:1_500_006]
        mapping[1_500_000:1_500_006] = b"mapped"  # its page is there already: no fault, no new time
    os.utime(root / "big", ns=(times.st_atime_ns, times.st_mtime_ns))
    with (root / "below" / "other").open("a") as file:
        file.write(", appended")


def later(root: Path) -> None:
    check(root, changed(BIG))
    assert (root / "one").read_text() == "one node, appended"
    assert sorted(path.name for path in root.iterdir()) == [
        "below", "big", "kept", "link", "one", "pipe", "round", "sparse", "tool",
    ]  # fmt: skip
    assert os.listdir(root / "below") == ["other"]


def main() -> int:
    root = Path(sys.argv[1])
    number = int((root / "round").read_text()) if (root / "round").exists() else 0
    print(f"run {number}")
    (first, second, later)[min(number, 2)](root)
    if number < 2:
        (root / "round").write_text(str(number + 1))
    return 7 if number == 0 else 0  # what a program that failed has written is kept, too


if __name__ == "__main__":
    sys.exit(main())
