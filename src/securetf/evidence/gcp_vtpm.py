"""Evidence of Google Cloud vTPMs: the protobuf message `attest.Attestation` of go-tpm-tools.

Source: go-tpm-tools, proto/attest.proto and proto/tpm.proto. Read here: fields 1 (AK public area), 2
(quotes), 3 (event log), 6 (AK certificate) and 7 (certificates above it). Field 4, what `gotpm attest` says
of its instance, is left out: nothing signs it. Every other field is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NoReturn

from securetf.errors import MalformedEvidenceError
from securetf.evidence import tpm2_public
from securetf.evidence.tpm2_public import Public
from securetf.evidence.tpm2_quote import (
    DIGEST_SIZES,
    PCR_COUNT,
    Quote,
    Signature,
    parse_quote,
    parse_signature,
)

EVIDENCE_SIZE_LIMIT = 512 * 1024  # bytes; genuine ones have 30 to 100 KB
_VARINT_LIMIT = 5  # bytes
FIELD_LIMIT = 128  # fields of one message
_AK, _QUOTES, _EVENT_LOG, _INSTANCE, _CERTIFICATE, _AUTHORITIES = 1, 2, 3, 4, 6, 7
_ONCE = {_AK, _EVENT_LOG, _INSTANCE, _CERTIFICATE}
_TEE = {8: "an SEV-SNP report", 9: "a TDX quote"}
_FIX = "pass the attestation exactly as go-tpm-tools gave it"

Value = int | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BankQuote:
    """The quote of one PCR bank with the values it covers."""

    quote: Quote
    signature: Signature
    pcrs: Mapping[int, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpEvidence:
    """As received; nothing is authenticated until `verifier.gcp_vtpm` returns.

    quotes: one for each bank, SHA-1 among them. certificates: DER, of the AK first; without the root.
    """

    ak: Public
    quotes: tuple[BankQuote, ...]
    event_log: bytes = field(repr=False)
    certificates: tuple[bytes, ...] = field(repr=False)


def begins(raw: bytes) -> bool:
    """Return whether `raw` begins like a message: field 1, its size, and a public area of RSA or ECC."""
    size = raw[1:3]
    at = 2 if size and size[0] < 128 else 3
    return raw[:1] == b"\x0a" and raw[at : at + 2] in {b"\0\x01", b"\0\x23"}


def parse(raw: bytes) -> GcpEvidence:
    """Read one message.

    Raises:
        MalformedEvidenceError: naming the first field that is not as it must be.
    """
    if len(raw) > EVIDENCE_SIZE_LIMIT:
        _refuse(f"has {len(raw)} bytes, at most {EVIDENCE_SIZE_LIMIT} are read")
    single: dict[int, bytes] = {}
    quotes: list[BankQuote] = []
    authorities: list[bytes] = []
    for tag, value in _fields(raw):
        if tag in _TEE:
            raise MalformedEvidenceError(
                f"the Google attestation has {_TEE[tag]} beside the TPM's quotes, which is not verified",
                "run gotpm without --tee-technology, and give report or quote as Evidence of its own",
            )
        if not isinstance(value, bytes) or tag not in _ONCE | {_QUOTES, _AUTHORITIES}:
            _refuse(f"has field {tag}, which this release does not read")
        if tag in single:
            _refuse(f"has field {tag} twice")
        if tag in _ONCE:
            single[tag] = value
        elif tag == _QUOTES:
            quotes.append(_quote(value))
        else:
            authorities.append(value)
    banks = [one.quote.bank for one in quotes]
    if _AK not in single or not quotes or len(set(banks)) != len(banks):
        _refuse("has no public area, no quote, or two quotes of one bank")
    leaf = [single[_CERTIFICATE]] if _CERTIFICATE in single else []
    return GcpEvidence(
        ak=tpm2_public.parse(single[_AK]),
        quotes=tuple(quotes),
        event_log=single.get(_EVENT_LOG, b""),
        certificates=(*leaf, *authorities),
    )


def _quote(raw: bytes) -> BankQuote:
    """Read one `tpm.Quote`: 1 quote, 2 signature, 3 PCRs."""
    found = _exactly(raw, {1: bytes, 2: bytes, 3: bytes}, "a quote")
    quote = parse_quote(_as_bytes(found[1]))
    pcrs: dict[int, bytes] = {}
    for tag, value in _fields(_as_bytes(found[3])):
        if tag == 1 and value == quote.bank:
            continue
        if tag != 2 or not isinstance(value, bytes):
            _refuse("has PCRs of another bank than the quote, or an unknown field in them")
        parts = list(_fields(value))
        entry = {1: 0, **dict(parts)}
        if len({tag for tag, _ in parts}) != len(parts):
            _refuse("has a field of a PCR twice")
        index, digest = entry[1], entry.get(2)
        if set(entry) != {1, 2} or not isinstance(index, int) or index >= PCR_COUNT or index in pcrs:
            _refuse("has a PCR twice, or one without index or value")
        if not isinstance(digest, bytes) or len(digest) != DIGEST_SIZES[quote.bank]:
            _refuse(f"has a value of PCR {index} that is not {DIGEST_SIZES[quote.bank]} bytes")
        pcrs[index] = digest
    return BankQuote(
        quote=quote,
        signature=parse_signature(_as_bytes(found[2])),
        pcrs=MappingProxyType(dict(sorted(pcrs.items()))),
    )


def _exactly(raw: bytes, kinds: Mapping[int, type[Value]], what: str) -> dict[int, Value]:
    found: dict[int, Value] = {}
    for tag, value in _fields(raw):
        if tag in found or tag not in kinds or not isinstance(value, kinds[tag]):
            _refuse(f"has {what} with an unknown, doubled or odd field {tag}")
        found[tag] = value
    if set(found) != set(kinds):
        _refuse(f"has {what} without one of the fields {sorted(kinds)}")
    return found


def _fields(raw: bytes) -> Iterator[tuple[int, Value]]:
    """Yield tag and value of each field (protobuf encoding: wire types 0 and 2 only)."""
    offset = count = 0
    while offset < len(raw):
        count += 1
        if count > FIELD_LIMIT:
            _refuse(f"has more than {FIELD_LIMIT} fields in one message")
        key, offset = _varint(raw, offset)
        if key & 7 not in {0, 2}:
            _refuse(f"has a field of wire type {key & 7}")
        number, offset = _varint(raw, offset)
        if key & 7 == 0:
            yield key >> 3, number
            continue
        if offset + number > len(raw):
            _refuse("ends inside a field")
        yield key >> 3, raw[offset : offset + number]
        offset += number


def _varint(raw: bytes, offset: int) -> tuple[int, int]:
    value = index = 0
    while index < _VARINT_LIMIT:
        if offset + index >= len(raw):
            _refuse("ends inside a number")
        byte = raw[offset + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            if index and not byte:
                _refuse("has a number that is not in its shortest form")
            return value, offset + index + 1
        index += 1
    return _refuse("has a number of more than 5 bytes")


def _as_bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        _refuse("has a number where bytes should be")
    return value


def _refuse(problem: str) -> NoReturn:
    raise MalformedEvidenceError(f"the Google attestation {problem}", _FIX)
