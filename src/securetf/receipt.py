"""Receipts: what a service answered to what, with which model, signed by an attested key. Pure.

docs/formats/receipt-v1.md. A service signs with a key of its own that its launcher made; the launcher's
attested key, the `cnf` of the service's attestation result, signs the delegation to it.
"""

import base64
import hashlib
import json
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from msgspec import Meta

from securetf.errors import BindingError, TokenError
from securetf.keys.jws import sign_compact, verify_compact
from securetf.keys.workload import WorkloadKey, public_key
from securetf.wire.messages import Epoch, Instance, Message, Name, SessionName, Spki
from securetf.wire.statement import Delegation, HashText, Hex32, Jws, Time, read_delegation

HEADER = "securetf-receipt"  # of HTTP, and metadata of gRPC: asks with the value `request`, answers
RECEIPT_TYPE = "securetf-receipt+jwt"
CLOCK_SKEW_S = 30  # by which the launcher's and the program's readings of one clock may differ
SIZE_LIMIT = 8192  # characters of a receipt: what HTTP libraries take as one header
_FIX = "treat the receipt as forged"


class ReceiptModel(Message, frozen=True, kw_only=True):
    """The model that answered. sha256: of its files as the engine loaded them (docs/formats/receipt-v1.md).

    volume, volume_root, volume_epoch: where it was read, as the CAS named it; "" and 0 if in no volume.
    """

    name: Annotated[str, Meta(max_length=256)]
    version: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    sha256: Hex32
    volume: Annotated[str, Meta(max_length=70)]
    volume_root: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$", max_length=64)]
    volume_epoch: Epoch


class Receipt(Message, frozen=True, kw_only=True):
    """One answer. request_sha256, response_sha256: of the bodies' bytes. ear_jti, ear_sha256: the attestation
    result that the service held; attested_key: its `cnf` (`attested_spki`). delegation: compact JWS. iat:
    Unix seconds.
    """

    v: Literal[1] = 1
    session: SessionName
    workload: Name
    instance: Instance
    manifest_hash: HashText
    model: ReceiptModel
    request_sha256: Hex32
    response_sha256: Hex32
    ear_jti: Annotated[str, Meta(max_length=128)]
    ear_sha256: Hex32
    attested_key: Spki
    delegation: Jws
    iat: Time


def ear_digest(ear: str) -> str:
    """Return what `ear_sha256` holds: SHA-256 in hex of the token's text."""
    return hashlib.sha256(ear.encode()).hexdigest()


def attested_spki(ear: str) -> tuple[str, bytes]:
    """Return `jti` and the key in `cnf` (P-256, DER) of a token that the caller trusts, unchecked.

    Raises:
        TokenError: not a token with such a key.
    """
    try:
        claims = json.loads(base64.urlsafe_b64decode(ear.split(".")[1] + "=="))
        jwk = claims["cnf"]["jwk"]
        x, y = (base64.urlsafe_b64decode(jwk[name] + "=") for name in ("x", "y"))
        jti = claims["jti"]
        if len(x) != 32 or len(y) != 32 or not isinstance(jti, str):
            raise ValueError
    except (ValueError, KeyError, IndexError, TypeError):
        raise TokenError("the token names no attested P-256 key", "use the token that the CAS gave") from None
    # SubjectPublicKeyInfo of an uncompressed P-256 point is this prefix and the point (RFC 5480)
    prefix = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
    return jti, prefix + x + y


def sign_receipt(receipt: Receipt, receipt_key: WorkloadKey) -> str:
    """Return the compact JWS that goes into the header `securetf-receipt`."""
    return sign_compact(receipt_key, RECEIPT_TYPE, msgspec.json.encode(receipt))


def read_receipt(token: str) -> Receipt:
    """Return what a receipt says, with nothing checked but its form: to find the key that checks it.

    Raises:
        TokenError: not a receipt.
    """
    parts = token.split(".")
    try:
        if len(token) > SIZE_LIMIT or len(parts) != 3:
            raise ValueError(f"{len(token)} characters in {len(parts)} parts")
        raw = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(raw, type=Receipt, strict=True)
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise TokenError(f"not a receipt of this version: {error}", "name the receipt's own text") from None


def verify_receipt(token: str, attested_key: EllipticCurvePublicKey) -> tuple[Receipt, Delegation]:
    """Check a receipt down to the attested key: delegation, signature, and that both tell of one instance.

    Raises:
        TokenError: a form or signature does not hold, the delegation is for another workload, or did not hold
        when the receipt was signed.
    """
    delegation = read_delegation(read_receipt(token).delegation, attested_key)
    try:
        key = public_key(delegation.receipt_key)
    except BindingError as error:
        raise TokenError(f"the delegation's receipt key: {error.problem}", error.fix) from None
    verify_compact(token, key, RECEIPT_TYPE)
    receipt = read_receipt(token)
    for name in ("session", "workload", "instance", "manifest_hash"):
        found, expected = getattr(receipt, name), getattr(delegation, name)
        if found != expected:
            raise TokenError(
                f"the receipt's {name} is {found!r}, its key was delegated for {expected!r}", _FIX
            )
    if not delegation.iat - CLOCK_SKEW_S <= receipt.iat < delegation.exp:
        raise TokenError(
            f"the receipt was signed at {receipt.iat}, its key was delegated from {delegation.iat} until "
            f"{delegation.exp}",
            _FIX,
        )
    return receipt, delegation
