"""Directories that the launcher makes so that something can be mounted there, and removes again.

Launchers on one machine share the directories: removing one that another launcher's namespace has a mount on
would take that mount away (Linux detaches it). So each launcher holds a shared lock on a registry file, which
lists what was made; the last one to leave, or the next one after a kill, removes what is listed and empty.
"""

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType

from securetf.errors import LaunchError

REGISTRY = Path("/run/securetf-mountpoints")  # one JSON string per line; mode 0600


class MountPoints:
    """Use as a context manager around the life of the mounts."""

    def __init__(self, registry: Path) -> None:
        self._registry = registry
        self._file = -1

    def __enter__(self) -> "MountPoints":
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(self._registry, flags, 0o600)
        except OSError as error:
            raise LaunchError(
                f"the registry of mount points {self._registry} cannot be opened: {error.strerror}",
                "run as root on a machine with a writable /run",
            ) from None
        self._clean_if_alone()
        fcntl.flock(self._file, fcntl.LOCK_SH)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._clean_if_alone()
        os.close(self._file)

    def make(self, path: str) -> None:
        """Make the directory `path` and its missing parents. Raises LaunchError naming what is in the way."""
        for directory in [*reversed(Path(path).parents), Path(path)]:
            if directory.is_dir():
                continue
            os.write(
                self._file, json.dumps(str(directory)).encode() + b"\n"
            )  # first, so that a kill leaves no stray
            make_directory(str(directory))

    def _clean_if_alone(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # others still use them; the last one cleans
        for directory in sorted(_listed(self._file), key=lambda one: (-one.count("/"), one)):
            try:
                os.rmdir(directory)
            except OSError:
                continue  # not empty or gone: then it is no longer ours
        os.ftruncate(self._file, 0)
        fcntl.flock(self._file, fcntl.LOCK_UN)


def make_directory(path: str) -> None:
    """Make one directory, mode 0755. Raises LaunchError if something else is there or it cannot be made."""
    try:
        Path(path).mkdir(mode=0o755, exist_ok=True)
    except OSError as error:
        raise LaunchError(
            f"the mount point {path} cannot be made: {error.strerror}",
            "make it, or mount elsewhere in the Manifest",
        ) from None


def _listed(file: int) -> set[str]:
    raw = os.pread(file, os.fstat(file).st_size, 0)
    found = set()
    for line in raw.split(b"\n"):
        try:
            path = json.loads(line) if line else None
        except ValueError:
            continue  # a line cut off by a kill: its directory was not made yet
        if isinstance(path, str) and path.startswith("/"):
            found.add(path)
    return found
