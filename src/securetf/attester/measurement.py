"""The software measurement of the simulated platform: what MRTD stands for there."""

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from securetf.errors import AttesterError

_LABEL = b"securetf software measurement v1"


def software_measurement(package: Path | None = None, executable: Path | None = None) -> bytes:
    """Return SHA-384 (48 bytes) over `measured_files` and the interpreter's version.

    A label, the version, then name and digest of each file, each after its length (4 bytes, big endian), so
    that no two sets of files share a transcript. Nothing is cached: each call reads every file.

    Raises:
        AttesterError: as `measured_files`.
    """
    digest = hashlib.sha384()
    parts = [_LABEL, sys.version.encode()]
    for name, file_digest in measured_files(package, executable):
        parts += [name.encode(), file_digest]
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()


def measured_files(package: Path | None = None, executable: Path | None = None) -> list[tuple[str, bytes]]:
    """Return name and SHA-256 (32 bytes) of each file that counts, in the order in which they are hashed.

    First `interpreter` (default: this one's executable) and `libpython`, the shared library that holds the
    rest of it, where there is one; then `securetf/<path>` of every regular file below `package` (default:
    this package) except `__pycache__` and `*.pyc`. The standard library and other packages do not count.

    Raises:
        AttesterError: a file cannot be read, or a link or device stands in the package.
    """
    package = package or Path(__file__).resolve().parents[1]
    named = [("interpreter", executable or Path(sys.executable).resolve())]
    named += [("libpython", library) for library in _shared_interpreter()]
    try:
        tree = sorted((path.relative_to(package).as_posix(), path) for path in _files(package))
        named += [(f"securetf/{name}", path) for name, path in tree]
        return [(name, _digest(path)) for name, path in named]
    except OSError as error:
        raise AttesterError(
            f"cannot measure {error.filename}: {error.strerror}",
            "make the installed package and the interpreter readable",
        ) from None


def _digest(path: Path) -> bytes:
    with path.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _shared_interpreter() -> list[Path]:
    """Return libpython as this process has it mapped; Debian's interpreter, for one, is built without.

    By the version's name, not `sysconfig`'s: what that has read is incomplete for a moment in other threads.
    """
    prefix = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = {Path(fields[5]) for line in maps if len(fields := line.split(maxsplit=5)) == 6}
    return sorted(path for path in mapped if path.name.startswith(prefix))


def _files(directory: Path) -> Iterator[Path]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name == "__pycache__" or entry.name.endswith(".pyc"):
                continue
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _files(Path(entry.path))
            elif stat.S_ISREG(mode):
                yield Path(entry.path)
            else:
                raise AttesterError(
                    f"{entry.path} is neither a file nor a directory, and cannot be measured",
                    "install securetf again, without links inside the package",
                )
