"""TPMT_PUBLIC of RSA and ECC keys as exact bytes (TPM 2.0 Library, Part 2, section 12.2.4)."""

import hashlib
from dataclasses import dataclass

from securetf.evidence.tpm2_quote import DIGEST_SIZES, ECDSA, HASH_NAMES, RSAPSS, RSASSA
from securetf.evidence.tpm2_wire import Reader, number, sized

RSA, ECC = 0x0001, 0x0023  # TPM_ALG_ID
AES, CFB, NULL = 0x0006, 0x0043, 0x0010
P256, P384, P521 = 0x0003, 0x0004, 0x0005  # TPM_ECC_CURVE
CURVE_SIZES = {P256: 32, P384: 48, P521: 66}  # bytes of a coordinate
PUBLIC_SIZE_LIMIT = 1024  # bytes; RSA-4096 has 600

# TPMA_OBJECT (Part 2, section 8.3)
FIXED_TPM, ST_CLEAR, FIXED_PARENT, SENSITIVE_ORIGIN = 1 << 1, 1 << 2, 1 << 4, 1 << 5
USER_WITH_AUTH, ADMIN_WITH_POLICY, NO_DA, ENCRYPTED_DUPLICATION = 1 << 6, 1 << 7, 1 << 10, 1 << 11
RESTRICTED, DECRYPT, SIGN = 1 << 16, 1 << 17, 1 << 18
KNOWN_ATTRIBUTES = (
    FIXED_TPM | ST_CLEAR | FIXED_PARENT | SENSITIVE_ORIGIN | USER_WITH_AUTH | ADMIN_WITH_POLICY | NO_DA
    | ENCRYPTED_DUPLICATION | RESTRICTED | DECRYPT | SIGN
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """The public area of a key; its hash is the key's name.

    kind: RSA or ECC. name_hash: TPM_ALG_ID. attributes: TPMA_OBJECT. auth_policy: digest or empty. aes_bits:
    of the symmetric part of a decryption key, 0 for none. scheme, scheme_hash: of a signing key, NULL and 0
    for any. bits: of an RSA key. exponent: as the TPM writes it, 0 means 65537. curve: TPM_ECC_CURVE of an
    ECC key. unique: RSA modulus, or x and y, big endian.
    """

    kind: int
    name_hash: int
    attributes: int
    auth_policy: bytes
    aes_bits: int
    scheme: int
    scheme_hash: int
    bits: int = 0
    exponent: int = 0
    curve: int = 0
    unique: tuple[bytes, ...]


def parse(raw: bytes) -> Public:
    """Read one TPMT_PUBLIC.

    Raises:
        MalformedEvidenceError: naming the first field that is not as it must be.
    """
    reader = Reader(raw, "TPM public area")
    kind, name_hash = reader.number("type", 2), reader.number("name algorithm", 2)
    if kind not in {RSA, ECC}:
        reader.refuse(f"is of type {kind:#06x}, expected RSA or ECC")
    if name_hash not in DIGEST_SIZES:
        reader.refuse(f"has name algorithm {name_hash:#06x}, which is not SHA-1 or SHA-2")
    attributes = reader.number("attributes", 4)
    if attributes & ~KNOWN_ATTRIBUTES:
        reader.refuse(f"has attributes {attributes:#010x} with reserved bits")
    policy = reader.sized("policy", 64)
    if len(policy) not in {0, DIGEST_SIZES[name_hash]}:
        reader.refuse(f"has a policy of {len(policy)} bytes, which is not a digest by its name algorithm")
    aes_bits = _symmetric(reader)
    scheme, scheme_hash = _scheme(reader)
    common = {
        "kind": kind, "name_hash": name_hash, "attributes": attributes, "aes_bits": aes_bits, "scheme":
        scheme, "scheme_hash": scheme_hash,
    }  # fmt: skip
    public = _rsa(reader, policy, common) if kind == RSA else _ecc(reader, policy, common)
    reader.end()
    return public


def encode(public: Public) -> bytes:
    """Return the TPMT_PUBLIC. `parse(encode(public)) == public`, and the reverse."""
    symmetric = number(NULL, 2)
    if public.aes_bits:
        symmetric = number(AES, 2) + number(public.aes_bits, 2) + number(CFB, 2)
    scheme = number(public.scheme, 2)
    if public.scheme != NULL:
        scheme += number(public.scheme_hash, 2)
    if public.kind == RSA:
        rest = number(public.bits, 2) + number(public.exponent, 4)
    else:
        rest = number(public.curve, 2) + number(NULL, 2)
    return b"".join(
        (
            number(public.kind, 2),
            number(public.name_hash, 2),
            number(public.attributes, 4),
            sized(public.auth_policy),
            symmetric,
            scheme,
            rest,
            *(sized(part) for part in public.unique),
        )
    )


def name(public: Public) -> bytes:
    """Return the key's name: algorithm (2 bytes) and hash of the public area (Part 1, section 16)."""
    digest = hashlib.new(HASH_NAMES[public.name_hash], encode(public), usedforsecurity=True)
    return number(public.name_hash, 2) + digest.digest()


def _symmetric(reader: Reader) -> int:
    algorithm = reader.number("symmetric algorithm", 2)
    if algorithm == NULL:
        return 0
    bits, mode = reader.number("symmetric key bits", 2), reader.number("symmetric mode", 2)
    if (algorithm, mode) != (AES, CFB) or bits not in {128, 192, 256}:
        reader.refuse("has a symmetric part that is not AES in CFB mode")
    return bits


def _scheme(reader: Reader) -> tuple[int, int]:
    scheme = reader.number("scheme", 2)
    if scheme == NULL:
        return NULL, 0
    if scheme not in {RSASSA, RSAPSS, ECDSA}:
        reader.refuse(f"has scheme {scheme:#06x}, expected RSASSA, RSAPSS, ECDSA or none")
    digest = reader.number("scheme hash", 2)
    if digest not in DIGEST_SIZES:
        reader.refuse(f"has scheme hash {digest:#06x}, which is not SHA-1 or SHA-2")
    return scheme, digest


def _rsa(reader: Reader, policy: bytes, common: dict[str, int]) -> Public:
    bits, exponent = reader.number("key bits", 2), reader.number("exponent", 4)
    modulus = reader.sized("modulus", 512)
    if len(modulus) * 8 != bits:
        reader.refuse(f"has a modulus of {len(modulus)} bytes, expected {bits} bits")
    return Public(auth_policy=policy, bits=bits, exponent=exponent, unique=(modulus,), **common)


def _ecc(reader: Reader, policy: bytes, common: dict[str, int]) -> Public:
    curve, kdf = reader.number("curve", 2), reader.number("key derivation", 2)
    if curve not in CURVE_SIZES:
        reader.refuse(f"is on curve {curve:#06x}, expected P-256, P-384 or P-521")
    if kdf != NULL:
        reader.refuse(f"has key derivation {kdf:#06x}, expected none")
    size = CURVE_SIZES[curve]
    unique = (reader.sized("x", size), reader.sized("y", size))
    if any(len(part) != size for part in unique):
        reader.refuse(f"has coordinates that are not {size} bytes each")
    return Public(auth_policy=policy, curve=curve, unique=unique, **common)
