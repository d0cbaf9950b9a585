"""Endorsements on disk: one file for each artefact, kept for as long as the artefact itself says.

A file is `NAME.json`, an object of exactly `version` (1), `name`, `source`, `fetched_at` and `content`
(base64). Validity is read from the content each time, never from a field beside it. Whoever writes to the
directory can at worst make verification fail: the verifier authenticates every byte of the content.
"""

import base64
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from securetf.endorsements import windows
from securetf.endorsements.dcap import SIZE_LIMIT as JSON_LIMIT
from securetf.endorsements.dcap import Endorsements, strict_json
from securetf.endorsements.refusals import (
    EndorsementExpiredError,
    EndorsementMissingError,
)
from securetf.endorsements.windows import Window
from securetf.errors import EndorsementError, EnvironmentUnfitError

CONTENT_LIMIT = 1024 * 1024  # bytes of one artefact; revocation lists are the largest
ENTRY_LIMIT = 4096  # artefacts of one cache
VERSION = 1
_TICK_NS = 100_000_000  # longer than the tick of any kernel
# Kind of artefact (the first part of its name) to what reads its window.
KINDS: dict[str, Callable[[bytes], Window]] = {
    "dcap": lambda content: windows.of_dcap(Endorsements.from_json(content)),
    "chain": lambda content: windows.of_certificates("certificates", content),
    "vcek": lambda content: windows.of_certificates("VCEK", content),
    "certificate": lambda content: windows.of_issuers("certificate", content),
    "crl": lambda content: windows.of_crl("revocation list", content),
}
_NAME = re.compile(rf"({'|'.join(KINDS)})(-[a-z0-9]{{1,64}}){{1,5}}\Z")
_NAMES = ("content", "fetched_at", "name", "source", "version")
_FIX = "fetch the endorsements again, or import them: `securetf endorsements fetch|import`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One file of the cache, not authenticated. source: URL or file that it came from."""

    name: str
    content: bytes = field(repr=False)
    source: str
    fetched_at: datetime
    window: Window


class Cache:
    """A directory of artefacts. Writers replace whole files, so processes may share it."""

    def __init__(self, directory: Path, *, entry_limit: int = ENTRY_LIMIT) -> None:
        """directory: made with mode 0700 when the first artefact is put into it."""
        self.directory, self._entry_limit = directory, entry_limit

    def generation(self) -> int:
        """Return a number that changes whenever an artefact is added or replaced; 0: no directory.

        File systems count time in ticks, so two changes may have one time: right after a change no number is
        returned twice.
        """
        try:
            changed = self.directory.stat().st_mtime_ns
        except OSError:
            return 0
        return changed if time.time_ns() - changed > _TICK_NS else -time.monotonic_ns()

    def get(self, name: str, *, now: datetime) -> Artefact:
        """Return an artefact that counts at `now`.

        Raises:
            EndorsementMissingError: there is none. EndorsementExpiredError: there is, outside its window.
            EndorsementError: the file is damaged.
        """
        found = self._read(self._path(name))
        if not found.window.holds(now):
            raise EndorsementExpiredError(found.window.problem(f"the cached {name}", now), _FIX)
        return found

    def put(self, name: str, content: bytes, *, source: str, now: datetime) -> Artefact:
        """Keep an artefact that counts at `now`, in place of an older one of this name.

        Raises:
            EndorsementExpiredError: it does not count at `now`. EndorsementError: it cannot be read, or is
            too large. EnvironmentUnfitError: it cannot be written.
        """
        path, window = self._path(name), self.check(name, content, now=now, source=source)
        text = json.dumps(
            {
                "version": VERSION,
                "name": name,
                "source": source,
                "fetched_at": now.astimezone(UTC).isoformat(),
                "content": base64.b64encode(content).decode(),
            }
        )
        self._make_room(path, now)
        self._write(path, text.encode())
        return Artefact(name=name, content=content, source=source, fetched_at=now, window=window)

    def check(self, name: str, content: bytes, *, now: datetime, source: str = "a file") -> Window:
        """Return the window of what is to be kept under a name.

        Raises:
            EndorsementExpiredError, EndorsementError: as `put`.
        """
        self._path(name)
        window = window_of(name, content)
        if not window.holds(now):
            raise EndorsementExpiredError(window.problem(f"{name} from {source}", now), _FIX)
        return window

    def __iter__(self) -> Iterator[Artefact | EndorsementError]:
        """Yield each artefact in the order of names; an error in the place of a damaged one."""
        for path in self._paths():
            try:
                yield self._read(path)
            except EndorsementError as error:
                yield error

    def _paths(self) -> list[Path]:
        try:
            found = sorted(self.directory.iterdir())
        except OSError:
            return []
        return [path for path in found if path.suffix == ".json" and _NAME.match(path.stem)]

    def _path(self, name: str) -> Path:
        if not _NAME.match(name):  # no dots, no slashes: a name cannot leave the directory
            raise EndorsementError(f"{name!r} is not the name of an artefact", _FIX)
        return self.directory / f"{name}.json"

    def _read(self, path: Path) -> Artefact:
        try:
            with path.open("rb") as stream:
                raw = stream.read(2 * CONTENT_LIMIT + 1)
        except FileNotFoundError:
            raise EndorsementMissingError(f"no {path.stem} in {self.directory}", _FIX) from None
        except OSError as error:
            raise EndorsementError(f"{path} cannot be read: {error.strerror}", _FIX) from None
        parsed = strict_json(raw, str(path), limit=2 * CONTENT_LIMIT)
        try:
            if sorted(parsed) != list(_NAMES) or parsed["version"] != VERSION or parsed["name"] != path.stem:
                raise ValueError("other names, version or place")
            content = base64.b64decode(parsed["content"], validate=True)
            fetched_at = datetime.fromisoformat(parsed["fetched_at"])
            source = str(parsed["source"])
        except (TypeError, ValueError) as error:
            raise EndorsementError(f"{path} is damaged: {error}", _FIX) from None
        return Artefact(
            name=path.stem,
            content=content,
            source=source,
            fetched_at=fetched_at,
            window=window_of(path.stem, content),
        )

    def _make_room(self, path: Path, now: datetime) -> None:
        """In a full cache, remove an eighth: what expired, then what was put first."""
        paths = self._paths()
        if path in paths or len(paths) < self._entry_limit:
            return
        ages = sorted((self._age(one, now), one) for one in paths)
        for _, one in ages[: len(paths) - self._entry_limit + max(1, self._entry_limit // 8)]:
            one.unlink(missing_ok=True)

    def _age(self, path: Path, now: datetime) -> tuple[bool, float]:
        try:
            return self._read(path).window.holds(now), path.stat().st_mtime
        except (EndorsementError, OSError):
            return False, 0.0

    def _write(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with temporary.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise EnvironmentUnfitError(
                f"{path} cannot be written: {error.strerror}", "make room, or name another directory"
            ) from None


def window_of(name: str, content: bytes) -> Window:
    """Return when the content of an artefact counts.

    Raises:
        EndorsementError: empty, too large or unreadable.
    """
    limit = JSON_LIMIT if name.startswith("dcap-") else CONTENT_LIMIT
    if not 0 < len(content) <= limit:
        raise EndorsementError(f"{name} has {len(content)} bytes, expected 1 to {limit}", _FIX)
    return KINDS[name.partition("-")[0]](content)
