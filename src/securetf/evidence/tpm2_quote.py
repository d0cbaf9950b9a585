"""TPMS_ATTEST of quotes and TPMT_SIGNATURE as exact bytes (TPM 2.0 Library, Part 2, sections 10.12 and
11.3).
"""

import struct
from dataclasses import dataclass

from securetf.evidence.tpm2_wire import Reader, number, sized

GENERATED = 0xFF544347  # TPM_GENERATED_VALUE: only a TPM starts what a restricted key signs with it
ATTEST_QUOTE = 0x8018
SHA1, SHA256, SHA384, SHA512 = 0x0004, 0x000B, 0x000C, 0x000D  # TPM_ALG_ID
DIGEST_SIZES = {SHA1: 20, SHA256: 32, SHA384: 48, SHA512: 64}  # bytes
HASH_NAMES = {SHA1: "sha1", SHA256: "sha256", SHA384: "sha384", SHA512: "sha512"}
RSASSA, RSAPSS, ECDSA = 0x0014, 0x0016, 0x0018
PCR_COUNT = 24
QUOTE_SIZE_LIMIT = 1024  # bytes; genuine ones have 115 to 180
SIGNATURE_SIZE_LIMIT = 1024  # bytes; RSA-4096 has 518
EXTRA_DATA_LIMIT = 66  # bytes; TPM2B_DATA holds a TPMT_HA, SHA-512 at most
_CLOCK = struct.Struct(">QIIBQ")  # clock, resets, restarts, safe flag (TPMS_CLOCK_INFO); firmware version
_SELECT_SIZE = 3  # bytes of a PCR bit map: 24 PCRs (TCG PC Client Platform TPM Profile, section 4.6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What a TPM says of its PCRs, as received; nothing is authenticated until the verifier returns.

    qualified_signer: name of the key along its hierarchy. extra_data: the caller's choice; carries the nonce.
    clock: ms since the TPM's clock was last cleared. reset_count, restart_count: of TPM resets and resumes.
    safe: no higher clock value was ever reported. firmware: the vendor's version. bank: TPM_ALG_ID of the
    PCRs. selection: the indices quoted, ascending. pcr_digest: hash by the signing scheme's algorithm of the
    selected PCRs.
    """

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware: int
    bank: int
    selection: tuple[int, ...]
    pcr_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """scheme: RSASSA, RSAPSS or ECDSA. hash: TPM_ALG_ID. parts: the RSA signature, or ECDSA's r and s, big
    endian.
    """

    scheme: int
    hash: int
    parts: tuple[bytes, ...]


def parse_quote(raw: bytes) -> Quote:
    """Read one TPMS_ATTEST of a quote over one PCR bank.

    Raises:
        MalformedEvidenceError: naming the first field that is not as it must be.
    """
    reader = Reader(raw, "TPM quote")
    if len(raw) > QUOTE_SIZE_LIMIT:
        reader.refuse(f"has {len(raw)} bytes, at most {QUOTE_SIZE_LIMIT} are read")
    magic, kind = reader.number("magic", 4), reader.number("type", 2)
    if magic != GENERATED:
        reader.refuse(f"has magic {magic:#010x}, expected {GENERATED:#x}: no TPM made it")
    if kind != ATTEST_QUOTE:
        reader.refuse(f"is an attestation of type {kind:#06x}, expected {ATTEST_QUOTE:#x} (quote)")
    signer = reader.sized("qualified signer", 2 + 64)
    extra = reader.sized("extra data", EXTRA_DATA_LIMIT)
    clock, resets, restarts, safe, firmware = reader.unpack("clock and firmware version", _CLOCK)
    if safe > 1:
        reader.refuse(f"has safe flag {safe}, expected 0 or 1")
    bank, selection = _selection(reader)
    digest = reader.sized("PCR digest", 64)
    reader.end()
    return Quote(
        qualified_signer=signer,
        extra_data=extra,
        clock=clock,
        reset_count=resets,
        restart_count=restarts,
        safe=bool(safe),
        firmware=firmware,
        bank=bank,
        selection=selection,
        pcr_digest=digest,
    )


def encode_quote(quote: Quote) -> bytes:
    """Return the bytes that the TPM signed. `parse_quote(encode_quote(quote)) == quote`, and the reverse."""
    return b"".join(
        (
            number(GENERATED, 4),
            number(ATTEST_QUOTE, 2),
            sized(quote.qualified_signer),
            sized(quote.extra_data),
            _CLOCK.pack(quote.clock, quote.reset_count, quote.restart_count, quote.safe, quote.firmware),
            encode_selection(quote.bank, quote.selection),
            sized(quote.pcr_digest),
        )
    )


def encode_selection(bank: int, selection: tuple[int, ...]) -> bytes:
    """Return a TPML_PCR_SELECTION of one bank."""
    bits = sum(1 << index for index in selection)
    return number(1, 4) + number(bank, 2) + number(_SELECT_SIZE, 1) + bits.to_bytes(_SELECT_SIZE, "little")


def parse_signature(raw: bytes) -> Signature:
    """Read one TPMT_SIGNATURE by RSA or ECDSA.

    Raises:
        MalformedEvidenceError: naming the first field that is not as it must be.
    """
    reader = Reader(raw, "TPM signature")
    scheme, digest = reader.number("scheme", 2), reader.number("hash", 2)
    if scheme not in {RSASSA, RSAPSS, ECDSA}:
        reader.refuse(f"has scheme {scheme:#06x}, expected RSASSA, RSAPSS or ECDSA")
    if digest not in DIGEST_SIZES:
        reader.refuse(f"has hash {digest:#06x}, which is not SHA-1 or SHA-2")
    count = 2 if scheme == ECDSA else 1
    parts = tuple(reader.sized("value", SIGNATURE_SIZE_LIMIT) for _ in range(count))
    reader.end()
    return Signature(scheme=scheme, hash=digest, parts=parts)


def encode_signature(signature: Signature) -> bytes:
    """Return the TPMT_SIGNATURE. `parse_signature(encode_signature(value)) == value`."""
    head = number(signature.scheme, 2) + number(signature.hash, 2)
    return head + b"".join(sized(part) for part in signature.parts)


def _selection(reader: Reader) -> tuple[int, tuple[int, ...]]:
    count = reader.number("count of PCR selections", 4)
    if count != 1:
        reader.refuse(f"covers {count} PCR banks, expected 1")
    bank, size = reader.number("bank", 2), reader.number("size of the PCR selection", 1)
    if bank not in DIGEST_SIZES:
        reader.refuse(f"covers bank {bank:#06x}, which is not SHA-1 or SHA-2")
    if size != _SELECT_SIZE:
        reader.refuse(f"has a PCR selection of {size} bytes, expected {_SELECT_SIZE}")
    bits = int.from_bytes(reader.take("PCR selection", size), "little")
    return bank, tuple(index for index in range(PCR_COUNT) if bits >> index & 1)
