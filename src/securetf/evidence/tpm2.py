"""Evidence of a TPM 2.0: one quote with all that is needed to verify it (docs/formats/tpm2-evidence.md)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from securetf.evidence import tpm2_public
from securetf.evidence.tpm2_public import PUBLIC_SIZE_LIMIT, Public
from securetf.evidence.tpm2_quote import (
    DIGEST_SIZES,
    QUOTE_SIZE_LIMIT,
    SIGNATURE_SIZE_LIMIT,
    Quote,
    Signature,
    encode_quote,
    encode_signature,
    parse_quote,
    parse_signature,
)
from securetf.evidence.tpm2_wire import Reader, number, sized

QUALIFYING_LABEL = b"securetf tpm2 report data v1\0"
MAGIC = b"STFTPM2\x01"
CERTIFICATE_LIMIT = 8
CERTIFICATE_SIZE_LIMIT = 8 * 1024  # bytes of DER; Google's have 1.3 KB
EVENT_LOG_SIZE_LIMIT = 512 * 1024  # bytes; genuine ones have 20 to 100 KB


@dataclass(frozen=True, slots=True, kw_only=True)
class Tpm2Evidence:
    """As received; nothing is authenticated until `verifier.tpm2` returns.

    ak: public area of the attestation key. pcrs: index to value, exactly those that the quote covers.
    certificates: DER, of the AK first and of the root last; none where the verifier knows the AK. event_log:
    the firmware's TCG log, or empty.
    """

    ak: Public
    quote: Quote
    signature: Signature
    pcrs: Mapping[int, bytes]
    certificates: tuple[bytes, ...] = field(repr=False)
    event_log: bytes = field(repr=False)


def qualifying_data(report_data: bytes) -> bytes:
    """Return the extra data that carries 64 bytes of report data: SHA-256, 32 bytes; many TPMs take 34 at
    most.
    """
    return hashlib.sha256(QUALIFYING_LABEL + report_data).digest()


def parse(raw: bytes) -> Tpm2Evidence:
    """Read one envelope.

    Raises:
        MalformedEvidenceError: naming the first field that is not as it must be.
    """
    reader = Reader(raw, "TPM Evidence")
    if reader.take("magic", len(MAGIC)) != MAGIC:
        reader.refuse("does not start with STFTPM2 and version 1")
    ak = tpm2_public.parse(reader.sized("public area", PUBLIC_SIZE_LIMIT, width=4))
    quote = parse_quote(reader.sized("quote", QUOTE_SIZE_LIMIT, width=4))
    signature = parse_signature(reader.sized("signature", 2 * SIGNATURE_SIZE_LIMIT, width=4))
    size = DIGEST_SIZES[quote.bank]
    values = reader.take("PCR values", size * len(quote.selection))
    pcrs = {index: values[size * at : size * (at + 1)] for at, index in enumerate(quote.selection)}
    count = reader.number("count of certificates", 1)
    if count > CERTIFICATE_LIMIT:
        reader.refuse(f"has {count} certificates, at most {CERTIFICATE_LIMIT} are read")
    certificates = tuple(reader.sized("certificate", CERTIFICATE_SIZE_LIMIT, width=4) for _ in range(count))
    event_log = reader.sized("event log", EVENT_LOG_SIZE_LIMIT, width=4)
    reader.end()
    return Tpm2Evidence(
        ak=ak,
        quote=quote,
        signature=signature,
        pcrs=MappingProxyType(pcrs),
        certificates=certificates,
        event_log=event_log,
    )


def encode(evidence: Tpm2Evidence) -> bytes:
    """Return the envelope. `parse(encode(evidence)) == evidence`, and the reverse."""
    return b"".join(
        (
            MAGIC,
            sized(tpm2_public.encode(evidence.ak), width=4),
            sized(encode_quote(evidence.quote), width=4),
            sized(encode_signature(evidence.signature), width=4),
            *(evidence.pcrs[index] for index in evidence.quote.selection),
            number(len(evidence.certificates), 1),
            *(sized(certificate, width=4) for certificate in evidence.certificates),
            sized(evidence.event_log, width=4),
        )
    )
