"""Volumes as plain files in memory, for machines without FUSE: laid out before the program starts, verified
byte by byte, and taken back as one commit when it has ended.

All of them lie in one memory file system, which bounds them together. It is mounted beneath the first of
them: the program reaches a volume by its own mount alone, and none that is read-only for writing.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from securetf.errors import EnvironmentUnfitError, NoSpaceError, SecuretfError, UsageError
from securetf.shields.filesystem import (
    Volume,
    bind_mount,
    cover_file,
    lay_out,
    memory_needed,
    mount_tmpfs,
    rekey_until,
    take_back,
    unmount,
)

SHARE = 2  # the volumes take at most this part of the memory that is available; the rest is the program's
_PAGE = 4096  # bytes; a tmpfs of 0 would have no bound
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Memory:
    """The memory file system of one launch. It is there while a volume is in it.

    why: what is said of the reason. Use from the thread whose mount namespace it is to be in.
    """

    def __init__(self, why: str, available: Callable[[], int] | None = None) -> None:
        """available: how many bytes of memory can be taken."""
        self.why = why
        self._available = available or available_bytes
        self._beneath: tuple[str, int] | None = None  # where it is mounted, its descriptor
        self._room = self._made = self._users = 0

    def show(self, name: str, volume: Volume | None, path: str, *, writable: bool) -> "Materialised":
        """Lay out a volume and show it at `path`; without one, an empty directory that nobody keeps.

        Raises:
            NoSpaceError: it does not fit. VolumeIntegrityError: what the host holds does not authenticate.
            EnvironmentUnfitError: nothing can be mounted here. SecuretfError: it holds devices, and this
            process may not make any.
        """
        self._users += 1
        try:
            beneath = self._beneath or self._mount(path)
            need = memory_needed(volume) if volume is not None else 0
            if need > self._room:
                raise NoSpaceError(
                    f"the volume {name} needs {need} bytes of memory, expected at most {self._room}: half of "
                    "what is available now, less the volumes before it",
                    "give the machine more memory, or FUSE: then volumes are mounted, not copied",
                )
            self._made += 1
            made = f"/proc/self/fd/{beneath[1]}/{self._made}"
            os.mkdir(made, 0o755)
            if volume is not None:
                lay_out(volume, made)
            self._room -= need
            (bind_mount if writable else cover_file)(made, path)
            return Materialised(self, volume, path, os.open(made, _DIRECTORY), writable=writable)
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """One volume less; the last one takes the file system with it."""
        self._users -= 1
        if self._users == 0 and self._beneath is not None:
            path, descriptor = self._beneath
            self._beneath = None
            os.close(descriptor)
            unmount(path)

    def _mount(self, path: str) -> tuple[str, int]:
        self._room = max(self._available() // SHARE, _PAGE)
        mount_tmpfs(path, size_bytes=self._room, mode=0o700)
        self._beneath = path, os.open(path, _DIRECTORY)
        return self._beneath


class Materialised:
    """One volume in memory. What the program changes is kept by `close`, and lost with this process."""

    def __init__(
        self, memory: Memory, volume: Volume | None, path: str, directory: int, *, writable: bool
    ) -> None:
        self._memory, self._volume, self._path = memory, volume, path
        self._directory, self._writable = directory, writable

    def in_memory(self) -> str:
        """Return why it is not mounted."""
        return self._memory.why

    def transport(self) -> str:
        """Return nothing: the kernel asks nobody."""
        return ""

    def integrity_errors(self) -> tuple[int, str]:
        """Return none: all was verified before the program started, or the launch was refused."""
        return 0, ""

    def stale_errors(self) -> int:
        """Return none: it shows one state."""
        return 0

    def newer(self, epoch: int, seq: int, root: bytes) -> Callable[[], None]:  # noqa: ARG002
        """Refuse: files that lie in memory do not follow."""
        raise UsageError("a volume in memory follows nobody", "use FUSE")

    def rekey(self, stopped: Callable[[], bool]) -> tuple[int, int] | None:
        """Seal what the host holds anew; as of a mounted one."""
        return None if self._volume is None else rekey_until(self._volume, stopped)

    def unmount(self) -> None:
        """Take it out of the program's sight."""
        unmount(self._path)

    def close(self) -> None:
        """Take back what differs as one commit, anchor it, and give the memory back.

        Raises: what the volume or its anchor raise; then nothing was changed.
        """
        try:
            if self._volume is not None:
                self._take_back(self._volume)
        finally:
            os.close(self._directory)
            self._memory.leave()

    def _take_back(self, volume: Volume) -> None:
        here = f"/proc/self/fd/{self._directory}"
        try:
            if self._writable:
                take_back(volume, here)
        except SecuretfError as error:
            raise type(error)(error.problem.replace(here, self._path), error.fix) from None
        finally:
            volume.close()


def available_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how much memory can be taken: of the machine, and of each control group that this process is in.

    Raises:
        EnvironmentUnfitError: the kernel does not say.
    """
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min([int(line.split()[1]) * 1024, *_of_control_groups(proc, cgroups)])
    raise EnvironmentUnfitError(
        f"{proc / 'meminfo'} does not say how much memory is available", "run on Linux with /proc mounted"
    )


def _of_control_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield what each limit leaves (cgroups(7), version 1 and 2); files that can be dropped count as free."""
    memberships = proc / "self" / "cgroup"
    for line in memberships.read_text().splitlines() if memberships.exists() else []:
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            top, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            top = cgroups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / path.lstrip("/")
        for directory in (group, *group.parents):
            if not directory.is_relative_to(top):
                break
            limit, used, droppable = names
            if not (directory / limit).exists() or (directory / limit).read_text().strip() == "max":
                continue
            statistics = dict(one.split() for one in (directory / "memory.stat").read_text().splitlines())
            taken = int((directory / used).read_text()) - int(statistics.get(droppable, 0))
            yield max(int((directory / limit).read_text()) - taken, 0)
