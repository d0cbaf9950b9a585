"""The event log behind TDX's run-time registers, as JSON (dstack's form) or the firmware's own (ACPI table
CCEL), and its replay.

A list of objects with `imr` (0 to 3), `event_type`, `digest` (SHA-384, hex), `event` (text) and
`event_payload` (hex). A register begins as zeros; each event makes it SHA-384 of register and digest (Intel
TDX Module Base Specification, "RTMR"). The firmware's log is that of TCG with registers 1 to 4 for RTMR 0 to
3; what programs extend after the boot, RTMR 3, is not in it. A log says nothing until it replays to the
registers of an authenticated quote.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from securetf.errors import MalformedEvidenceError
from securetf.evidence import tcg_event_log
from securetf.evidence.tdx import TdReport

SIZE_LIMIT = 256 * 1024  # bytes of JSON
EVENT_LIMIT = 4096
DIGEST_SIZE = 48  # bytes
RUNTIME_EVENT = 0x08000001  # its digest covers type, name and payload
REGISTERS = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
FIRMWARE_REGISTERS = REGISTERS[:3]
_SHA384 = 0x000C  # TPM_ALG_ID
_NAMES = ("imr", "event_type", "digest", "event", "event_payload")
_FIX = "give the event log of the same boot as the quote, exactly as the platform wrote it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One extension of a register. imr: which of the four. digest: 48 bytes. event: its name, if any."""

    imr: int
    event_type: int
    digest: bytes
    event: str
    event_payload: bytes


def parse(raw: bytes) -> tuple[Event, ...]:
    """Read an event log.

    Raises:
        MalformedEvidenceError: too long, not strict JSON, or an event of another form or with another digest.
    """
    if len(raw) > SIZE_LIMIT:
        raise MalformedEvidenceError(f"event log has {len(raw)} bytes, at most {SIZE_LIMIT} are read", _FIX)
    try:
        parsed = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MalformedEvidenceError(f"the event log is not strict JSON: {error}", _FIX) from None
    if not isinstance(parsed, list) or len(parsed) > EVENT_LIMIT:
        raise MalformedEvidenceError(f"the event log is not a list of at most {EVENT_LIMIT} events", _FIX)
    return tuple(_event(number, one) for number, one in enumerate(parsed))


def is_firmware_log(raw: bytes) -> bool:
    """Return whether `raw` begins as the firmware's log does: an EV_NO_ACTION of a register, no JSON."""
    return raw[1:8] == bytes.fromhex("00000003000000")


def parse_firmware_log(raw: bytes) -> tuple[Event, ...]:
    """Read what Linux shows as /sys/firmware/acpi/tables/data/CCEL.

    Raises:
        MalformedEvidenceError: of another form, without SHA-384, or an event of MRTD, which no event extends.
    """
    log = tcg_event_log.parse_area(raw, registers=4)
    if log.algorithms != (_SHA384,):
        raise MalformedEvidenceError("the event log is not of SHA-384 alone", _FIX)
    measured = [event for event in log.events if event.kind != tcg_event_log.NO_ACTION]
    if any(event.pcr == 0 for event in measured):
        raise MalformedEvidenceError("the event log extends MRTD, which no event can", _FIX)
    return tuple(
        Event(
            imr=event.pcr - 1,
            event_type=event.kind,
            digest=event.digests[0][1],
            event="",
            event_payload=event.data,
        )
        for event in measured
    )


def replay(events: Iterable[Event]) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the values of RTMR 0 to 3 after these events, 48 bytes each."""
    registers = [bytes(DIGEST_SIZE)] * 4
    for event in events:
        registers[event.imr] = hashlib.sha384(registers[event.imr] + event.digest).digest()
    return registers[0], registers[1], registers[2], registers[3]


def check(events: Sequence[Event], body: TdReport, names: Sequence[str] = REGISTERS) -> None:
    """Check that a log replays to the registers of a quote: no event is missing, added, changed or moved.

    names: of the registers that the log is of.

    Raises:
        MalformedEvidenceError: naming the first register that differs.
    """
    for name, found in zip(REGISTERS, replay(events), strict=True):
        expected: bytes = getattr(body, name)
        if name in names and found != expected:
            raise MalformedEvidenceError(
                f"the event log replays to {name} {found.hex()}, the quote has {expected.hex()}", _FIX
            )


def _event(number: int, value: Any) -> Event:
    if not isinstance(value, dict) or sorted(value) != sorted(_NAMES):
        raise MalformedEvidenceError(f"event {number} has not exactly the names {', '.join(_NAMES)}", _FIX)
    imr, event_type = value["imr"], value["event_type"]
    texts = [value[name] for name in ("digest", "event", "event_payload")]
    if (
        type(imr) is not int
        or type(event_type) is not int
        or not all(isinstance(text, str) for text in texts)
    ):
        raise MalformedEvidenceError(f"event {number} has a value of another type", _FIX)
    if not 0 <= imr <= 3 or not 0 <= event_type < 2**32:
        raise MalformedEvidenceError(f"event {number} has imr {imr} and type {event_type}", _FIX)
    try:
        digest, payload, name = bytes.fromhex(texts[0]), bytes.fromhex(texts[2]), texts[1].encode()
    except ValueError:
        raise MalformedEvidenceError(f"event {number} is not hexadecimal or not text", _FIX) from None
    if len(digest) != DIGEST_SIZE:
        raise MalformedEvidenceError(f"event {number} has a digest of {len(digest)} bytes, expected 48", _FIX)
    content = b":".join((event_type.to_bytes(4, "little"), name, payload))
    if event_type == RUNTIME_EVENT and hashlib.sha384(content).digest() != digest:
        raise MalformedEvidenceError(
            f"event {number} ({texts[1]!r}) has another digest than its content", _FIX
        )
    return Event(imr=imr, event_type=event_type, digest=digest, event=texts[1], event_payload=payload)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return names
