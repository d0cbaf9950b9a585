"""A monotonic anchor on a TPM's NV counter: docs/formats/cas-state.md, "TPM anchor".

The TPM keeps one number that never goes back. A file, which the host may put back but cannot forge, says
which state belongs to which number: two slots, each authenticated by a key that only the CAS has.
"""

import hmac
import os
from dataclasses import dataclass
from pathlib import Path

from securetf.attester.tpm_counter import TpmCounter
from securetf.cas.store.anchor import Anchored, write_new
from securetf.errors import AttesterError, CasRollbackError, CasStateError

KEY_SIZE = 32  # bytes
_MAGIC = b"STF-TPM-ANCHOR-1"  # 16 bytes
_SLOT_BYTES = 4096  # one page, so that a torn write spoils one slot only
_BODY_SIZE = 16 + 16 + 8 + 8 + 32
_FIX = "stop every other CAS that uses this TPM's counter, then start one"


@dataclass(frozen=True, slots=True)
class _Slot:
    """number: the TPM counter's value that this state belongs to."""

    number: int
    state: Anchored


class TpmAnchor:
    """`MonotonicAnchor` whose memory is a TPM's counter.

    Each opening counts once, as each advance does: a state that was written to the file but never reached the
    TPM before a crash can then not be put in the place of a later one.
    """

    def __init__(self, path: Path, store_id: bytes, key: bytes, counter: TpmCounter) -> None:
        """Open the anchor of this store. key: 32 bytes, kept where the host does not see it.

        Raises:
            CasRollbackError: the file is older than the TPM's counter. CasStateError: missing, or the TPM
            failed.
        """
        self._path, self._store_id, self._key, self._counter = path, store_id, key, counter
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise CasStateError(
                f"the anchor {path} cannot be opened: {error.strerror}",
                "give the anchor file of this database; without it the CAS cannot tell old state from new",
            ) from None
        try:
            self._last = self._open()
        except BaseException:
            os.close(self._descriptor)
            raise

    @classmethod
    def create(
        cls, path: Path, store_id: bytes, digest: bytes, key: bytes, counter: TpmCounter
    ) -> "TpmAnchor":
        """Make the anchor of a new store at counter 0; `digest` (32 bytes) is of its first head.

        Raises:
            CasStateError: the file exists or cannot be written, or the TPM failed.
        """
        try:
            counter.define()
            slot = _Slot(counter.read(), Anchored(0, digest))
            pages = [bytes(_SLOT_BYTES), bytes(_SLOT_BYTES)]
            pages[slot.number % 2] = _encode(slot, store_id, key).ljust(_SLOT_BYTES, b"\0")
            write_new(path, b"".join(pages))
        except AttesterError as error:
            raise CasStateError(error.problem, error.fix) from None
        except OSError as error:
            raise CasStateError(
                f"the anchor {path} cannot be created: {error.strerror}",
                "a new CAS needs a new anchor; name a file that does not exist in a directory that does",
            ) from None
        return cls(path, store_id, key, counter)

    @classmethod
    def open_unused(cls, path: Path, digest: bytes, key: bytes, counter: TpmCounter) -> "TpmAnchor | None":
        """Return the anchor in `path` if its store never answered; else None.

        Raises:
            CasRollbackError, CasStateError: as when it is opened.
        """
        raw = path.read_bytes()
        ids = {
            raw[start + 16 : start + 32] for start in (0, _SLOT_BYTES) if raw[start : start + 16] == _MAGIC
        }
        if len(ids) != 1:
            return None
        anchor = cls(path, ids.pop(), key, counter)
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
        return self._last.state

    def advance(self, counter: int, digest: bytes) -> None:
        """Anchor the next state: file first, then the TPM counts, then it is true."""
        if counter != self._last.state.counter + 1:
            raise CasStateError(
                f"the anchor is at {self._last.state.counter} and was asked for {counter}", _FIX
            )
        self._last = self._write(_Slot(self._last.number + 1, Anchored(counter, digest)))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _open(self) -> _Slot:
        try:
            number = self._counter.read()
        except AttesterError as error:
            raise CasStateError(error.problem, error.fix) from None
        slot = self._read_slot(number)
        if slot is None:
            raise CasRollbackError(
                f"the anchor {self._path} has no state for the TPM's counter {number}: "
                "an older file was put back, it belongs to another CAS, or the TPM was used by another CAS",
                "restore the newest anchor file of this database",
            )
        return self._write(_Slot(number + 1, slot.state))

    def _write(self, slot: _Slot) -> _Slot:
        try:
            raw = _encode(slot, self._store_id, self._key)
            os.pwrite(self._descriptor, raw, slot.number % 2 * _SLOT_BYTES)
            os.fdatasync(self._descriptor)
            number = self._counter.increment()
        except OSError as error:
            raise CasStateError(
                f"the anchor {self._path} cannot be written: {error.strerror}", "repair the disk, start again"
            ) from None
        except AttesterError as error:
            raise CasStateError(error.problem, error.fix) from None
        if number != slot.number:
            raise CasStateError(f"the TPM's counter is {number}, expected {slot.number}", _FIX)
        return slot

    def _read_slot(self, number: int) -> _Slot | None:
        raw = os.pread(self._descriptor, _BODY_SIZE + 32, number % 2 * _SLOT_BYTES)
        state = Anchored(int.from_bytes(raw[40:48], "big"), raw[48:80])
        slot = _Slot(number, state)
        return slot if hmac.compare_digest(raw, _encode(slot, self._store_id, self._key)) else None


def _encode(slot: _Slot, store_id: bytes, key: bytes) -> bytes:
    numbers = slot.number.to_bytes(8, "big") + slot.state.counter.to_bytes(8, "big")
    body = _MAGIC + store_id + numbers + slot.state.digest
    return body + hmac.digest(key, body, "sha256")
