"""Framing of Nitro documents: every refusal of the parser, by its reason."""

from typing import Any

import pytest

from securetf.errors import MalformedEvidenceError
from securetf.evidence import cbor, nitro
from support.nitro import MODULE, REPORT_DATA, Module, make_module


@pytest.fixture(scope="module")
def module() -> Module:
    return make_module()


def test_document_when_parsed_then_fields_are_as_signed(module: Module) -> None:
    raw = module.document(nonce=b"n", public_key=b"k")
    document = nitro.parse(raw)
    assert nitro.encode(document) == raw
    assert document.module_id == MODULE
    assert document.pcrs[4] == bytes([5]) * 48
    assert (document.user_data, document.nonce, document.public_key) == (REPORT_DATA, b"n", b"k")


def test_document_when_tagged_open_or_without_optional_names_then_means_the_same(module: Module) -> None:
    raw = module.document()
    assert nitro.parse(b"\xd2" + raw) == nitro.parse(raw)
    payload = cbor.encode(module.payload())
    opened = nitro.parse(module.wrap(b"\xbf" + payload[1:] + b"\xff"))
    assert opened.pcrs == nitro.parse(raw).pcrs
    assert nitro.parse(module.document(nonce=..., public_key=...)).nonce == b""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"digest": "SHA256"}, "digest 'SHA256'"),
        ({"digest": ...}, r"lacks \['digest'\]"),
        ({"extra": 1}, r"unknown names \['extra'\]"),
        ({"module_id": ""}, "module_id"),
        ({"module_id": 7}, "module_id"),
        ({"timestamp": 0}, "timestamp"),
        ({"timestamp": True}, "timestamp"),
        ({"timestamp": 1 << 47}, "timestamp"),
        ({"timestamp": "0"}, "timestamp"),
        ({"pcrs": {}}, "pcrs that are not a map of 1 to 32"),
        ({"pcrs": (b"",)}, "pcrs that are not a map"),
        ({"pcrs": {32: bytes(48)}}, "PCR with index 32"),
        ({"pcrs": {"0": bytes(48)}}, "PCR with index '0'"),
        ({"pcrs": {0: bytes(32)}}, "PCR 0 that is not a byte string of 48"),
        ({"certificate": b""}, "certificate that is not a byte string of 1"),
        ({"certificate": bytes(1025)}, "certificate that is not a byte string"),
        ({"cabundle": ()}, "cabundle that is not an array of 1 to 8"),
        ({"cabundle": (b"x",) * 9}, "cabundle that is not an array of 1 to 8"),
        ({"cabundle": (b"",)}, "cabundle that is not a byte string"),
        ({"user_data": bytes(513)}, "user_data that is not a byte string of 0 to 512"),
        ({"nonce": "text"}, "nonce that is not a byte string"),
        ({"public_key": bytes(1025)}, "public_key that is not a byte string of 0 to 1024"),
    ],
)
def test_payload_when_one_field_is_wrong_then_refused(
    module: Module, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        nitro.parse(module.document(**changes))


def test_envelope_when_not_cose_sign1_with_es384_then_refused(module: Module) -> None:
    payload, signature = cbor.encode(module.payload()), bytes(96)
    good: tuple[cbor.Item, ...] = (nitro.PROTECTED, {}, payload, signature)
    cases: list[tuple[cbor.Item, str]] = [
        (cbor.Tagged(17, good), "CBOR tag 17"),
        (good[:3], "not a COSE_Sign1 array"),
        ({}, "not a COSE_Sign1 array"),
        ((bytes.fromhex("a10126"), *good[1:]), "another protected header"),
        ((b"", *good[1:]), "another protected header"),
        ((good[0], {4: b"kid"}, *good[2:]), "unprotected header"),
        ((*good[:2], None, signature), "no payload"),
        ((*good[:3], bytes(64)), "signature that is not 96 bytes"),
        ((*good[:2], cbor.encode((1,)), signature), "payload that is not a map"),
    ]
    for item, reason in cases:
        with pytest.raises(MalformedEvidenceError, match=reason):
            nitro.parse(cbor.encode(item))
    with pytest.raises(MalformedEvidenceError, match="at most 16384 are read"):
        nitro.parse(bytes(16385))
    with pytest.raises(MalformedEvidenceError, match="1 bytes follow"):
        nitro.parse(module.document() + b"\0")
