"""TCG event logs, crypto-agile, and their replay (TCG PC Client Platform Firmware Profile 1.05, sections 9
and 10).

Little endian. The log is not signed: it counts only as far as its replay gives the PCRs that a TPM quoted.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from securetf.errors import MalformedEvidenceError
from securetf.evidence.tpm2_quote import DIGEST_SIZES, HASH_NAMES, PCR_COUNT

EVENT_LIMIT = 4096  # genuine logs have 50 to 500
EVENT_SIZE_LIMIT = 256 * 1024  # bytes of one event's data
NO_ACTION = 3  # EV_NO_ACTION: said, not measured

_SIGNATURE = b"Spec ID Event03\0"
_STARTUP_LOCALITY = b"StartupLocality\0"
_DYNAMIC = range(17, 23)  # PCRs that start as all ones until a dynamic launch
_FIX = "pass the log exactly as the firmware left it (/sys/kernel/security/tpm0/binary_bios_measurements)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry. kind: event type. digests: pairs of TPM_ALG_ID and digest, in the order of the log's
    header.
    """

    pcr: int
    kind: int
    digests: tuple[tuple[int, bytes], ...]
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLog:
    """header: the data of the first entry, kept as it is. algorithms: TPM_ALG_ID of the banks that were
    extended.
    """

    header: bytes
    algorithms: tuple[int, ...]
    events: tuple[Event, ...]


def parse(raw: bytes) -> EventLog:
    """Read a whole log, to its last byte.

    Raises:
        MalformedEvidenceError: cut off, not crypto-agile, an unknown algorithm or PCR, more than the limits
        allow.
    """
    reader = _Reader(raw)
    pcr, kind, digest = reader.number(4), reader.number(4), reader.take(20)
    if (pcr, kind) != (0, NO_ACTION) or any(digest):
        reader.refuse("does not start with a Spec ID event")
    header = reader.take(reader.size())
    algorithms = _algorithms(header)
    events: list[Event] = []
    while reader.left():
        if len(events) == EVENT_LIMIT:
            reader.refuse(f"has more than {EVENT_LIMIT} events")
        events.append(_event(reader, algorithms))
    return EventLog(header=header, algorithms=algorithms, events=tuple(events))


def parse_area(raw: bytes, registers: int) -> EventLog:
    """Read the log of a confidential machine's firmware (UEFI 2.10, 38.4.1; ACPI table CCEL): it has
    measurement registers 0 to `registers` in the place of PCRs; its area is filled up with 0xFF or zeros.

    Raises:
        MalformedEvidenceError: as `parse`, or something else than one of these bytes follows.
    """
    reader = _Reader(raw)
    register, kind, digest = reader.number(4), reader.number(4), reader.take(20)
    if register > registers or kind != NO_ACTION or any(digest):
        reader.refuse("does not start with a Spec ID event")
    header = reader.take(reader.size())
    algorithms = _algorithms(header)
    events: list[Event] = []
    while reader.left() and not reader.filled():
        if len(events) == EVENT_LIMIT:
            reader.refuse(f"has more than {EVENT_LIMIT} events")
        event = _event(reader, algorithms)
        if event.pcr > registers:
            reader.refuse(f"has an event of register {event.pcr}")
        events.append(event)
    return EventLog(header=header, algorithms=algorithms, events=tuple(events))


def encode(log: EventLog) -> bytes:
    """Return the bytes of a log. `parse(encode(log)) == log`, and the reverse."""

    def number(value: int) -> bytes:
        return value.to_bytes(4, "little")

    parts = [number(0), number(NO_ACTION), bytes(20), number(len(log.header)), log.header]
    for event in log.events:
        parts += [number(event.pcr), number(event.kind), number(len(event.digests))]
        for algorithm, digest in event.digests:
            parts += [algorithm.to_bytes(2, "little"), digest]
        parts += [number(len(event.data)), event.data]
    return b"".join(parts)


def replay(log: EventLog, bank: int) -> dict[int, bytes]:
    """Return all PCRs of a bank (TPM_ALG_ID) as the log's events leave them.

    Raises:
        MalformedEvidenceError: the log does not cover the bank, or sets the startup locality late or twice.
    """
    if bank not in log.algorithms:
        raise MalformedEvidenceError(f"the event log does not cover the {HASH_NAMES[bank]} bank", _FIX)
    algorithm, size = HASH_NAMES[bank], DIGEST_SIZES[bank]
    pcrs = {index: initial(index, size) for index in range(PCR_COUNT)}
    started = False
    for event in log.events:
        if event.kind == NO_ACTION:
            if event.data.startswith(_STARTUP_LOCALITY):
                if started or event.pcr != 0 or len(event.data) != len(_STARTUP_LOCALITY) + 1:
                    raise MalformedEvidenceError(
                        "the event log sets the startup locality late or twice", _FIX
                    )
                pcrs[0] = bytes(size - 1) + event.data[-1:]
                started = True
            continue
        started = started or event.pcr == 0
        digest = dict(event.digests)[bank]
        pcrs[event.pcr] = hashlib.new(algorithm, pcrs[event.pcr] + digest).digest()
    return pcrs


def measured(log: EventLog) -> frozenset[int]:
    """Return the PCRs that have an event in the log."""
    return frozenset(event.pcr for event in log.events if event.kind != NO_ACTION)


def initial(index: int, size: int) -> bytes:
    """Return a PCR's value after a reset (TCG PC Client Platform TPM Profile, section 4.6.2)."""
    return (b"\xff" if index in _DYNAMIC else b"\0") * size


def _algorithms(header: bytes) -> tuple[int, ...]:
    """Read TCG_EfiSpecIdEvent (section 10.4.5.1)."""
    reader = _Reader(header)
    if reader.take(16) != _SIGNATURE:
        reader.refuse("is not crypto-agile: its header is not Spec ID Event03")
    reader.take(8)  # platform class, versions, size of UINTN
    found = []
    for _ in reader.counted(len(DIGEST_SIZES)):
        algorithm, size = reader.number(2), reader.number(2)
        if DIGEST_SIZES.get(algorithm) != size or algorithm in found:
            reader.refuse(f"names algorithm {algorithm:#06x} with {size} bytes, unknown or twice")
        found.append(algorithm)
    reader.take(reader.number(1))  # vendor information
    if reader.left():
        reader.refuse("has bytes after the end of its header")
    return tuple(found)


def _event(reader: "_Reader", algorithms: tuple[int, ...]) -> Event:
    """Read TCG_PCR_EVENT2 (section 10.2.2)."""
    pcr, kind = reader.number(4), reader.number(4)
    if pcr >= PCR_COUNT:
        reader.refuse(f"has an event of PCR {pcr}")
    digests = []
    for _ in reader.counted(len(algorithms)):
        algorithm = reader.number(2)
        if algorithm not in algorithms:
            reader.refuse(f"has a digest by {algorithm:#06x}, which its header does not name")
        digests.append((algorithm, reader.take(DIGEST_SIZES[algorithm])))
    if tuple(algorithm for algorithm, _ in digests) != algorithms:
        reader.refuse("has an event without a digest for each bank, in the order of its header")
    return Event(pcr=pcr, kind=kind, digests=tuple(digests), data=reader.take(reader.size()))


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self._raw, self._offset = raw, 0

    def take(self, size: int) -> bytes:
        taken = self._raw[self._offset : self._offset + size]
        if len(taken) != size:
            self.refuse(f"ends inside an entry: {len(taken)} bytes of {size}")
        self._offset += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def size(self) -> int:
        size = self.number(4)
        if size > EVENT_SIZE_LIMIT:
            self.refuse(f"has an event of {size} bytes, at most {EVENT_SIZE_LIMIT} are read")
        return size

    def counted(self, limit: int) -> Iterable[int]:
        count = self.number(4)
        if not 0 < count <= limit:
            self.refuse(f"has a count of {count} digests, expected 1 to {limit}")
        return range(count)

    def left(self) -> int:
        return len(self._raw) - self._offset

    def filled(self) -> bool:
        """Return whether only filling is left; no event starts with register and type 0xFFFFFFFF or 0."""
        start = self._raw[self._offset : self._offset + 8]
        if start.strip(b"\xff") and start.strip(b"\0"):
            return False
        if self._raw[self._offset :].strip(start[:1]):
            self.refuse("has something after what fills its end")
        return True

    def refuse(self, problem: str) -> NoReturn:
        raise MalformedEvidenceError(f"the event log {problem}", _FIX)
