"""SEV-SNP Evidence as one value: the report, and after it the certificate table that the host gave, if any.

The table (AMD 56421, GHCB specification, "SNP Extended Guest Request") is what Linux's configfs-tsm shows as
`auxblob`: entries of GUID (16 bytes), offset and length (4 bytes each, little endian), one entry of zeros,
then the certificates, in DER or, where the host's tools left them so, in PEM.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from securetf.errors import MalformedEvidenceError
from securetf.evidence import sev_snp

TABLE_SIZE_LIMIT = 64 * 1024  # bytes; hosts give 4 to 16 KiB
ENTRY_SIZE = 24  # bytes
ENTRY_LIMIT = 16
_FIX = "pass the report and the certificate table exactly as the platform gave them, or the report alone"

GUIDS = MappingProxyType(
    {
        "ark": bytes.fromhex("c0b406a4a803495297433fb6014cd0ae"),
        "ask": bytes.fromhex("4ab7b379bbac4fe4a02f05aef327c782"),  # the ASVK too
        "vcek": bytes.fromhex("63da758de6644564adc5f4b93be8accd"),
        "vlek": bytes.fromhex("a8074bc2a25a483eaae639c045a0b8a1"),
        "crl": bytes.fromhex("92f81bc358114d3d97ffd19f88dc67ea"),
    }
)
_NAMES = {guid: name for name, guid in GUIDS.items()}
_PEM = re.compile(rb"\s*-----BEGIN (CERTIFICATE|X509 CRL)-----([A-Za-z0-9+/=\s]+)-----END \1-----\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpEvidence:
    """Not authenticated. certificates: `ark`, `ask`, `vcek`, `vlek`, `crl` to DER, those that were there."""

    report: sev_snp.SnpReport
    certificates: Mapping[str, bytes] = field(default_factory=dict, repr=False)


def parse(raw: bytes) -> SnpEvidence:
    """Read a report, or a report followed by a certificate table.

    Entries with other GUIDs (some hosts add their own) are checked for their place and left out.

    Raises:
        MalformedEvidenceError: naming the first thing that is not as it must be.
    """
    limit = sev_snp.REPORT_SIZE + TABLE_SIZE_LIMIT
    if len(raw) > limit:
        raise MalformedEvidenceError(f"SEV-SNP Evidence has {len(raw)} bytes, at most {limit} are read", _FIX)
    table = raw[sev_snp.REPORT_SIZE :]
    if not table:
        return SnpEvidence(report=sev_snp.parse(raw))
    return SnpEvidence(report=sev_snp.parse(raw[: sev_snp.REPORT_SIZE]), certificates=certificates(table))


def certificates(table: bytes) -> Mapping[str, bytes]:
    """Read a certificate table alone, which Linux shows as `auxblob`.

    Raises:
        MalformedEvidenceError: naming the first thing that is not as it must be.
    """
    places, end = _places(table)
    found: dict[str, bytes] = {}
    last = end
    for guid, offset, length in places:
        if offset < end or length == 0 or offset + length > len(table):
            raise MalformedEvidenceError(
                f"entry {guid.hex()} of the certificate table has {length} bytes at {offset}, "
                f"outside {end} to {len(table)}",
                _FIX,
            )
        last = max(last, offset + length)
        name = _NAMES.get(guid)
        if name is None:
            continue
        if name in found:
            raise MalformedEvidenceError(f"the certificate table names {name} twice", _FIX)
        found[name] = _der(name, table[offset : offset + length])
    if any(table[last:]):
        raise MalformedEvidenceError("bytes other than zero follow the last certificate of the table", _FIX)
    return MappingProxyType(found)


def begins_table(raw: bytes) -> bool:
    """Return whether `raw` begins with an entry of a known name."""
    return raw[:16] in _NAMES


def encode(evidence: SnpEvidence) -> bytes:
    """Return report and table. `parse(encode(evidence)) == evidence`."""
    raw = sev_snp.encode(evidence.report)
    if not evidence.certificates:
        return raw
    header, body = b"", b""
    start = ENTRY_SIZE * (len(evidence.certificates) + 1)
    for name, der in evidence.certificates.items():
        place = (start + len(body)).to_bytes(4, "little") + len(der).to_bytes(4, "little")
        header += GUIDS[name] + place
        body += der
    return raw + header + bytes(ENTRY_SIZE) + body


def _der(name: str, entry: bytes) -> bytes:
    """Return an entry in DER; whoever reads it finds out whether it is a certificate."""
    armour = _PEM.fullmatch(entry)
    if armour is None:
        return entry
    try:
        der = base64.b64decode(armour[2])
    except ValueError:
        der = b""
    if not der.startswith(b"\x30"):  # a SEQUENCE; so that nothing is PEM inside PEM
        raise MalformedEvidenceError(f"{name} in the certificate table is PEM around something else", _FIX)
    return der


def _places(table: bytes) -> tuple[list[tuple[bytes, int, int]], int]:
    places: list[tuple[bytes, int, int]] = []
    for start in range(0, ENTRY_SIZE * (ENTRY_LIMIT + 1), ENTRY_SIZE):
        entry = table[start : start + ENTRY_SIZE]
        if len(entry) < ENTRY_SIZE:
            raise MalformedEvidenceError("the certificate table ends without its closing entry", _FIX)
        if not any(entry):
            return places, start + ENTRY_SIZE
        offset, length = int.from_bytes(entry[16:20], "little"), int.from_bytes(entry[20:], "little")
        places.append((entry[:16], offset, length))
    raise MalformedEvidenceError(f"the certificate table has more than {ENTRY_LIMIT} entries", _FIX)
