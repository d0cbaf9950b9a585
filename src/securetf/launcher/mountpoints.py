"""Directories that the launcher makes so that something can be mounted there, and removes again.

Launchers on one machine share them, and removing a directory that another launcher's namespace has a mount
on takes that mount away (Linux detaches it). So each launcher holds a shared lock on every one that it uses,
and only a directory that nobody has locked is removed. A registry file lists what was made, so that the next
launcher removes what a killed one left; its own lock is held only while directories are made or removed.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from securetf.errors import LaunchError

REGISTRY = Path("/run/securetf-mount-points")  # one JSON string per line; mode 0600


class MountPoints:
    """Use as a context manager around the life of the mounts."""

    def __init__(self, registry: Path) -> None:
        self._path = registry
        self._held: list[int] = []

    def __enter__(self) -> "MountPoints":
        with self._registry() as registry:
            _clean(registry)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._registry() as registry:
            while self._held:
                os.close(self._held.pop())
            _clean(registry)

    def make(self, path: str) -> None:
        """Make the directory `path` and its missing parents. Raises LaunchError naming what is in the way."""
        with self._registry() as registry:
            listed = _listed(registry)
            for directory in map(str, [*reversed(Path(path).parents), Path(path)]):
                if not os.path.isdir(directory):
                    # Listed first, so that a kill leaves no stray.
                    os.write(registry, json.dumps(directory).encode() + b"\n")
                    make_directory(directory)
                elif directory not in listed:
                    continue  # not ours: it stays
                self._held.append(_open(directory))
                fcntl.flock(self._held[-1], fcntl.LOCK_SH)

    @contextmanager
    def _registry(self) -> Iterator[int]:
        """Open and lock the registry."""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            registry = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise LaunchError(
                f"the registry of mount points {self._path} cannot be opened: {error.strerror}",
                "run as root on a machine with a writable /run",
            ) from None
        try:
            fcntl.flock(registry, fcntl.LOCK_EX)
            yield registry
        finally:
            os.close(registry)


def make_directory(path: str) -> None:
    """Make one directory, mode 0755. Raises LaunchError if something else is there or it cannot be made."""
    try:
        Path(path).mkdir(mode=0o755, exist_ok=True)
    except OSError as error:
        raise LaunchError(
            f"the mount point {path} cannot be made: {error.strerror}",
            "make it, or mount elsewhere in the Manifest",
        ) from None


def _clean(registry: int) -> None:
    """Remove each listed directory that no launcher uses; keep those in the list that are still there."""
    listed = sorted(_listed(registry), key=lambda one: (-one.count("/"), one))
    left = [directory for directory in listed if not _removed(directory)]
    if left != listed:
        os.ftruncate(registry, 0)
        os.write(registry, b"".join(json.dumps(directory).encode() + b"\n" for directory in left))


def _removed(directory: str) -> bool:
    try:
        held = _open(directory)
    except OSError:
        return True  # gone, or replaced by something that is not ours
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(OSError):  # not empty
            os.rmdir(directory)
            return True
    except BlockingIOError:
        return False  # in use
    finally:
        os.close(held)
    return False


def _open(directory: str) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _listed(registry: int) -> set[str]:
    raw = os.pread(registry, os.fstat(registry).st_size, 0)
    found = set()
    for line in raw.split(b"\n"):
        try:
            path = json.loads(line) if line else None
        except ValueError:
            continue  # a line cut off by a kill: its directory was not made yet
        if isinstance(path, str) and path.startswith("/"):
            found.add(path)
    return found
