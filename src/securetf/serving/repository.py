"""The model repository on disk: MODEL/VERSION/ directories as TensorFlow Serving has them, and which of them
count.

A version is complete when its directory holds a model and has not changed between two looks: writers that
cannot commit at once (plain directories) are waited for, a committed volume is seen whole.
"""

import hashlib
import os
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from securetf.serving import engines, memory
from securetf.serving.errors import ModelLoadError

_VERSION = re.compile(r"0*[0-9]{1,18}")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_MODELS, _MAX_VERSIONS, _MAX_FILES = 1024, 4096, 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A version directory. listing: name, size and time of change (ns) of each file; must stand still."""

    number: int
    path: Path
    listing: tuple[tuple[str, int, int], ...]

    def changed_ns(self) -> int:
        """When the newest file was changed."""
        return max((time for _, _, time in self.listing), default=0)


def scan(root: Path) -> dict[str, dict[int, Found]]:
    """Return for each model its version directories that hold a model; others are passed over.

    Raises:
        OSError: the volume cannot be read. ModelLoadError: it holds more than this service looks at.
    """
    models: dict[str, dict[int, Found]] = {}
    for directory in sorted(root.iterdir()):
        if MODEL_NAME.fullmatch(directory.name) and directory.is_dir():
            _limit(len(models), _MAX_MODELS, "models")
            models[directory.name] = _versions(directory)
    return models


def _versions(directory: Path) -> dict[int, Found]:
    versions: dict[int, Found] = {}
    for path in sorted(directory.iterdir()):
        if _VERSION.fullmatch(path.name) and path.is_dir():
            _limit(len(versions), _MAX_VERSIONS, f"versions of {directory.name}")
            listing = _listing(path)
            if any(name.endswith((".tflite", ".keras", "saved_model.pb")) for name, _, _ in listing):
                versions[int(path.name)] = Found(number=int(path.name), path=path, listing=listing)
    return versions


def _listing(directory: Path) -> tuple[tuple[str, int, int], ...]:
    found: list[tuple[str, int, int]] = []
    for path in sorted(directory.rglob("*")):
        _limit(len(found), _MAX_FILES, f"files in version {directory.name}")
        if path.is_file():
            facts = path.stat()
            found.append((path.relative_to(directory).as_posix(), facts.st_size, facts.st_mtime_ns))
    return tuple(found)


def _limit(number: int, most: int, what: str) -> None:
    if number >= most:
        raise ModelLoadError(f"the repository holds more than {most} {what}", "remove what is not served")


def aspired(
    versions: Iterable[int], *, served: Iterable[int], highest: int, keep: int, allow_lower: bool
) -> set[int]:
    """Return the versions to serve: the `keep` highest of those that are there.

    A version that is not served yet and is lower than the highest ever served is refused, because an old
    model that comes back is what a rolled-back volume looks like; what is served then stays. `allow_lower`
    lets it pass.
    """
    there, now = set(versions), set(served)
    candidates = there if allow_lower else {one for one in there if one in now or one > highest}
    if highest in now and max(candidates, default=-1) < highest and not (allow_lower and there):
        candidates = candidates | {highest}
    return set(sorted(candidates, reverse=True)[:keep])


def digest(model: Path) -> str:
    """Return the hex SHA-256 of a model, as docs/formats/receipt-v1.md defines `model.sha256`: of the file;
    for a directory over, for each file in the order of its path's bytes, the path after its length (4 bytes,
    big endian) and the SHA-256 of the file.
    """
    if model.is_file():
        return _file_digest(model).hex()
    whole = hashlib.sha256()
    files = (path for path in model.rglob("*") if path.is_file())
    for name, path in sorted((os.fsencode(path.relative_to(model)), path) for path in files):
        whole.update(len(name).to_bytes(4, "big") + name + _file_digest(path))
    return whole.hexdigest()


class Digest:
    """`digest` of what an engine loads: of the very bytes if they are read here, beside the engine's work."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._found: list[str] = []
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Digest":
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread:
            self._thread.join()

    def read(self, path: Path) -> bytes:
        """Return a file's bytes and begin with their digest; hashing gives up the GIL."""
        content = memory.read(path)
        self._thread = threading.Thread(
            target=lambda: self._found.append(hashlib.sha256(content).hexdigest())
        )
        self._thread.start()
        return content

    def hex(self) -> str:
        """Return it, after the `with` block."""
        return self._found[0] if self._thread else digest(self._model)


def _file_digest(path: Path) -> bytes:
    with path.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def model_of(found: Found) -> Path:
    """Return the file or directory that an engine loads.

    Raises:
        ModelLoadError: there is none, or there are several.
    """
    model = engines.model_file(found.path)
    if model is None:
        raise ModelLoadError(f"version directory {found.number} holds no model", "put one model into it")
    return model
