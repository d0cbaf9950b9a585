"""Compact JWS (RFC 7515) by an attested key: ES256, a header of exactly `alg` and `typ`."""

import base64
import json

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from securetf.errors import TokenError
from securetf.keys.workload import WorkloadKey

SIZE_LIMIT = 64 * 1024  # characters
_COORDINATE = 32  # bytes of r and of s; RFC 7518 section 3.4
_FIX = "fetch it again; if it repeats, use the release that made it"


def sign_compact(key: WorkloadKey, kind: str, payload: bytes) -> str:
    """Return header, payload and signature. kind: the `typ` of the header, such as "securetf-receipt+jwt"."""
    signed = f"{_encode(_header(kind))}.{_encode(payload)}"
    return f"{signed}.{_encode(key.sign(signed.encode()))}"


def verify_compact(token: str, key: EllipticCurvePublicKey, kind: str) -> bytes:
    """Return the payload of a JWS that holds under `key`.

    Raises:
        TokenError: too long, not three parts of base64url, another header, or a wrong signature.
    """
    parts = token.split(".")
    if len(token) > SIZE_LIMIT or len(parts) != 3:
        raise TokenError(f"{len(token)} characters with {len(parts)} parts are no JWS of type {kind}", _FIX)
    header, payload, signature = (_decode(part, kind) for part in parts)
    if header != _header(kind):
        raise TokenError(f"the JWS has the header {header[:120]!r}, expected {_header(kind)!r}", _FIX)
    if len(signature) != 2 * _COORDINATE:
        raise TokenError(f"the signature of the {kind} has {len(signature)} bytes, expected 64", _FIX)
    r, s = (int.from_bytes(half, "big") for half in (signature[:_COORDINATE], signature[_COORDINATE:]))
    try:
        key.verify(encode_dss_signature(r, s), token.rpartition(".")[0].encode(), ECDSA(SHA256()))
    except InvalidSignature:
        raise TokenError(f"the signature of the {kind} does not hold under the expected key", _FIX) from None
    return payload


def _header(kind: str) -> bytes:
    return json.dumps({"alg": "ES256", "typ": kind}, separators=(",", ":")).encode()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str, kind: str) -> bytes:
    """Read unpadded base64url in its one canonical spelling."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise TokenError(f"a part of the {kind} is not base64url", _FIX) from None
    if _encode(raw) != text:
        raise TokenError(f"a part of the {kind} is not canonical base64url", _FIX)
    return raw
