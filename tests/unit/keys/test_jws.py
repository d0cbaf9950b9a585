"""A signed statement is taken only as what it is: its type, its key, its exact form."""

import base64
import json

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from joserfc import jws as reference
from joserfc.jwk import ECKey

from securetf.errors import TokenError
from securetf.keys import jws

KEY, OTHER = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
TYPE = "test+jwt"


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    value: int


def token(payload: bytes = b'{"value":7}', typ: str = TYPE) -> str:
    return jws.sign(payload, typ=typ, key=KEY)


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_statement_when_signed_is_read_by_another_implementation_and_by_us() -> None:
    read = reference.deserialize_compact(token(), ECKey.import_key(KEY.public_key()), algorithms=["ES256"])
    assert read.payload == b'{"value":7}'
    assert jws.verify(token(), Statement, typ=TYPE, key=KEY.public_key()) == Statement(7)


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        (token(typ="other+jwt"), "typ 'other.jwt', expected 'ES256' and 'test.jwt'"),
        (jws.sign(b'{"value":7}', typ=TYPE, key=OTHER), "is signed by the key"),
        (token()[:-4] + "AAAA", "signature of the test.jwt does not hold"),
        (token().replace(".", ".A", 1), "does not hold|not canonical|base64url"),
        (encoded({"alg": "none", "typ": TYPE}) + ".e30." + "A" * 86, "alg 'none'"),
        (encoded({"alg": "ES256", "typ": TYPE, "crit": ["b64"]}) + ".e30." + "A" * 86, "members other than"),
        (encoded([1]) + ".e30." + "A" * 86, "members other than"),
        (token().split(".")[0] + ".e30.AAAA", "a signature of 3 bytes"),
        (token() + ".A", "4 parts instead of 3"),
        (token() + "=", "not canonical base64url|not base64url"),
        ("a" * (jws.SIZE_LIMIT + 1), "at most 16384 are read"),
        (token(b'{"value":7,"more":1}'), "does not say what it must"),
        (token(b"\xff"), "does not say what it must"),
    ],
)
def test_statement_when_of_another_kind_key_or_form_is_refused(forged: str, reason: str) -> None:
    with pytest.raises(TokenError, match=reason):
        jws.verify(forged, Statement, typ=TYPE, key=KEY.public_key())


def test_header_key_when_it_is_there_is_the_signers() -> None:
    with_key = jws.sign(b"{}", typ=TYPE, key=KEY, with_key=True)
    found = jws.header_key(with_key, typ=TYPE)
    assert found is not None
    assert found.public_numbers() == KEY.public_key().public_numbers()
    assert jws.header_key(token(), typ=TYPE) is None


@pytest.mark.parametrize(
    ("jwk", "reason"),
    [
        ({"kty": "OKP", "crv": "Ed25519", "x": "AA", "y": "AA"}, "kty 'OKP'"),
        ({"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}, "not a P-256 key"),
        ({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "other sizes"),
        ({"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43, "d": "AA"}, "members other than"),
        ("text", "members other than"),
    ],
)
def test_key_when_it_is_no_point_of_the_curve_is_refused(jwk: object, reason: str) -> None:
    with pytest.raises(TokenError, match=reason):
        jws.public_key_of_jwk(jwk)
