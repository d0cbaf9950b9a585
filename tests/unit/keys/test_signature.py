"""Signed requests: our profile agrees with an independent implementation of RFC 9421, and is strict."""

import time
from types import SimpleNamespace
from typing import Any

import http_message_signatures as oracle
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from securetf.errors import BindingError, NotAuthorisedError
from securetf.keys import OwnerKey, WorkloadKey
from securetf.keys.signature import HEADERS, SignedRequest, Signer, parse, sign
from securetf.keys.workload import public_key

CAS = "ab" * 32
TARGET = "/v1/sessions/acme/digits/audit?first=3"
ALGORITHMS = oracle.algorithms


def signed_headers(key: Signer, body: bytes = b'{"a":1}', target: str = TARGET) -> dict[str, str]:
    return sign(
        key, method="POST", target=target, body=body, cas=CAS, created=int(time.time()), nonce=b"n" * 16
    )


def read(headers: dict[str, str], body: bytes = b'{"a":1}', target: str = TARGET) -> SignedRequest:
    return parse(method="POST", target=target, body=body, headers=headers)


class Keys(oracle.HTTPSignatureKeyResolver):  # type: ignore[misc]
    def __init__(self, key: Any) -> None:
        self.key = key

    def resolve_public_key(self, _: str) -> Any:
        return self.key


class TestAgainstTheOracle:
    def test_it_accepts_an_owners_signature(self) -> None:
        key = OwnerKey.generate()
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.key_id.removeprefix("ed25519:")))
        self.verify(ALGORITHMS.ED25519, public, signed_headers(key))

    def test_it_accepts_a_workloads_signature(self) -> None:
        key = WorkloadKey.generate()
        self.verify(ALGORITHMS.ECDSA_P256_SHA256, key.private.public_key(), signed_headers(key))

    def verify(self, algorithm: Any, public: Any, headers: dict[str, str]) -> None:
        message = SimpleNamespace(method="POST", url=f"https://any:1{TARGET}", headers=headers)
        verifier = oracle.HTTPMessageVerifier(signature_algorithm=algorithm, key_resolver=Keys(public))
        result = verifier.verify(message, body=b'{"a":1}')[0]
        assert list(result.covered_components) == [
            '"@method"',
            '"@path"',
            '"@query"',
            '"content-digest"',
            '"securetf-cas"',
            '"@signature-params"',
        ]


class TestProfile:
    def test_what_was_signed_verifies(self) -> None:
        owner, workload = OwnerKey.generate(), WorkloadKey.generate()
        read(signed_headers(owner)).verify()
        read(signed_headers(workload)).verify(public_key(workload.spki))

    @pytest.mark.parametrize("name", HEADERS)
    def test_a_missing_header_is_named(self, name: str) -> None:
        headers = signed_headers(OwnerKey.generate())
        del headers[name]
        with pytest.raises(NotAuthorisedError, match=f"not signed: {name} missing"):
            read(headers)

    def test_another_body_is_refused(self) -> None:
        with pytest.raises(NotAuthorisedError, match="body is not the one that was signed"):
            read(signed_headers(OwnerKey.generate()), body=b'{"a":2}')

    @pytest.mark.parametrize(
        "change",
        [
            {"method": "PUT"},
            {"target": "/v1/sessions/acme/other/audit?first=3"},
            {"target": "/v1/sessions/acme/digits/audit?first=4"},
            {"target": "/v1/sessions/acme/digits/audit"},
        ],
    )
    def test_another_method_path_or_query_does_not_verify(self, change: dict[str, str]) -> None:
        arguments = {"method": "POST", "target": TARGET, **change}
        request = parse(body=b'{"a":1}', headers=signed_headers(OwnerKey.generate()), **arguments)
        with pytest.raises(NotAuthorisedError, match="does not hold"):
            request.verify()

    def test_another_cas_does_not_verify(self) -> None:
        headers = signed_headers(OwnerKey.generate()) | {"securetf-cas": "cd" * 32}
        with pytest.raises(NotAuthorisedError, match="does not hold"):
            read(headers).verify()

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("created=", "created=0"),
            ('"content-digest" ', ""),
            ('"@method"', '"@method" "@status"'),
            (';tag="securetf-v1"', ""),
            (';tag="securetf-v1"', ';tag="other"'),
            (';tag="securetf-v1"', ';tag="securetf-v1";expires=9999999999'),
            ("nonce=", "nonce2="),
            ("securetf=(", "other=("),
            ("securetf=(", "a=(), securetf=("),
        ],
    )
    def test_any_other_form_is_refused(self, old: str, new: str) -> None:
        headers = signed_headers(OwnerKey.generate())
        headers["signature-input"] = headers["signature-input"].replace(old, new, 1)
        with pytest.raises(NotAuthorisedError, match="not of the profile"):
            read(headers)

    @pytest.mark.parametrize("value", ["", "securetf=::", "securetf=:AAAA:", "other=:" + "A" * 86 + "==:"])
    def test_any_other_signature_form_is_refused(self, value: str) -> None:
        headers = signed_headers(OwnerKey.generate()) | {"signature": value}
        with pytest.raises(NotAuthorisedError, match="not of the profile"):
            read(headers)

    def test_an_algorithm_that_does_not_fit_the_key_is_refused(self) -> None:
        owner, workload = OwnerKey.generate(), WorkloadKey.generate()
        with pytest.raises(NotAuthorisedError, match="does not fit the attested key"):
            read(signed_headers(owner)).verify(public_key(workload.spki))
        with pytest.raises(NotAuthorisedError, match="is not an owner's key"):
            read(signed_headers(workload)).verify()

    def test_a_zero_signature_is_refused(self) -> None:
        workload = WorkloadKey.generate()
        headers = signed_headers(workload) | {"signature": "securetf=:" + "A" * 86 + "==:"}
        with pytest.raises(NotAuthorisedError, match="does not hold"):
            read(headers).verify(public_key(workload.spki))


class TestWorkloadKey:
    def test_the_thumbprint_is_that_of_rfc_7638(self) -> None:
        from joserfc.jwk import ECKey  # noqa: PLC0415

        key = WorkloadKey.generate()
        assert key.key_id == f"p256:{ECKey.import_key(key.private.public_key()).thumbprint()}"

    def test_only_canonical_p256_is_read(self) -> None:
        key = WorkloadKey.generate()
        with pytest.raises(BindingError, match="is not a P-256 public key"):
            public_key(key.spki[:-1])
        compressed = key.spki[:26] + bytes([2 + key.spki[-1] % 2]) + key.spki[27:59]
        with pytest.raises(BindingError):
            public_key(compressed)
