"""The transcript that Evidence is bound to: docs/formats/evidence-binding.md, byte by byte.

`report_data` (64 bytes) is the SHA-512 of the transcript; the transcript itself is also HPKE's `info`, so
that whoever terminates TLS between attester and CAS gains nothing.
"""

import hashlib
from collections.abc import Mapping
from enum import StrEnum

from securetf.errors import BindingError

LABEL = b"securetf evidence binding v2"
COMPOSITE_LABEL = b"securetf composite evidence v1"
NONE = b"none"  # stands for an absent field; no present one has four bytes
NONCE_SIZE = 32  # bytes
EXPORTER_SIZE = 32  # bytes; RFC 8446 section 7.5
MANIFEST_HASH_SIZE = 32  # bytes; SHA-256
KEY_SIZE_LIMIT = 4096  # bytes; ML-KEM-768 with X25519 has 1216
EXPORTER_LABEL = "EXPORTER-secureTF-attest"


class Role(StrEnum):
    """Who attests: a CAS's Evidence never serves as a workload's, or the reverse."""

    WORKLOAD = "workload"
    CAS = "cas"


def transcript(
    *,
    role: Role,
    nonce: bytes,
    tls_spki: bytes,
    hpke_public_key: bytes,
    cas_spki: bytes,
    exporter: bytes | None,
    manifest_hash: bytes | None,
    network_spki: bytes | None = None,
) -> bytes:
    """Return the transcript: each field after its length (4 bytes, big endian), in the order of the
    arguments.

    nonce: 32 bytes from the verifying side, used once. tls_spki, cas_spki: DER SubjectPublicKeyInfo of the
    attester's TLS key and of the CAS (equal when the CAS attests). hpke_public_key: raw, as the KEM defines
    it. exporter: 32 bytes of TLS exporter under `EXPORTER_LABEL`, None for `binding: key`. manifest_hash:
    SHA-256, None where no Manifest is meant (a CAS). network_spki: DER SubjectPublicKeyInfo of the network
    shield's key, None without one.

    Raises:
        BindingError: a field has the wrong size, or is all zero where that means it was never filled in.
    """
    _exact("nonce", nonce, NONCE_SIZE)
    for name, key in (("TLS key", tls_spki), ("HPKE key", hpke_public_key), ("CAS key", cas_spki)):
        if not NONCE_SIZE <= len(key) <= KEY_SIZE_LIMIT:
            raise BindingError(
                f"{name} has {len(key)} bytes, expected {NONCE_SIZE} to {KEY_SIZE_LIMIT}",
                "give the public key in the encoding that docs/formats/evidence-binding.md names",
            )
    if network_spki is not None and not NONCE_SIZE <= len(network_spki) <= KEY_SIZE_LIMIT:
        raise BindingError(
            f"network key has {len(network_spki)} bytes, expected {NONCE_SIZE} to {KEY_SIZE_LIMIT}",
            "give the SubjectPublicKeyInfo in DER",
        )
    if exporter is not None:
        _exact("TLS exporter", exporter, EXPORTER_SIZE)
    if manifest_hash is not None:
        _exact("Manifest hash", manifest_hash, MANIFEST_HASH_SIZE)
    fields = (
        LABEL,
        role.value.encode(),
        nonce,
        tls_spki,
        hpke_public_key,
        cas_spki,
        NONE if exporter is None else exporter,
        NONE if manifest_hash is None else manifest_hash,
        NONE if network_spki is None else network_spki,
    )
    return b"".join(len(part).to_bytes(4, "big") + part for part in fields)


def report_data(
    *,
    role: Role,
    nonce: bytes,
    tls_spki: bytes,
    hpke_public_key: bytes,
    cas_spki: bytes,
    exporter: bytes | None,
    manifest_hash: bytes | None,
    network_spki: bytes | None = None,
) -> bytes:
    """Return the 64 bytes that the Evidence must carry: SHA-512 over `transcript` of the same arguments.

    Raises:
        BindingError: as `transcript`.
    """
    return hashlib.sha512(
        transcript(
            role=role,
            nonce=nonce,
            tls_spki=tls_spki,
            hpke_public_key=hpke_public_key,
            cas_spki=cas_spki,
            exporter=exporter,
            manifest_hash=manifest_hash,
            network_spki=network_spki,
        )
    ).digest()


def composite_report_data(data: bytes, others: Mapping[str, bytes]) -> bytes:
    """Return the report data of the machine's own Evidence in composite Evidence: SHA-512, 64 bytes.

    data: `report_data`, which the others carry. others: platform's name to the raw Evidence of each. What
    the machine's TEE signs so covers, to the byte, what its vTPM said to the same run of the same program.
    """
    parts = [COMPOSITE_LABEL, data]
    for name in sorted(others):
        parts += [name.encode(), hashlib.sha256(others[name]).digest()]
    return hashlib.sha512(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()


def _exact(name: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise BindingError(
            f"{name} has {len(value)} bytes, expected {size}", "ask the CAS for a new challenge"
        )
    if not any(value):
        raise BindingError(
            f"{name} is all zero", "ask the CAS for a new challenge; a zero value is never fresh"
        )
