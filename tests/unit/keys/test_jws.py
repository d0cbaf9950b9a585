"""Compact JWS of an attested key: read back whole, refused for its reason otherwise."""

import base64
import json

import pytest
from joserfc import jws as jose
from joserfc.jwk import ECKey

from securetf.errors import TokenError
from securetf.keys.jws import sign_compact, verify_compact
from securetf.keys.workload import WorkloadKey

KIND = "securetf-statement+jwt"


@pytest.fixture(scope="module")
def key() -> WorkloadKey:
    return WorkloadKey.generate()


def test_sign_then_verify_returns_the_payload_and_joserfc_agrees(key):
    token = sign_compact(key, KIND, b'{"a":1}')
    assert verify_compact(token, key.private.public_key(), KIND) == b'{"a":1}'
    theirs = jose.deserialize_compact(token, ECKey.import_key(key.private.public_key()), algorithms=["ES256"])
    assert theirs.payload == b'{"a":1}'


def test_verify_of_what_joserfc_signed_with_our_header_holds(key):
    token = jose.serialize_compact(
        {"alg": "ES256", "typ": KIND}, b"x", ECKey.import_key(key.private), algorithms=["ES256"]
    )
    assert verify_compact(token, key.private.public_key(), KIND) == b"x"


def _parts(token: str, **replaced: str) -> str:
    names = ("header", "payload", "signature")
    return ".".join(replaced.get(name, part) for name, part in zip(names, token.split("."), strict=True))


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda token: _parts(token, payload=_b64(b"other")), "does not hold"),
        (lambda token: _parts(token, signature=_b64(bytes(64))), "does not hold"),
        (lambda token: _parts(token, signature=_b64(bytes(70))), "70 bytes"),
        (lambda token: _parts(token, header=_b64(json.dumps({"alg": "none"}).encode())), "header"),
        (lambda token: _parts(token, header=_b64(b'{"typ":"x","alg":"ES256"}')), "header"),
        (lambda token: _parts(token, payload="a*b"), "not base64url"),
        (lambda token: _parts(token, payload=_b64(b"a")[:-1] + "R"), "canonical"),
        (lambda token: token + ".x", "4 parts"),
        (lambda token: token + "A" * 70000, "no JWS"),
    ],
)  # fmt: skip
def test_verify_when_anything_is_changed_says_what(key, change, reason):
    token = sign_compact(key, KIND, b"a")
    with pytest.raises(TokenError, match=reason):
        verify_compact(change(token), key.private.public_key(), KIND)


def test_verify_of_another_type_or_key_is_refused(key):
    token = sign_compact(key, "securetf-receipt+jwt", b"a")
    with pytest.raises(TokenError, match="header"):
        verify_compact(token, key.private.public_key(), KIND)
    with pytest.raises(TokenError, match="does not hold"):
        verify_compact(token, WorkloadKey.generate().private.public_key(), "securetf-receipt+jwt")
