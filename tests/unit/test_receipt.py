"""A receipt holds only from the attested key down, and only for the instance and time of its delegation."""

import base64
import json

import msgspec
import pytest

from securetf.appraisal.ear import confirmation_jwk
from securetf.errors import TokenError
from securetf.keys.jws import sign_compact
from securetf.keys.workload import WorkloadKey
from securetf.receipt import (
    RECEIPT_TYPE,
    Receipt,
    ReceiptModel,
    attested_spki,
    ear_digest,
    read_receipt,
    sign_receipt,
    verify_receipt,
)
from securetf.wire.statement import DELEGATION_TYPE, Delegation

ATTESTED, RECEIPT_KEY, OTHER = (WorkloadKey.generate() for _ in range(3))
MANIFEST = f"sha256:{'1f' * 32}"
DELEGATION = Delegation(
    receipt_key=RECEIPT_KEY.spki,
    session="acme/digits",
    workload="server",
    instance=0,
    manifest_hash=MANIFEST,
    iat=1_000,
    exp=4_600,
)


def delegate(delegation: Delegation, key: WorkloadKey) -> str:
    return sign_compact(key, DELEGATION_TYPE, msgspec.json.encode(delegation))


RECEIPT = Receipt(
    session="acme/digits",
    workload="server",
    instance=0,
    manifest_hash=MANIFEST,
    model=ReceiptModel(
        name="lines", version=3, sha256="aa" * 32, volume="models", volume_root="bb" * 32, volume_epoch=2
    ),
    request_sha256="cc" * 32,
    response_sha256="dd" * 32,
    ear_jti="0123456789abcdef",
    ear_sha256=ear_digest("header.payload.signature"),
    attested_key=ATTESTED.spki,
    delegation=delegate(DELEGATION, ATTESTED),
    iat=2_000,
)


def changed(**fields: object) -> Receipt:
    return msgspec.structs.replace(RECEIPT, **fields)


def test_receipt_when_signed_is_verified_down_to_the_attested_key() -> None:
    receipt, delegation = verify_receipt(sign_receipt(RECEIPT, RECEIPT_KEY), ATTESTED.private.public_key())
    assert (receipt, delegation) == (RECEIPT, DELEGATION)


def test_attested_key_when_read_from_a_token_is_its_cnf() -> None:
    claims = {"jti": "0123", "cnf": {"jwk": confirmation_jwk(ATTESTED.private.public_key())}}
    token = f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.AA"
    assert attested_spki(token) == ("0123", ATTESTED.spki)
    with pytest.raises(TokenError, match="names no attested"):
        attested_spki("e30.e30.AA")


def test_receipt_when_its_signer_is_unknown_names_the_attested_key() -> None:
    assert read_receipt(sign_receipt(RECEIPT, RECEIPT_KEY)).attested_key == ATTESTED.spki


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (sign_receipt(RECEIPT, OTHER), "receipt.jwt does not hold under"),
        (
            sign_receipt(changed(delegation=delegate(DELEGATION, OTHER)), RECEIPT_KEY),
            "delegation.jwt does not hold",
        ),
        (sign_receipt(changed(session="evil/digits"), RECEIPT_KEY), "session is 'evil/digits'"),
        (sign_receipt(changed(workload="trainer"), RECEIPT_KEY), "workload is 'trainer'"),
        (sign_receipt(changed(instance=1), RECEIPT_KEY), "instance is 1"),
        (sign_receipt(changed(manifest_hash=f"sha256:{'2f' * 32}"), RECEIPT_KEY), "manifest_hash is"),
        (sign_receipt(changed(iat=4_600), RECEIPT_KEY), "delegated from 1000 until 4600"),
        (sign_receipt(changed(iat=900), RECEIPT_KEY), "delegated from 1000 until 4600"),
        (sign_receipt(changed(delegation=sign_receipt(RECEIPT, ATTESTED)), RECEIPT_KEY), "has the header"),
        (
            sign_receipt(
                changed(
                    delegation=delegate(msgspec.structs.replace(DELEGATION, receipt_key=b"\0" * 91), ATTESTED)
                ),
                RECEIPT_KEY,
            ),
            "receipt key",
        ),
        (
            sign_compact(RECEIPT_KEY, RECEIPT_TYPE, msgspec.json.encode(RECEIPT).replace(b'"v":1', b'"v":2')),
            "not a receipt of this version",
        ),
    ],
)
def test_receipt_when_anything_in_its_chain_differs_is_refused(token: str, reason: str) -> None:
    with pytest.raises(TokenError, match=reason):
        verify_receipt(token, ATTESTED.private.public_key())
