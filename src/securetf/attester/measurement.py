"""The software measurement of the simulated platform: what MRTD stands for there."""

import hashlib
import os
import stat
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from securetf.errors import AttesterError

_LABEL = b"securetf software measurement v1"


def software_measurement(package: Path | None = None, executable: Path | None = None) -> bytes:
    """Return SHA-384 (48 bytes) over the installed securetf package and the interpreter that runs it.

    Covers every regular file below `package` (default: this package) with its relative path, in the order of
    paths, except `__pycache__` and `*.pyc`; then the bytes of `executable` (default: this interpreter), of the
    shared library that holds the rest of it, if there is one, and the version. Each part stands after its length,
    so no two trees share a transcript. Nothing is cached. The standard library and other packages do not count.

    Raises:
        AttesterError: a file cannot be read, or a link or device stands in the package.
    """
    package = package or Path(__file__).resolve().parents[1]
    executable = executable or Path(sys.executable).resolve()
    digest = hashlib.sha384()
    try:
        for part in (_LABEL, sys.version.encode()):
            _update(digest, part)
        for path in sorted(_files(package), key=lambda path: path.relative_to(package).as_posix()):
            _update(digest, path.relative_to(package).as_posix().encode())
            _update(digest, path.read_bytes())
        for path in (executable, *_shared_interpreter()):
            _update(digest, path.read_bytes())
    except OSError as error:
        raise AttesterError(
            f"cannot measure {error.filename}: {error.strerror}",
            "make the installed package and the interpreter readable",
        ) from None
    return digest.digest()


def _shared_interpreter() -> list[Path]:
    """Return libpython, where the interpreter is only a stub that loads it."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return []
    library = Path(str(sysconfig.get_config_var("LIBDIR")), str(sysconfig.get_config_var("INSTSONAME")))
    return [library.resolve()]


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


def _update(digest: "hashlib._Hash", part: bytes) -> None:
    digest.update(len(part).to_bytes(8, "big"))
    digest.update(part)
