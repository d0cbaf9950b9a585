"""Programs like those of `posix_programs.py`: special files, holes, what outlives its name, limits."""

import ctypes
import errno
import mmap
import os
import select
import socket
import stat
import struct
import sys
import threading
import time
from pathlib import Path

from posix_programs import LIBC, refused

KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT = 1, 2, 8, 16, 32
NOBODY = 0xFFFFFFFF
ACCESS_LIST = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, 6, who)
    for tag, who in ((1, NOBODY), (2, 7), (4, NOBODY), (16, NOBODY), (32, NOBODY))
)
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
EXECUTABLE_CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def fifos_and_sockets_carry_bytes(root: Path) -> None:
    os.mkfifo(root / "fifo", 0o600)
    assert stat.S_ISFIFO((root / "fifo").stat().st_mode)
    writer = threading.Thread(target=(root / "fifo").write_bytes, args=(b"through the pipe",))
    writer.start()
    assert (root / "fifo").read_bytes() == b"through the pipe"
    writer.join()
    assert (root / "fifo").stat().st_size == 0
    os.chdir(root)  # a socket's path has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("socket")
        server.listen()
        client.connect("socket")
        client.sendall(b"through the socket")
        assert server.accept()[0].recv(100) == b"through the socket"
    assert stat.S_ISSOCK((root / "socket").stat().st_mode)
    os.link("socket", "again")
    os.rename("fifo", "pipe")
    assert sorted(os.listdir()) == ["again", "pipe", "socket"]
    kinds = {entry.name: stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) for entry in os.scandir()}
    assert kinds == {"again": stat.S_IFSOCK, "pipe": stat.S_IFIFO, "socket": stat.S_IFSOCK}
    assert (root / "again").stat().st_nlink == 2


def devices_are_kept_and_open_nothing(root: Path) -> None:
    for name, kind, number in (("char", stat.S_IFCHR, (1, 3)), ("block", stat.S_IFBLK, (259, 70_000))):
        os.mknod(root / name, kind | 0o666, os.makedev(*number))
        found = (root / name).stat()
        assert (stat.S_IFMT(found.st_mode), found.st_rdev) == (kind, os.makedev(*number))
        with refused(errno.EACCES):
            os.open(root / name, os.O_RDONLY)


def holes_are_punched_and_ranges_zeroed(root: Path) -> None:
    size = 1 << 20
    content = bytearray(os.urandom(size))
    with (root / "file").open("w+b", buffering=0) as file:
        fd = file.fileno()
        file.write(content)
        for mode, offset, length in (
            (PUNCH_HOLE | KEEP_SIZE, 100_000, 300_000),
            (ZERO_RANGE | KEEP_SIZE, 700_001, 77),
            (PUNCH_HOLE | KEEP_SIZE, size - 70_000, 200_000),
        ):
            _fallocate(fd, mode, offset, length)
            end = min(offset + length, size)
            content[offset:end] = bytes(end - offset)
        os.fsync(fd)
        assert os.fstat(fd).st_size == size
        assert (root / "file").read_bytes() == content
        assert os.fstat(fd).st_blocks * 512 < size - 300_000
        hole = os.lseek(fd, 0, os.SEEK_HOLE)
        assert 100_000 <= hole < 400_000
        assert hole < os.lseek(fd, hole, os.SEEK_DATA) <= 400_000
        _fallocate(fd, ZERO_RANGE, size, 5000)
        assert os.fstat(fd).st_size == size + 5000
        _fallocate(fd, KEEP_SIZE, size, 1 << 20)
        assert os.fstat(fd).st_size == size + 5000
        _fallocate(fd, 0, 0, 3 << 20)
        assert os.fstat(fd).st_size == 3 << 20
        assert (root / "file").read_bytes() == bytes(content) + bytes((3 << 20) - size)
        for mode in (COLLAPSE, INSERT, PUNCH_HOLE):
            with refused(errno.EOPNOTSUPP):
                _fallocate(fd, mode, 0, 65536)
        assert os.fstat(fd).st_size == 3 << 20


def a_page_that_is_only_mapped_counts_as_data_when_it_is_sought(root: Path) -> None:
    with (root / "file").open("w+b") as file:
        file.truncate(8 << 20)
        with mmap.mmap(file.fileno(), 8 << 20) as mapped:
            mapped[5 << 20] = 7
            assert os.lseek(file.fileno(), 0, os.SEEK_DATA) <= 5 << 20
            assert os.lseek(file.fileno(), 5 << 20, os.SEEK_HOLE) > 5 << 20
            assert mapped[5 << 20] == 7


def files_of_terabytes_are_sparse(root: Path) -> None:
    with (root / "file").open("w+b") as file:
        for place in (0, (4 << 30) - 3, (4 << 30) + 5, 7 << 40):
            file.seek(place)
            file.write(b"there")
        file.flush()
        found = os.fstat(file.fileno())
        assert (found.st_size, found.st_blocks < 2000) == ((7 << 40) + 5, True)
        file.seek((4 << 30) - 4)
        assert file.read(14) == b"\0there\0\0\0there"
        assert os.lseek(file.fileno(), 1 << 40, os.SEEK_DATA) == 7 << 40
        with refused(errno.EFBIG):
            os.ftruncate(file.fileno(), (256 << 40) + 1)
        file.truncate(3)
        assert os.fstat(file.fileno()).st_blocks <= 128


def ranges_are_copied_between_files(root: Path) -> None:
    content = os.urandom(400_000)
    (root / "from").write_bytes(content)
    with (root / "from").open("rb") as source, (root / "to").open("w+b") as target:
        rest, place = len(content) - 1000, 1000
        while rest:
            done = os.copy_file_range(source.fileno(), target.fileno(), rest, offset_src=place)
            assert done > 0
            rest, place = rest - done, place + done
    assert (root / "to").read_bytes() == content[1000:]


def what_somebody_holds_outlives_its_name(root: Path) -> None:
    (root / "dir").mkdir()
    (root / "file").write_bytes(b"content")
    os.mkfifo(root / "fifo")
    os.symlink("nowhere", root / "link")
    (root / "over").write_bytes(b"old")
    held = {
        name: os.open(root / name, os.O_PATH | os.O_NOFOLLOW)
        for name in ("dir", "file", "fifo", "link", "over")
    }
    pipe = os.open(root / "fifo", os.O_RDWR)
    (root / "dir").rmdir()
    for name in ("file", "fifo", "link"):
        (root / name).unlink()
    (root / "new").write_bytes(b"new")
    (root / "new").replace(root / "over")
    for name, fd in held.items():
        assert os.fstat(fd).st_nlink == 0, name
    assert Path(f"/proc/self/fd/{held['file']}").read_bytes() == b"content"
    assert Path(f"/proc/self/fd/{held['over']}").read_bytes() == b"old"
    os.write(pipe, b"still")
    assert select.select([pipe], [], [], 5)[0] == [pipe]
    assert os.read(pipe, 9) == b"still"
    with refused(errno.ENOENT):
        os.open("inside", os.O_CREAT | os.O_WRONLY, dir_fd=held["dir"])
    for fd in (*held.values(), pipe):
        os.close(fd)
    assert os.listdir(root) == ["over"]


def a_file_handle_opens_its_file_until_that_is_gone(root: Path) -> None:
    (root / "file").write_bytes(b"content")
    handle = ctypes.create_string_buffer(struct.pack("<Ii", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    named = LIBC.name_to_handle_at(-100, os.fsencode(root / "file"), handle, ctypes.byref(mount), 0)
    assert named == 0, os.strerror(ctypes.get_errno())
    at = os.open(root, os.O_RDONLY)
    deadline = time.monotonic() + 60
    Path("/proc/sys/vm/drop_caches").write_text("2")  # so that the kernel asks again
    found = LIBC.open_by_handle_at(at, handle, os.O_RDONLY)
    assert found >= 0, os.strerror(ctypes.get_errno())
    assert os.read(found, 100) == b"content"
    os.close(found)
    (root / "file").unlink()
    # The kernel lets go of what was closed in its own time, and till then the file is there.
    while (found := LIBC.open_by_handle_at(at, handle, os.O_RDONLY)) >= 0 and time.monotonic() < deadline:
        os.close(found)
        time.sleep(0.01)
    assert found == -1
    assert ctypes.get_errno() == errno.ESTALE
    os.close(at)


def files_without_a_name_are_refused(root: Path) -> None:
    with refused(errno.EOPNOTSUPP):
        os.open(root, os.O_TMPFILE | os.O_RDWR, 0o600)


def times_move_as_posix_says(root: Path) -> None:
    path = root / "file"
    path.write_bytes(b"content")
    os.utime(path, ns=(1_000_000_001, 2_000_000_002))
    changed = path.stat().st_ctime_ns

    def utimens(access: tuple[int, int], change: tuple[int, int]) -> None:
        pair = (ctypes.c_long * 4)(*access, *change)
        assert LIBC.utimensat(-100, os.fsencode(path), pair, 0) == 0

    utimens((5, 5), (0, UTIME_OMIT))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (5_000_000_005, 2_000_000_002)
    time.sleep(0.02)  # the kernel's clock for "now" ticks every few milliseconds
    utimens((0, UTIME_OMIT), (0, UTIME_NOW))
    assert path.stat().st_atime_ns == 5_000_000_005
    assert path.stat().st_mtime_ns > changed
    assert path.read_bytes() == b"content"
    assert path.stat().st_atime_ns == 5_000_000_005  # reading moves no time
    for change in (
        lambda: path.chmod(0o600),
        lambda: os.link(path, root / "other"),
        lambda: os.chown(path, 1, 1),
    ):
        time.sleep(0.02)
        before, written = path.stat().st_ctime_ns, path.stat().st_mtime_ns
        change()
        assert path.stat().st_ctime_ns > before
        assert path.stat().st_mtime_ns == written
    above = root.stat().st_mtime_ns
    (root / "other").unlink()
    assert root.stat().st_mtime_ns > above


def privileges_fall_when_owner_or_content_change(root: Path) -> None:
    path, folder = root / "program", root / "folder"
    path.write_bytes(b"first")
    folder.mkdir()
    for place in (path, folder):
        os.chown(place, 1, 1)
        place.chmod(0o6755)
        os.chown(place, 2, 2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert stat.S_IMODE(folder.stat().st_mode) == 0o6755
    path.chmod(0o2644)  # without the group's right to execute: no privilege
    os.chown(path, 3, 3)
    assert stat.S_IMODE(path.stat().st_mode) == 0o2644
    os.setxattr(path, "security.capability", EXECUTABLE_CAPABILITY)
    path.write_bytes(b"second")
    with refused(errno.ENODATA):
        os.getxattr(path, "security.capability")


def group_bit_of_no_program_falls_by_writers_outside_of_the_group_only(root: Path) -> None:
    os.chdir(root)  # the user below may not come here by its path
    root.chmod(0o777)
    for group, cut, left in ((2, False, 0o2666), (2, True, 0o2666), (1, False, 0o666), (1, True, 0o666)):
        path = Path(f"{group}{cut}")
        path.write_bytes(b"first")
        os.chown(path, 2, group)
        path.chmod(0o6666)
        if (child := os.fork()) == 0:
            os.setgroups([])
            os.setresgid(2, 2, 2)
            os.setresuid(2, 2, 2)
            with path.open("r+b", buffering=0) as file:
                os._exit(0 if (file.truncate(1) if cut else file.write(b"s")) == 1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert stat.S_IMODE(path.stat().st_mode) == left, (path, oct(path.stat().st_mode))


def attributes_have_limits_and_name_spaces(root: Path) -> None:
    path = root / "file"
    path.touch()
    for name in ("user.a", "trusted.b", "security.c"):
        os.setxattr(path, name, b"value")
        assert os.getxattr(path, name) == b"value"
    with refused(errno.E2BIG):
        os.setxattr(path, "user.big", bytes(65537))
    for number in range(3):
        os.setxattr(path, f"user.{number}", bytes(65536))
    with refused(errno.ENOSPC):
        os.setxattr(path, "user.3", bytes(65536))
    with refused(errno.ERANGE):
        os.setxattr(path, "user." + "n" * 251, b"")
    with refused(errno.EOPNOTSUPP):  # one for user 7 that would be kept and enforced by nobody
        os.setxattr(path, "system.posix_acl_access", ACCESS_LIST)
    with refused(errno.ENODATA):
        os.getxattr(path, "system.posix_acl_access")


if __name__ == "__main__":
    directory = Path(sys.argv[2]) / sys.argv[1]
    directory.mkdir()
    globals()[sys.argv[1]](directory)
