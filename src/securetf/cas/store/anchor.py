"""The monotonic anchor: the one place that an older copy of the database cannot agree with."""

import errno
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from securetf.errors import CasStateError, NoSpaceError

_MAGIC = b"STF-INSECURE-ANCHOR-SIMULATION-1"  # 32 bytes
_SLOT_BYTES = 4096  # one page, so that a torn write spoils one slot only
_SIZES = (16, 8, 32)  # store id, counter, digest


@dataclass(frozen=True, slots=True)
class Anchored:
    """The newest state that was ever answered for: its counter and its head's digest (32 bytes)."""

    counter: int
    digest: bytes


class MonotonicAnchor(Protocol):
    """Keeps one counter and digest; never goes back. TPM NV counter, a quorum of peers, or a simulation."""

    def read(self) -> Anchored:
        """Return what was anchored last. Raises CasStateError when it cannot be had."""
        ...

    def advance(self, counter: int, digest: bytes) -> None:
        """Anchor the next state durably. Raises CasStateError when `counter` does not follow the last."""
        ...

    def close(self) -> None:
        """Let go of the device or file."""
        ...


class InsecureFileAnchor:
    """INSECURE SIMULATION of a monotonic anchor: a file, which whoever has the disk can put back.

    Two slots of 4096 bytes, written in turn: magic (32) ‖ store id (16) ‖ counter (8, big endian) ‖ digest
    (32) ‖ SHA-256 of all that (32). The valid slot with the higher counter counts.
    """

    def __init__(self, path: Path, store_id: bytes) -> None:
        """Open the anchor of this store.

        Raises:
            CasStateError: missing, damaged, or of another store.
        """
        self._path, self._store_id = path, store_id
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise CasStateError(
                f"the anchor {path} cannot be opened: {error.strerror}",
                "give the anchor file of this database; without it the CAS cannot tell old state from new",
            ) from None
        slots = [slot for index in (0, 1) if (slot := self._read_slot(index)) is not None]
        if not slots:
            os.close(self._descriptor)
            raise CasStateError(
                f"the anchor {path} is damaged or belongs to another CAS (store {store_id.hex()})",
                "give the anchor file of this database",
            )
        self._last = max(slots, key=lambda slot: slot.counter)

    @classmethod
    def create(cls, path: Path, store_id: bytes, digest: bytes) -> "InsecureFileAnchor":
        """Make the anchor of a new store at counter 0, whole or not at all; `digest` is of its first head.

        Raises:
            CasStateError: the file exists or cannot be written. NoSpaceError: the disk is full.
        """
        try:
            write_new(path, _slot(store_id, 0, digest).ljust(2 * _SLOT_BYTES, b"\0"))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise NoSpaceError(f"no space for {path}", "free space; nothing was changed") from None
            raise CasStateError(
                f"the anchor {path} cannot be created: {error.strerror}",
                "a new CAS needs a new anchor; name a file that does not exist in a directory that does",
            ) from None
        return cls(path, store_id)

    @classmethod
    def open_unused(cls, path: Path, digest: bytes) -> "InsecureFileAnchor | None":
        """Return the anchor in `path` if it never counted, so that its store never answered; else None."""
        with path.open("rb") as stream:
            store_id = stream.read(len(_MAGIC) + _SIZES[0])[len(_MAGIC) :]
        try:
            anchor = cls(path, store_id)
        except CasStateError:
            return None
        if anchor.read() == Anchored(0, digest):
            return anchor
        anchor.close()
        return None

    @property
    def store_id(self) -> bytes:
        """Whose anchor this is, 16 bytes."""
        return self._store_id

    def read(self) -> Anchored:
        """Return what was anchored last."""
        return self._last

    def advance(self, counter: int, digest: bytes) -> None:
        """Write the older slot and sync it."""
        if counter != self._last.counter + 1:
            raise CasStateError(
                f"the anchor is at {self._last.counter} and was asked for {counter}",
                "stop every other CAS on this database, then start one",
            )
        try:
            os.pwrite(self._descriptor, _slot(self._store_id, counter, digest), counter % 2 * _SLOT_BYTES)
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise CasStateError(
                f"the anchor {self._path} cannot be written: {error.strerror}", "repair the disk, start again"
            ) from None
        self._last = Anchored(counter, digest)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _read_slot(self, index: int) -> Anchored | None:
        raw = os.pread(self._descriptor, len(_MAGIC) + sum(_SIZES) + 32, index * _SLOT_BYTES)
        counter = int.from_bytes(raw[48:56], "big")
        digest = raw[56:88]
        return Anchored(counter, digest) if raw == _slot(self._store_id, counter, digest) else None


def _slot(store_id: bytes, counter: int, digest: bytes) -> bytes:
    body = _MAGIC + store_id + counter.to_bytes(8, "big") + digest
    return body + hashlib.sha256(body).digest()


def write_new(path: Path, content: bytes) -> None:
    """Make a file with mode 0600, durable and whole or not at all. Raises FileExistsError and OSError."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        os.link(temporary, path)  # unlike a rename, never replaces
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
