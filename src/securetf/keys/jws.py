"""Statements signed by a P-256 key: compact JWS (RFC 7515) of one algorithm, ES256, and one `typ` each.

Nothing of a header is obeyed: algorithm and type are compared with the expected ones, and the key is the
caller's. So a statement of one kind never passes for another, whoever signed it.
"""

import base64
import binascii
import json
from typing import Any, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from securetf.errors import TokenError
from securetf.keys.workload import thumbprint

SIZE_LIMIT = 16 * 1024  # characters
_COORDINATE_SIZE = 32  # bytes
_FIX = "ask the service again; if it repeats, treat what it sent as forged"
_T = TypeVar("_T", bound=msgspec.Struct)


def sign(payload: bytes, *, typ: str, key: EllipticCurvePrivateKey, with_key: bool = False) -> str:
    """Return `header.payload.signature`. payload: JSON text. key: P-256.

    with_key: put the public key into the header (`jwk`), for a reader who knows only its thumbprint.
    """
    public = key.public_key()
    header: dict[str, Any] = {"alg": "ES256", "typ": typ, "kid": thumbprint(public)}
    if with_key:
        numbers = public.public_numbers()
        header["jwk"] = {
            "kty": "EC",
            "crv": "P-256",
            "x": _encode(numbers.x.to_bytes(_COORDINATE_SIZE, "big")),
            "y": _encode(numbers.y.to_bytes(_COORDINATE_SIZE, "big")),
        }
    signed = f"{_encode(json.dumps(header, separators=(',', ':')).encode())}.{_encode(payload)}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ECDSA(SHA256())))
    signature = r.to_bytes(_COORDINATE_SIZE, "big") + s.to_bytes(_COORDINATE_SIZE, "big")
    return f"{signed}.{_encode(signature)}"


def verify(token: str, kind: type[_T], *, typ: str, key: EllipticCurvePublicKey) -> _T:
    """Check form, `alg`, `typ`, `kid` and signature, then read the payload strictly as `kind`.

    Raises:
        TokenError: any of them does not hold; the message says which.
    """
    header, payload, signed, signature = _split(token, typ)
    if header.get("kid") != thumbprint(key):
        raise TokenError(
            f"the {typ} is signed by the key {header.get('kid')!r}, expected {thumbprint(key)!r}", _FIX
        )
    r, s = (int.from_bytes(signature[at : at + _COORDINATE_SIZE], "big") for at in (0, _COORDINATE_SIZE))
    try:
        key.verify(encode_dss_signature(r, s), signed, ECDSA(SHA256()))
    except InvalidSignature:
        raise TokenError(f"the signature of the {typ} does not hold", _FIX) from None
    return _read(payload, kind, typ)


def unverified(token: str, kind: type[_T], *, typ: str) -> _T:
    """Read the payload of a statement whose signature nobody has checked: to find the key that checks it.

    Raises:
        TokenError: not of the form.
    """
    return _read(_split(token, typ)[1], kind, typ)


def header_key(token: str, *, typ: str) -> EllipticCurvePublicKey | None:
    """Return the key in the header, None if there is none. It proves nothing: compare its thumbprint.

    Raises:
        TokenError: not of the form, or not a P-256 key.
    """
    jwk = _split(token, typ)[0].get("jwk")
    return None if jwk is None else public_key_of_jwk(jwk)


def public_key_of_jwk(jwk: object) -> EllipticCurvePublicKey:
    """Read a P-256 public key in JWK form (RFC 7517).

    Raises:
        TokenError: another kind of key, or not a point of the curve.
    """
    try:
        if not isinstance(jwk, dict) or set(jwk) != {"kty", "crv", "x", "y"}:
            raise ValueError("members other than kty, crv, x, y")
        if (jwk["kty"], jwk["crv"]) != ("EC", "P-256"):
            raise ValueError(f"kty {jwk['kty']!r}, crv {jwk['crv']!r}")
        x, y = (_decode(str(jwk[name])) for name in ("x", "y"))
        if len(x) != _COORDINATE_SIZE or len(y) != _COORDINATE_SIZE:
            raise ValueError("coordinates of other sizes")
        numbers = EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), SECP256R1())
        return numbers.public_key()
    except ValueError as error:
        raise TokenError(f"the key is not a P-256 key in JWK form: {error}", _FIX) from None


def _split(token: str, typ: str) -> tuple[dict[str, Any], bytes, bytes, bytes]:
    """Return header, payload, what is signed, and the signature (64 bytes)."""
    if len(token) > SIZE_LIMIT:
        raise TokenError(f"the {typ} has {len(token)} characters, at most {SIZE_LIMIT} are read", _FIX)
    parts = token.split(".")
    try:
        if len(parts) != 3:
            raise ValueError(f"{len(parts)} parts instead of 3")
        header = json.loads(_decode(parts[0]))
        payload, signature = _decode(parts[1]), _decode(parts[2])
        if not isinstance(header, dict) or set(header) - {"alg", "typ", "kid", "jwk"}:
            raise ValueError("a header with members other than alg, typ, kid, jwk")
        if len(signature) != 2 * _COORDINATE_SIZE:
            raise ValueError(f"a signature of {len(signature)} bytes")
    except (ValueError, RecursionError) as error:
        raise TokenError(f"not a compact {typ}: {error}", _FIX) from None
    if header.get("alg") != "ES256" or header.get("typ") != typ:
        found = f"alg {header.get('alg')!r} and typ {header.get('typ')!r}"
        raise TokenError(f"the statement has {found}, expected 'ES256' and {typ!r}", _FIX)
    return header, payload, f"{parts[0]}.{parts[1]}".encode(), signature


def _read(payload: bytes, kind: type[_T], typ: str) -> _T:
    try:
        return msgspec.json.decode(payload, type=kind, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TokenError(f"the {typ} does not say what it must: {error}", _FIX) from None


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Read base64url without padding, in its one canonical form."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64url") from None
    if _encode(raw) != text:
        raise ValueError("not canonical base64url")
    return raw
