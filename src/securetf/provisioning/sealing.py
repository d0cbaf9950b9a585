"""HPKE (RFC 9180) with ML-KEM-768 + X25519, HKDF-SHA256, AES-256-GCM; every seal is bound to a transcript."""

from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from securetf.errors import UnsealError
from securetf.provisioning.values import Provision, VolumeGrant

_MLKEM_PUBLIC_SIZE = 1184  # bytes; FIPS 203, table 3
_MLKEM_SEED_SIZE = 64  # bytes; FIPS 203, d and z
_X25519_SIZE = 32  # bytes; RFC 7748
HPKE_PUBLIC_KEY_SIZE = _MLKEM_PUBLIC_SIZE + _X25519_SIZE

_T = TypeVar("_T")


def _suite() -> Suite:
    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True)
class HpkeKeyPair:
    """A key to open sealed messages. `public` has 1216 bytes: ML-KEM-768 then X25519."""

    mlkem_key: mlkem.MLKEM768PrivateKey = field(repr=False)
    x25519_key: x25519.X25519PrivateKey = field(repr=False)
    public: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> "HpkeKeyPair":
        """Make a fresh pair from the system's randomness."""
        return cls._of(mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, raw: bytes) -> "HpkeKeyPair":
        """Read what `private_bytes` gave: 96 bytes, ML-KEM seed then X25519 scalar."""
        if len(raw) != _MLKEM_SEED_SIZE + _X25519_SIZE:
            raise UnsealError(
                f"HPKE private key has {len(raw)} bytes, expected 96", "restore the file or row that held it"
            )
        return cls._of(
            mlkem.MLKEM768PrivateKey.from_seed_bytes(raw[:_MLKEM_SEED_SIZE]),
            x25519.X25519PrivateKey.from_private_bytes(raw[_MLKEM_SEED_SIZE:]),
        )

    @classmethod
    def _of(cls, mlkem_key: mlkem.MLKEM768PrivateKey, x25519_key: x25519.X25519PrivateKey) -> "HpkeKeyPair":
        public = mlkem_key.public_key().public_bytes_raw() + x25519_key.public_key().public_bytes_raw()
        return cls(mlkem_key, x25519_key, public)

    def private_bytes(self) -> bytes:
        """Return 96 bytes, ML-KEM seed then X25519 scalar."""
        return self.mlkem_key.private_bytes_raw() + self.x25519_key.private_bytes_raw()


@dataclass(frozen=True, slots=True)
class HpkePublicKey:
    """A public key that something can be sealed to; made by `public_key_of`."""

    key: MLKEM768X25519PublicKey = field(repr=False)


def public_key_of(raw: bytes) -> HpkePublicKey:
    """Read a public key, before anything is decided because of it.

    Raises:
        UnsealError: wrong size, or not a key.
    """
    if len(raw) != HPKE_PUBLIC_KEY_SIZE:
        raise UnsealError(
            f"HPKE public key has {len(raw)} bytes, expected {HPKE_PUBLIC_KEY_SIZE}",
            "send ML-KEM-768 (1184 bytes) followed by X25519 (32 bytes)",
        )
    try:
        return HpkePublicKey(
            MLKEM768X25519PublicKey(
                mlkem.MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC_SIZE]),
                x25519.X25519PublicKey.from_public_bytes(raw[_MLKEM_PUBLIC_SIZE:]),
            )
        )
    except ValueError as error:
        raise _invalid(error) from None


def seal(provision: Provision, key: HpkePublicKey, transcript: bytes) -> bytes:
    """Seal a Provision to the attested key; only who has the key and the same transcript opens it.

    Raises:
        UnsealError: nothing can be sealed to this key.
    """
    return _seal(msgspec.json.encode(provision), key, transcript)


def open_sealed(sealed: bytes, key: HpkeKeyPair, transcript: bytes) -> Provision:
    """Open what `seal` made.

    Raises:
        UnsealError: other key, other transcript, altered bytes, or not a Provision inside.
    """
    return _decode(_open(sealed, key, transcript), Provision)


def seal_grant(grant: VolumeGrant, key: HpkePublicKey, transcript: bytes) -> bytes:
    """Seal a volume key to an owner's ephemeral key; transcript of `grant_transcript`. Raises as `seal`."""
    return _seal(msgspec.json.encode(grant), key, transcript)


def open_grant(sealed: bytes, key: HpkeKeyPair, transcript: bytes) -> VolumeGrant:
    """Open what `seal_grant` made; raises UnsealError as `open_sealed`."""
    return _decode(_open(sealed, key, transcript), VolumeGrant)


def seal_secret(value: bytes, hpke_public_key: bytes, transcript: bytes) -> bytes:
    """Seal the value of a secret to the CAS; transcript of `secret_transcript`. Raises UnsealError."""
    return _seal(value, public_key_of(hpke_public_key), transcript)


def open_secret(sealed: bytes, key: HpkeKeyPair, transcript: bytes) -> bytes:
    """Open what `seal_secret` made; raises UnsealError as `open_sealed`."""
    return _open(sealed, key, transcript)


def grant_transcript(
    *, kind: str, session: str, volume: str, key_id: str, cas_spki: bytes, public: bytes
) -> bytes:
    """What the seal of a grant is bound to. kind: `packing` or `export`; public: the ephemeral key."""
    return _join(
        b"securetf grant v1",
        kind.encode(),
        session.encode(),
        volume.encode(),
        key_id.encode(),
        cas_spki,
        public,
    )


def secret_transcript(*, session: str, secret: str, key_id: str, cas_spki: bytes) -> bytes:
    """What the seal of an imported secret is bound to."""
    return _join(b"securetf secret v1", session.encode(), secret.encode(), key_id.encode(), cas_spki)


def _join(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _seal(plain: bytes, key: HpkePublicKey, info: bytes) -> bytes:
    try:
        return _suite().encrypt(plain, key.key, info=info)
    except ValueError as error:
        raise _invalid(error) from None


def _invalid(error: ValueError) -> UnsealError:
    return UnsealError(f"HPKE public key is not valid: {error}", "make a fresh key pair")


def _open(sealed: bytes, key: HpkeKeyPair, info: bytes) -> bytes:
    try:
        return _suite().decrypt(sealed, MLKEM768X25519PrivateKey(key.mlkem_key, key.x25519_key), info=info)
    except (InvalidTag, ValueError):
        raise UnsealError(
            f"a sealed message of {len(sealed)} bytes does not open with this key and transcript",
            "attest again; if it repeats, someone between you and the CAS alters messages",
        ) from None


def _decode(plain: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(plain, type=kind, strict=True)
    except msgspec.DecodeError as error:
        raise UnsealError(f"{kind.__name__}: {error}", "use the same release on both sides") from None
