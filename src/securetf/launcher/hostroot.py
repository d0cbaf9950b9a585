"""What of the machine's file system the program sees, where its Manifest has `host_paths`: a root of its own.

The root is a small memory file system at `ROOT`, in the program's mount namespace. Bound into it are the host
paths, what the Manifest mounts, the shield's own files of `/etc`, `/proc`, and a few devices; nothing else is
there. Longer paths are bound later, so that the longest one wins. Only the program has it as its root: it is
a child of a thread that is there for the moment of the start.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from securetf.errors import LaunchError
from securetf.launcher.mountpoints import MountPoints
from securetf.launcher.plan import LaunchPlan
from securetf.launcher.stages import Shield

ROOT = "/run/securetf-root"
ROOT_SIZE = 1 << 20  # bytes: directories and empty files to mount on
SHARED_MEMORY_SIZE = 1 << 30  # bytes at most; a tmpfs takes only what is written
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
OF_THE_SHIELD = ("/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf")
_STREAMS = {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}


class HostRoot:
    """Use `build` once all is mounted; `entered` around the start of the program."""

    def __init__(self, shield: Shield, undo: Callable[[str], None], root: str = ROOT) -> None:
        """undo: called with each path that has a mount on it now; they are to be unmounted in reverse."""
        self._shield, self._undo, self._root = shield, undo, root

    def build(self, planned: LaunchPlan, covered: Sequence[str], points: MountPoints) -> None:
        """Build the root. covered: paths that the shield has put something of its own on.

        Raises:
            LaunchError: a host path is not there, or leads through a symbolic link.
        """
        points.make(self._root)
        self._memory("", ROOT_SIZE, 0o755)  # of root's: a program with `user_id` cannot write it
        shown = {path: mode == "rw" for path, mode in (planned.host_paths or {}).items()}
        for path, writable in sorted(shown.items(), key=_depth):
            self._host_path(path, writable)
        ours = ["/proc", *DEVICES, *covered, *(one.path for one in planned.mounts)]
        for path in sorted(set(ours), key=lambda one: (one.count("/"), one)):
            if os.path.exists(path):
                self._show(path, path, writable=True)
        for path in filter(os.path.exists, OF_THE_SHIELD):  # a link on the machine whose target is covered
            if not os.path.lexists(self._root + path):
                self._show(os.path.realpath(path), path, writable=False)
        for name, target in _STREAMS.items():
            os.symlink(f"/proc/self/{target}", f"{self._root}/dev/{name}")
        self._make("/dev/shm", directory=True)  # noqa: S108  (in memory, for the program alone)
        self._memory("/dev/shm", SHARED_MEMORY_SIZE, 0o1777)  # noqa: S108

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make it the root of the calling thread until the end.

        Threads that this one started share it meanwhile: they open nothing by a path from the root but in
        /proc. Stores are reached by descriptors, and what serves mounts has left for the main thread's root.
        """
        outside = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.chroot(self._root)
            os.chdir("/")
            yield
        finally:
            os.fchdir(outside)
            os.chroot(".")
            os.close(outside)

    def _host_path(self, path: str, writable: bool) -> None:
        with _opened(path) as found:
            if stat.S_ISLNK(os.fstat(found).st_mode):
                self._make(os.path.dirname(path), directory=True)
                os.symlink(os.readlink("", dir_fd=found), self._root + path)
                return
            if stat.S_ISCHR(os.fstat(found).st_mode) and not writable:
                raise LaunchError(
                    f"the host path {path} is a device, which cannot be opened where it is read-only",
                    f'write "{path}" = "rw" in `host_paths`',
                )
            directory = stat.S_ISDIR(os.fstat(found).st_mode)
            self._show(f"/proc/self/fd/{found}", path, writable=writable, directory=directory)

    def _show(self, source: str, path: str, *, writable: bool, directory: bool | None = None) -> None:
        self._make(path, directory=os.path.isdir(source) if directory is None else directory)
        (self._shield.bind if writable else self._shield.cover_file)(source, self._root + path)
        self._undo(self._root + path)

    def _memory(self, path: str, size_bytes: int, mode: int) -> None:
        self._shield.mount_memory(self._root + path, size_bytes=size_bytes, mode=mode)
        self._undo(self._root + path)

    def _make(self, path: str, *, directory: bool) -> None:
        """Make what is to be mounted on, in our memory only; in a host path it is there."""
        if os.path.realpath(self._root + path) != (self._root + path).rstrip("/"):  # it might lead out of it
            raise LaunchError(
                f"{path} cannot be shown in the program's root: it leads through a symbolic link",
                "name the path without symbolic links",
            )
        try:
            parent = path if directory else os.path.dirname(path)
            os.makedirs(self._root + parent, mode=0o755, exist_ok=True)
            if not directory and not os.path.lexists(self._root + path):
                os.close(os.open(self._root + path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        except OSError as error:
            raise LaunchError(
                f"{path} cannot be shown in the program's root: {error.strerror}",
                "make it on the machine, or correct `host_paths`",
            ) from None


def _depth(one: tuple[str, bool]) -> tuple[int, str]:
    return one[0].count("/"), one[0]


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open a path of the machine beneath its root, crossing no symbolic link; the last part may be one."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    at = os.open("/", flags | os.O_DIRECTORY)
    try:
        for part in path.strip("/").split("/"):
            try:
                below = os.open(part, flags, dir_fd=at)
            except OSError as error:
                raise LaunchError(
                    f"the host path {path} cannot be shown: {part}: {_reason(at, error)}",
                    "make it on the machine, or name the path without symbolic links in `host_paths`",
                ) from None
            os.close(at)
            at = below
        yield at
    finally:
        os.close(at)


def _reason(at: int, error: OSError) -> str:
    """Linux says ENOTDIR for what stands beneath a symbolic link."""
    return "it lies beneath a symbolic link" if stat.S_ISLNK(os.fstat(at).st_mode) else str(error.strerror)
