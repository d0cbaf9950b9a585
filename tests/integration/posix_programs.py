"""Programs that run on a mounted volume: `posix_programs.py NAME DIRECTORY own` runs one in its directory.

They know nothing of securetf. Each asserts what Linux promises for an ordinary file system.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
NOREPLACE, EXCHANGE = 1, 2


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == code:
            return
        raise AssertionError(f"{error!r}, expected {errno.errorcode[code]}") from error
    else:
        raise AssertionError(f"not refused; expected {errno.errorcode[code]}")


def renameat2(old: Path, new: Path, flags: int) -> None:
    if LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def create_read_write_append_and_seek(root: Path) -> None:
    path = root / "file"
    path.write_bytes(b"0123456789")
    with path.open("r+b") as file:
        file.seek(4)
        file.write(b"XY")
    with path.open("ab") as file:
        file.write(b"tail")
    assert path.read_bytes() == b"0123XY6789tail"
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        assert file.read() == b"tail"
    with refused(errno.EEXIST):
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with path.open("wb"):
        pass
    assert path.stat().st_size == 0
    with refused(errno.ENOENT):
        (root / "missing").read_bytes()


def small_appends_arrive_in_order_and_whole(root: Path) -> None:
    path = root / "events"
    with path.open("ab", buffering=0) as first, path.open("ab", buffering=0) as second:
        for number in range(2000):
            (first if number % 2 else second).write(b"%06d\n" % number)
        assert path.stat().st_size == 14000
    assert path.read_bytes() == b"".join(b"%06d\n" % number for number in range(2000))


def truncate_cuts_and_extends_with_zeros(root: Path) -> None:
    path = root / "file"
    path.write_bytes(b"a" * 200_000)
    os.truncate(path, 100_001)
    assert path.stat().st_size == 100_001
    os.truncate(path, 300_000)
    assert path.read_bytes() == b"a" * 100_001 + bytes(199_999)
    with path.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"end")
    contents = path.read_bytes()
    assert contents[300_000 : 1 << 20] == bytes((1 << 20) - 300_000)
    assert contents.endswith(b"end")
    os.truncate(path, 0)
    assert path.read_bytes() == b""


def modes_owners_and_times_are_kept(root: Path) -> None:
    path = root / "file"
    path.write_bytes(b"x")
    path.chmod(0o640)
    os.chown(path, 1234, 4321)
    os.utime(path, ns=(1_000_000_000_123_456_789, 1_500_000_000_987_654_321))
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert (found.st_uid, found.st_gid) == (1234, 4321)
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_000_123_456_789, 1_500_000_000_987_654_321)
    os.utime(path, ns=(0, -5_000_000_000))
    assert path.stat().st_mtime_ns == -5_000_000_000


def a_write_moves_mtime_and_a_set_mtime_stays_after_close(root: Path) -> None:
    path = root / "file"
    path.write_bytes(b"x")
    os.utime(path, (1, 1))
    before = time.time() - 2
    with path.open("ab") as file:
        file.write(b"y")
    assert before <= path.stat().st_mtime <= time.time() + 2
    with path.open("ab") as file:
        file.write(b"z")
        file.flush()
        os.utime(path, (5, 7))
    os.sync()
    assert (path.stat().st_atime, path.stat().st_mtime) == (5, 7)
    first = root.stat().st_mtime_ns
    time.sleep(0.01)
    (root / "another").write_bytes(b"")
    assert root.stat().st_mtime_ns > first


def directories_are_made_listed_and_removed(root: Path) -> None:
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "file").write_bytes(b"")
    assert sorted(os.listdir(root / "a")) == ["b", "file"]
    assert (root / "a").stat().st_nlink == 3
    with refused(errno.ENOTEMPTY):
        (root / "a").rmdir()
    with refused(errno.EEXIST):
        (root / "a").mkdir()
    with refused(errno.ENOTDIR):
        os.listdir(root / "a" / "file")
    with refused(errno.ENOTDIR):
        (root / "a" / "file" / "below").write_bytes(b"")
    with refused(errno.EISDIR):
        (root / "a").write_bytes(b"")
    shutil.rmtree(root / "a")
    assert os.listdir(root) == []


def five_thousand_names_are_each_listed_once_also_while_they_are_removed(root: Path) -> None:
    names = {f"name-{number:05d}" for number in range(5000)}
    for name in names:
        (root / name).write_bytes(name.encode())
    listed = [entry.name for entry in os.scandir(root)]
    assert len(listed) == 5000
    assert set(listed) == names
    seen = []
    for entry in os.scandir(root):
        seen.append(entry.name)
        os.unlink(entry.path)
    assert set(seen) == names
    assert os.listdir(root) == []


def rename_replaces_moves_and_refuses(root: Path) -> None:
    (root / "old").write_bytes(b"old")
    (root / "new").write_bytes(b"new")
    os.replace(root / "new", root / "old")
    assert (root / "old").read_bytes() == b"new"
    assert os.listdir(root) == ["old"]
    (root / "d" / "e").mkdir(parents=True)
    os.rename(root / "old", root / "d" / "e" / "moved")
    assert (root / "d" / "e" / "moved").read_bytes() == b"new"
    with refused(errno.EINVAL):
        os.rename(root / "d", root / "d" / "e" / "inside")
    (root / "full").mkdir()
    (root / "full" / "x").write_bytes(b"")
    with refused(errno.ENOTEMPTY):
        os.rename(root / "d", root / "full")
    (root / "empty").mkdir()
    os.rename(root / "d", root / "empty")
    assert (root / "empty" / "e" / "moved").read_bytes() == b"new"
    (root / "file").write_bytes(b"")
    with refused(errno.EISDIR):
        os.rename(root / "file", root / "full")
    with refused(errno.ENOTDIR):
        os.rename(root / "full", root / "file")


def rename_flags_swap_and_do_not_replace(root: Path) -> None:
    (root / "a").write_bytes(b"a")
    (root / "b").write_bytes(b"b")
    with refused(errno.EEXIST):
        renameat2(root / "a", root / "b", NOREPLACE)
    renameat2(root / "a", root / "b", EXCHANGE)
    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (b"b", b"a")
    renameat2(root / "a", root / "c", NOREPLACE)
    assert sorted(os.listdir(root)) == ["b", "c"]


def an_open_file_outlives_its_name(root: Path) -> None:
    path = root / "file"
    with path.open("w+b") as file:
        file.write(b"kept")
        file.flush()
        path.unlink()
        assert not path.exists()
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b" and written")
        file.seek(0)
        assert file.read() == b"kept and written"
    (root / "other").write_bytes(b"other")
    with (root / "other").open("rb") as file:
        (root / "replacement").write_bytes(b"replacement")
        os.replace(root / "replacement", root / "other")
        assert file.read() == b"other"
    assert (root / "other").read_bytes() == b"replacement"


def symbolic_and_hard_links(root: Path) -> None:
    (root / "file").write_bytes(b"contents")
    (root / "soft").symlink_to("file")
    assert os.readlink(root / "soft") == "file"
    assert (root / "soft").read_bytes() == b"contents"
    assert (root / "soft").lstat().st_size == 4
    (root / "dangling").symlink_to("nowhere")
    with refused(errno.ENOENT):
        (root / "dangling").read_bytes()
    os.link(root / "file", root / "hard")
    assert (root / "hard").stat().st_ino == (root / "file").stat().st_ino
    assert (root / "file").stat().st_nlink == 2
    (root / "file").unlink()
    assert (root / "hard").stat().st_nlink == 1
    assert (root / "hard").read_bytes() == b"contents"
    (root / "d").mkdir()
    with refused(errno.EPERM):
        os.link(root / "d", root / "e")


def extended_attributes(root: Path) -> None:
    path = root / "file"
    path.write_bytes(b"")
    os.setxattr(path, "user.one", b"1" * 1000)
    os.setxattr(path, "user.two", b"")
    assert sorted(os.listxattr(path)) == ["user.one", "user.two"]
    assert os.getxattr(path, "user.one") == b"1" * 1000
    with refused(errno.EEXIST):
        os.setxattr(path, "user.one", b"", os.XATTR_CREATE)
    with refused(errno.ENODATA):
        os.setxattr(path, "user.three", b"", os.XATTR_REPLACE)
    with refused(errno.ENODATA):
        os.getxattr(path, "user.three")
    os.removexattr(path, "user.one")
    with refused(errno.ENODATA):
        os.removexattr(path, "user.one")
    assert os.listxattr(path) == ["user.two"]


def names_of_any_bytes_up_to_255(root: Path) -> None:
    directory = os.fsencode(root)
    names = [b"n" * 255, "Grüße und 漢字".encode(), b"\xff\xfe raw", b" spaces\n and lines ", b"-rf"]
    for name in names:
        with open(directory + b"/" + name, "wb") as file:
            file.write(name)
    assert sorted(os.listdir(directory)) == sorted(names)
    for name in names:
        with open(directory + b"/" + name, "rb") as file:
            assert file.read() == name
    with refused(errno.ENAMETOOLONG):
        os.open(directory + b"/" + b"n" * 256, os.O_CREAT | os.O_WRONLY)
    with refused(errno.ENAMETOOLONG):
        os.stat(directory + b"/" + b"n" * 256)


def sync_calls_succeed(root: Path) -> None:
    path = root / "file"
    with path.open("wb") as file:
        file.write(b"x" * 300_000)
        file.flush()
        os.fdatasync(file.fileno())
        file.write(b"y")
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def _as_nobody(root: Path, *names: str) -> list[Path]:
    """Become an unprivileged user in this directory, whatever stands above it."""
    os.chdir(root)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    return [Path(name) for name in names]


def permissions_hold_for_another_user(root: Path) -> None:
    secret, public = root / "secret", root / "public"
    secret.write_bytes(b"s")
    secret.chmod(0o600)
    public.write_bytes(b"p")
    public.chmod(0o644)
    child = os.fork()
    if child == 0:
        try:
            secret, public = _as_nobody(root, "secret", "public")
            assert public.read_bytes() == b"p"
            assert os.access(public, os.R_OK)
            assert not os.access(public, os.W_OK)
            with refused(errno.EACCES):
                secret.read_bytes()
            with refused(errno.EACCES):
                Path("new").write_bytes(b"")
            with refused(errno.EPERM):
                public.chmod(0o777)
            os._exit(0)
        except BaseException:  # noqa: BLE001  (a forked child must not return)
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def set_id_bits_fall_when_another_user_writes(root: Path) -> None:
    path = root / "file"
    path.write_bytes(b"x")
    path.chmod(0o6777)
    child = os.fork()
    if child == 0:
        try:
            (path,) = _as_nobody(root, "file")
            with path.open("ab") as file:
                file.write(b"y")
            os._exit(0)
        except BaseException:  # noqa: BLE001  (a forked child must not return)
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    (root / "shared").mkdir()
    os.chown(root / "shared", 0, 777)
    (root / "shared").chmod(0o2775)
    (root / "shared" / "below").mkdir()
    (root / "shared" / "file").write_bytes(b"")
    assert (root / "shared" / "below").stat().st_gid == 777
    assert (root / "shared" / "below").stat().st_mode & stat.S_ISGID
    assert (root / "shared" / "file").stat().st_gid == 777


def locks_exclude_another_process(root: Path) -> None:
    path = root / "file"
    path.write_bytes(b"")
    attempt = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+b')\n"
        "try: getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit(42)"
    )
    for lock in ("flock", "lockf"):
        with path.open("r+b") as file:
            getattr(fcntl, lock)(file, fcntl.LOCK_EX)
            assert subprocess.run([sys.executable, "-c", attempt, path, lock], check=False).returncode == 42
        assert subprocess.run([sys.executable, "-c", attempt, path, lock], check=False).returncode == 0


def space_can_be_asked_for_and_reserved(root: Path) -> None:
    numbers = os.statvfs(root)
    assert numbers.f_namemax == 255
    assert numbers.f_bavail > 1 << 20
    path = root / "file"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 300_000)
    assert path.read_bytes() == bytes(300_000)


def data_and_holes_can_be_sought(root: Path) -> None:
    path = root / "file"
    with path.open("w+b") as file:
        file.write(b"head")
        file.truncate(1 << 20)
        file.flush()
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert 4 <= os.lseek(file.fileno(), 0, os.SEEK_HOLE) <= 1 << 20
        with refused(errno.ENXIO):
            os.lseek(file.fileno(), 2 << 20, os.SEEK_DATA)


if __name__ == "__main__":
    directory = Path(sys.argv[2])
    if len(sys.argv) > 3 and sys.argv[3] == "own":
        directory /= sys.argv[1]
        directory.mkdir()
    globals()[sys.argv[1]](directory)
