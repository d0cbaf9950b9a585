"""The statement's structs: exact JSON, and the token key vouched for by the audit key."""

import base64
import json

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from securetf.errors import TokenError, UsageError
from securetf.keys.jws import sign_compact
from securetf.keys.workload import WorkloadKey
from securetf.wire import decode
from securetf.wire.statement import (
    BINDING_TYPE,
    DELEGATION_TYPE,
    Statement,
    TokenKey,
    check_token_key,
    read_binding,
    read_delegation,
    token_key_text,
)

CAS = "ab" * 32


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


STATEMENT = {
    "version": 1,
    "ear": "a.b.c",
    "certificate": [_b64(b"leaf")],
    "trust_root": _b64(b"root"),
    "cas": {
        "url": "https://cas:8443",
        "nonce": _b64(bytes(range(32))),
        "evidence": {
            "platform": "tdx", "evidence": _b64(b"quote"), "tls_spki": _b64(bytes(91)),
            "hpke_public_key": _b64(bytes(1216)), "audit_public_key": _b64(bytes(32)), "endorsements": "{}",
        },
        "token_key": {"spki": _b64(bytes(91)), "signature": _b64(bytes(64))},
    },
    "binding": "x.y.z",
}  # fmt: skip
BINDING = {
    "nonce": _b64(bytes(32)),
    "network_spki_sha256": "00" * 32,
    "session": "acme/digits",
    "workload": "server",
    "instance": 0,
    "manifest_hash": "sha256:" + "11" * 32,
    "volumes": {
        "models": {"volume_id": "22" * 16, "epoch": 1, "seq": 2, "root": "33" * 32, "writable": False}
    },
    "receipt_key": None,
    "iat": 1_795_000_000,
}
DELEGATION = {
    "receipt_key": _b64(bytes(91)), "session": "acme/digits", "workload": "server", "instance": 0,
    "manifest_hash": "sha256:" + "11" * 32, "iat": 1, "exp": 3601,
}  # fmt: skip


def test_statement_of_the_document_is_read_whole():
    found = decode(json.dumps(STATEMENT).encode(), Statement)
    assert found.cas.evidence.platform == "tdx"
    assert msgspec.json.decode(msgspec.json.encode(found)) == STATEMENT


@pytest.mark.parametrize("change", [{"version": 2}, {"more": 1}, {"certificate": []}])
def test_statement_of_another_form_is_refused(change):
    with pytest.raises(UsageError):
        decode(json.dumps(STATEMENT | change).encode(), Statement)


def test_binding_and_delegation_are_read_under_the_attested_key():
    key = WorkloadKey.generate()
    binding = read_binding(
        sign_compact(key, BINDING_TYPE, json.dumps(BINDING).encode()), key.private.public_key()
    )
    assert binding.volumes["models"].root == "33" * 32
    token = sign_compact(key, DELEGATION_TYPE, json.dumps(DELEGATION).encode())
    assert read_delegation(token, key.private.public_key()).exp == 3601
    with pytest.raises(TokenError, match="header"):
        read_binding(token, key.private.public_key())


def test_binding_with_an_unknown_field_is_refused():
    key = WorkloadKey.generate()
    token = sign_compact(key, BINDING_TYPE, json.dumps(BINDING | {"extra": 1}).encode())
    with pytest.raises(TokenError, match="not a Binding"):
        read_binding(token, key.private.public_key())


def test_token_key_counts_only_for_the_cas_and_the_key_that_were_signed():
    audit, token = Ed25519PrivateKey.generate(), WorkloadKey.generate()
    signed = TokenKey(spki=token.spki, signature=audit.sign(token_key_text(CAS, token.spki)))
    public = audit.public_key().public_bytes_raw()
    assert check_token_key(signed, cas=CAS, audit_public_key=public) == token.private.public_key()
    other = TokenKey(spki=WorkloadKey.generate().spki, signature=signed.signature)
    for wrong, cas, key in (
        (other, CAS, public),
        (signed, "cd" * 32, public),
        (signed, CAS, Ed25519PrivateKey.generate().public_key().public_bytes_raw()),
    ):
        with pytest.raises(TokenError, match="audit key"):
            check_token_key(wrong, cas=cas, audit_public_key=key)
