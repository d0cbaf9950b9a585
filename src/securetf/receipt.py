"""Receipts: what a service answered to what, with which model, signed by an attested key. Pure.

docs/formats/receipt-v1.md. A service signs with a key of its own that its launcher made; the launcher's
attested key, the `cnf` of the service's attestation result, signs the delegation to it.
"""

import hashlib
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from msgspec import Meta, Struct

from securetf.errors import BindingError, TokenError
from securetf.keys import jws
from securetf.keys.workload import public_key

HEADER = "securetf-receipt"  # of HTTP, and metadata of gRPC: asks with the value `request`, answers
RECEIPT_TYPE = "securetf-receipt+jwt"
DELEGATION_TYPE = "securetf-receipt-delegation+jwt"
CLOCK_SKEW_S = 30  # by which two clocks of one TEE's session may differ

Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
ManifestHash = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
_Text = Annotated[str, Meta(max_length=256)]
_Time = Annotated[int, Meta(ge=0, lt=2**48)]
_Instance = Annotated[int, Meta(ge=0, lt=65536)]


class _Strict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ReceiptModel(_Strict, frozen=True, kw_only=True):
    """The model that answered. sha256: of its files as the engine loaded them (docs/formats/receipt-v1.md).

    volume, volume_root, volume_epoch: where it was read, as the CAS named it; "" and 0 for none.
    """

    name: _Text
    version: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    sha256: Hex32
    volume: _Text
    volume_root: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
    volume_epoch: Annotated[int, Meta(ge=0, lt=2**32)]


class Receipt(_Strict, frozen=True, kw_only=True):
    """One answer. request_sha256, response_sha256: of the bodies' bytes. ear_jti, ear_sha256: the attestation
    result that the service held. delegation: compact JWS, see `Delegation`. iat: Unix seconds.
    """

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    session: _Text
    workload: _Text
    instance: _Instance
    manifest_hash: ManifestHash
    model: ReceiptModel
    request_sha256: Hex32
    response_sha256: Hex32
    ear_jti: _Text
    ear_sha256: Hex32
    delegation: Annotated[str, Meta(max_length=4096)]
    iat: _Time


class Delegation(_Strict, frozen=True, kw_only=True):
    """By the attested key: this instance of this workload may sign receipts with `receipt_key`.

    receipt_key: P-256 SubjectPublicKeyInfo, DER. iat, exp: Unix seconds.
    """

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    receipt_key: Annotated[bytes, Meta(min_length=32, max_length=256)]
    session: _Text
    workload: _Text
    instance: _Instance
    manifest_hash: ManifestHash
    iat: _Time
    exp: _Time


def ear_digest(ear: str) -> str:
    """Return what `ear_sha256` holds: SHA-256 in hex of the token's text."""
    return hashlib.sha256(ear.encode()).hexdigest()


def sign_delegation(delegation: Delegation, attested_key: EllipticCurvePrivateKey) -> str:
    """Return the compact JWS; its header carries the attested public key, which the audit log names by
    thumbprint."""
    payload = msgspec.json.encode(delegation)
    return jws.sign(payload, typ=DELEGATION_TYPE, key=attested_key, with_key=True)


def sign_receipt(receipt: Receipt, receipt_key: EllipticCurvePrivateKey) -> str:
    """Return the compact JWS that goes into the header `securetf-receipt`."""
    return jws.sign(msgspec.json.encode(receipt), typ=RECEIPT_TYPE, key=receipt_key)


def delegating_key(token: str) -> EllipticCurvePublicKey | None:
    """Return the key that a receipt's delegation says it was signed with; compare it with an attested one.

    Raises:
        TokenError: not a receipt.
    """
    receipt = jws.unverified(token, Receipt, typ=RECEIPT_TYPE)
    return jws.header_key(receipt.delegation, typ=DELEGATION_TYPE)


def verify_receipt(token: str, attested_key: EllipticCurvePublicKey) -> tuple[Receipt, Delegation]:
    """Check a receipt down to the attested key: delegation, signature, and that both tell of one instance.

    Raises:
        TokenError: a form or signature does not hold, the delegation is for another workload, or did not hold
        when the receipt was signed.
    """
    claimed = jws.unverified(token, Receipt, typ=RECEIPT_TYPE)
    delegation = jws.verify(claimed.delegation, Delegation, typ=DELEGATION_TYPE, key=attested_key)
    try:
        key = public_key(delegation.receipt_key)
    except BindingError as error:
        raise TokenError(f"the delegation's receipt key: {error.problem}", error.fix) from None
    receipt = jws.verify(token, Receipt, typ=RECEIPT_TYPE, key=key)
    names = ("session", "workload", "instance", "manifest_hash")
    for name in names:
        found, expected = getattr(receipt, name), getattr(delegation, name)
        if found != expected:
            raise TokenError(
                f"the receipt's {name} is {found!r}, its key was delegated for {expected!r}",
                "treat the receipt as forged",
            )
    if not delegation.iat - CLOCK_SKEW_S <= receipt.iat < delegation.exp:
        raise TokenError(
            f"the receipt was signed at {receipt.iat}, its key was delegated from {delegation.iat} until "
            f"{delegation.exp}",
            "treat the receipt as forged, or have the service ask for a new delegation",
        )
    return receipt, delegation
