"""A receipt holds only from the attested key down, and only for the instance and time of its delegation."""

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from securetf.errors import TokenError
from securetf.keys import jws, thumbprint
from securetf.receipt import (
    RECEIPT_TYPE,
    Delegation,
    Receipt,
    ReceiptModel,
    delegating_key,
    ear_digest,
    sign_delegation,
    sign_receipt,
    verify_receipt,
)

ATTESTED, RECEIPT_KEY, OTHER = (generate_private_key(SECP256R1()) for _ in range(3))
SPKI = RECEIPT_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
MANIFEST = f"sha256:{'1f' * 32}"
DELEGATION = Delegation(
    receipt_key=SPKI,
    session="acme/digits",
    workload="server",
    instance=0,
    manifest_hash=MANIFEST,
    iat=1_000,
    exp=4_600,
)
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
    delegation=sign_delegation(DELEGATION, ATTESTED),
    iat=2_000,
)


def changed(**fields: object) -> Receipt:
    return msgspec.structs.replace(RECEIPT, **fields)


def test_receipt_when_signed_is_verified_down_to_the_attested_key() -> None:
    receipt, delegation = verify_receipt(sign_receipt(RECEIPT, RECEIPT_KEY), ATTESTED.public_key())
    assert (receipt, delegation) == (RECEIPT, DELEGATION)


def test_receipt_when_its_signer_is_unknown_names_the_key_that_delegated() -> None:
    key = delegating_key(sign_receipt(RECEIPT, RECEIPT_KEY))
    assert key is not None
    assert thumbprint(key) == thumbprint(ATTESTED.public_key())


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (sign_receipt(RECEIPT, OTHER), "receipt.jwt is signed by the key"),
        (sign_receipt(changed(delegation=sign_delegation(DELEGATION, OTHER)), RECEIPT_KEY), "delegation"),
        (sign_receipt(changed(session="evil/digits"), RECEIPT_KEY), "session is 'evil/digits'"),
        (sign_receipt(changed(workload="trainer"), RECEIPT_KEY), "workload is 'trainer'"),
        (sign_receipt(changed(instance=1), RECEIPT_KEY), "instance is 1"),
        (sign_receipt(changed(manifest_hash=f"sha256:{'2f' * 32}"), RECEIPT_KEY), "manifest_hash is"),
        (sign_receipt(changed(iat=4_600), RECEIPT_KEY), "delegated from 1000 until 4600"),
        (sign_receipt(changed(iat=900), RECEIPT_KEY), "delegated from 1000 until 4600"),
        (sign_receipt(changed(delegation=sign_receipt(RECEIPT, ATTESTED)), RECEIPT_KEY), "does not say|typ"),
        (
            sign_receipt(
                changed(
                    delegation=sign_delegation(
                        msgspec.structs.replace(DELEGATION, receipt_key=b"\0" * 91), ATTESTED
                    )
                ),
                RECEIPT_KEY,
            ),
            "receipt key",
        ),
        (
            jws.sign(
                msgspec.json.encode(RECEIPT).replace(b'"v":1', b'"v":2'), typ=RECEIPT_TYPE, key=RECEIPT_KEY
            ),
            "does not say what it must",
        ),
    ],
)
def test_receipt_when_anything_in_its_chain_differs_is_refused(token: str, reason: str) -> None:
    with pytest.raises(TokenError, match=reason):
        verify_receipt(token, ATTESTED.public_key())
