"""The audit log as others check it without the CAS: chain, signed head, export. docs/formats/wire-v1.md."""

import hashlib
import json
from collections.abc import Iterable
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from securetf.errors import AuditError
from securetf.wire.messages import AuditEntryLine, AuditHead, Message

START = bytes(32)  # the chain's digest before the first entry
_FIX = "export the log again from the CAS; if it repeats, treat the log as forged"
_MAX_LINE_CHARACTERS = 65536
_T = TypeVar("_T")


class ExportedHead(Message, frozen=True, kw_only=True):
    """The last line of an export. `cas`: SHA-256 of the CAS's TLS key in hex."""

    cas: str
    head: AuditHead


class Summary(Struct, frozen=True, kw_only=True):
    """What a checked export holds. visible: entries with text, the others are of other sessions."""

    length: int
    visible: int
    refused: int
    simulated: bool
    time: str


def chain(previous: bytes, leaf: bytes) -> bytes:
    """Return the chain's digest after one more entry; `leaf` is the SHA-256 of the entry's exact text."""
    return hashlib.sha256(b"securetf cas log v1\0" + previous + leaf).digest()


def head_text(*, length: int, digest: bytes, time: str, simulated: bool, cas: str) -> bytes:
    """Return the bytes that the CAS's audit key signs (Ed25519)."""
    return (
        f'{{"cas":"{cas}","digest":"{digest.hex()}","label":"securetf audit head v1",'
        f'"length":{length},"simulated":{"true" if simulated else "false"},"time":"{time}"}}'
    ).encode()


def check_head(head: AuditHead, *, cas: str, public_key: bytes) -> None:
    """Check the signature of a head. public_key: Ed25519, 32 bytes, from the trust file.

    Raises:
        AuditError: not signed by this key for this CAS.
    """
    text = head_text(
        length=head.length, digest=head.digest, time=head.time, simulated=head.simulated, cas=cas
    )
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(head.signature, text)
    except InvalidSignature:
        raise AuditError("the head of the audit log is not signed by this CAS's audit key", _FIX) from None


def follow(digest: bytes, first: int, lines: Iterable[AuditEntryLine]) -> bytes:
    """Chain entries `first` … to `digest`; return the digest after them.

    Raises:
        AuditError: an entry is out of order or its text is not that of its digest.
    """
    for expected, line in enumerate(lines, first):
        if line.seq != expected:
            raise AuditError(f"audit entry {line.seq} stands where {expected} belongs", _FIX)
        if line.entry is not None and hashlib.sha256(line.entry.encode()).digest() != line.leaf:
            raise AuditError(f"the text of audit entry {line.seq} was changed", _FIX)
        digest = chain(digest, line.leaf)
    return digest


def check_export(lines: Iterable[str], *, public_key: bytes) -> Summary:
    """Check an exported log: one AuditEntryLine per line from entry 0 on, then one ExportedHead.

    Raises:
        AuditError: malformed, changed, cut, out of order, or not signed by `public_key`.
    """
    digest, count, visible, refused = START, 0, 0, 0
    last: ExportedHead | None = None
    for text in lines:
        if last is not None:
            raise AuditError("the export goes on after its signed head", _FIX)
        if text.startswith('{"cas"'):
            last = _read(text, ExportedHead, count)
            continue
        line = _read(text, AuditEntryLine, count)
        digest = follow(digest, count, [line])
        count += 1
        if line.entry is not None:
            visible += 1
            refused += json.loads(line.entry).get("verdict") == "refused"
    if last is None:
        raise AuditError(f"the export ends after {count} entries without its signed head: it was cut", _FIX)
    check_head(last.head, cas=last.cas, public_key=public_key)
    if (last.head.length, last.head.digest) != (count, digest):
        raise AuditError(
            f"the export has {count} entries with digest {digest.hex()}, the signed head is of "
            f"{last.head.length} entries with {last.head.digest.hex()}",
            _FIX,
        )
    return Summary(
        length=count, visible=visible, refused=refused, simulated=last.head.simulated, time=last.head.time
    )


def _read(text: str, kind: type[_T], number: int) -> _T:
    try:
        if len(text) > _MAX_LINE_CHARACTERS:
            raise AuditError(f"line {number + 1} of the export is too long", _FIX)
        return msgspec.json.decode(text, type=kind, strict=True)
    except msgspec.DecodeError as error:
        raise AuditError(f"line {number + 1} of the export is not an audit line: {error}", _FIX) from None
