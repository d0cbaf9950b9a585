"""The key of an attested workload: P-256, made inside the TEE, never written anywhere."""

import base64
import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from securetf.errors import BindingError

ALGORITHM = "ecdsa-p256-sha256"


class WorkloadKey:
    """Signs a workload's requests. key_id: `p256:<RFC 7638 thumbprint>`; spki: what Evidence binds."""

    algorithm = ALGORITHM

    def __init__(self, private: EllipticCurvePrivateKey) -> None:
        self.private = private
        self.spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key_id = f"p256:{thumbprint(private.public_key())}"

    def __repr__(self) -> str:
        return f"WorkloadKey({self.key_id})"

    @classmethod
    def generate(cls) -> "WorkloadKey":
        """Make a fresh key from the system's randomness."""
        return cls(generate_private_key(SECP256R1()))

    def sign(self, message: bytes) -> bytes:
        """Return 64 bytes, r then s (RFC 9421, section 3.3.4)."""
        r, s = decode_dss_signature(self.private.sign(message, ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def public_key(spki: bytes) -> EllipticCurvePublicKey:
    """Read a P-256 public key from DER.

    Raises:
        BindingError: not DER, not P-256, or not the canonical encoding.
    """
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise BindingError("the attested TLS key is not a P-256 public key in DER", "make a P-256 key pair")
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
        raise BindingError(
            "the attested TLS key is not in its canonical DER encoding",
            "send the SubjectPublicKeyInfo as DER",
        )
    return key


def thumbprint(key: EllipticCurvePublicKey) -> str:
    """Return the JWK thumbprint of a P-256 key: RFC 7638, SHA-256, base64url, 43 characters."""
    numbers = key.public_numbers()
    x, y = (_b64(value.to_bytes(32, "big")) for value in (numbers.x, numbers.y))
    return _b64(hashlib.sha256(f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'.encode()).digest())


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
