"""AWS Nitro: a synthetic chain, and each refusal of docs/platforms.md by its reason."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA224, SHA256

from securetf.claims import Evidence, Platform
from securetf.endorsements import TrustAnchors
from securetf.errors import (
    BindingError,
    ConfigurationError,
    MalformedEvidenceError,
    SignatureError,
    SimulationRefusedError,
    UnsupportedPlatformError,
)
from securetf.evidence import cbor, nitro
from securetf.verifier import verify
from securetf.verifier.nitro import NitroVerifier
from support.authority import NOW, issue
from support.nitro import LEAF, REPORT_DATA, Module, later, make_module


@pytest.fixture(scope="module")
def module() -> Module:
    return make_module()


def test_document_when_all_holds_then_claims_are_its_pcrs_and_instance(module: Module) -> None:
    verifiers = {Platform.NITRO: NitroVerifier(module.root.anchors)}
    evidence = Evidence(Platform.NITRO, module.document())
    claims = verify(evidence, verifiers=verifiers, expected_report_data=REPORT_DATA, now=NOW)
    assert claims.platform is Platform.NITRO
    assert claims.registers["pcr0"] == bytes([1]) * 48
    assert sorted(claims.registers) == sorted(f"pcr{index}" for index in range(16))
    assert (claims.report_data, claims.tcb_status, claims.simulated) == (REPORT_DATA, "NotReported", False)
    assert claims.platform_id == b"i-0123456789abcdef0"
    assert claims.valid_until == later(hours=3)


def test_document_when_signed_part_or_signature_differs_then_refused(module: Module) -> None:
    document = nitro.parse(module.document())
    for signature in (bytes(96), b"\xff" * 96, document.signature[48:] + document.signature[:48]):
        with pytest.raises(SignatureError, match="COSE signature does not hold"):
            module.verify(nitro.encode(replace(document, signature=signature)))
    other = cbor.encode(module.payload(user_data=bytes(64)))
    with pytest.raises(SignatureError, match="COSE signature does not hold"):
        module.verify(nitro.encode(replace(document, payload=other)))
    with pytest.raises(SignatureError, match="COSE signature does not hold"):
        module.verify(module.document(certificate=module.with_leaf().leaf.der))


P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)


@pytest.mark.parametrize("value", [0, P384_ORDER, P384_ORDER + 1, 2**384 - 1])
@pytest.mark.parametrize("half", [0, 48])
def test_signature_when_r_or_s_is_zero_or_out_of_range_then_refused(
    module: Module, half: int, value: int
) -> None:
    document = nitro.parse(module.document())
    signature = document.signature[:half] + value.to_bytes(48, "big") + document.signature[half + 48 :]
    with pytest.raises(SignatureError, match="COSE signature does not hold"):
        module.verify(nitro.encode(replace(document, signature=signature)))


def test_chain_when_root_is_another_then_refused_as_no_anchor(module: Module) -> None:
    other = make_module()
    for anchors in (other.root.anchors, TrustAnchors.aws_nitro()):
        with pytest.raises(SignatureError, match="'CN=root', which is not a trust anchor"):
            module.verify(anchors=anchors)
    with pytest.raises(SignatureError, match="'CN=zone' is not signed by 'CN=root'"):
        other.verify(module.document(cabundle=(other.root.der, module.zone.der, module.instance.der)))


def test_chain_when_out_of_order_short_or_doubled_then_refused(module: Module) -> None:
    root, zone, instance = module.root.der, module.zone.der, module.instance.der
    for bundle, reason in (
        ((zone, instance, root), "not a trust anchor"),
        ((root, instance, zone), r"is not issued by|allows 0 authorities"),
        ((root, instance), "is not issued by"),
        ((root, zone, zone, instance), "one key in two certificates"),
        ((root,), "is not issued by"),
    ):
        with pytest.raises(SignatureError, match=reason):
            module.verify(module.document(cabundle=bundle))


def test_chain_when_out_of_time_then_refused_naming_the_certificate(module: Module) -> None:
    with pytest.raises(
        SignatureError, match="'CN=leaf' expired at 2026-11-22 23:00:00, now 2026-11-22 23:00:01"
    ):
        module.verify(now=later(hours=3, seconds=1))
    with pytest.raises(SignatureError, match="'CN=leaf' is valid from"):
        module.verify(now=NOW - timedelta(days=2))
    zone = module.root.issue("zone", end=NOW - timedelta(minutes=1))
    instance = zone.issue("instance")
    stale = replace(module, zone=zone, instance=instance, leaf=instance.issue("leaf", **LEAF))
    with pytest.raises(SignatureError, match="'CN=zone' expired"):
        stale.verify()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ca": True}, "is an authority and stands where the leaf should be"),
        ({"usage": ("key_cert_sign",)}, "is an authority and stands where the leaf should be"),
        ({"key": ec.generate_private_key(ec.SECP256R1())}, "has no P-384 key"),
        ({"key": ec.generate_private_key(ec.SECP256K1())}, "neither ECDSA P-256 to P-521 nor RSA"),
        ({"digest": SHA224()}, "digest other than SHA-256"),
        (
            {"extensions": ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True),)},
            "unknown critical extension 1.2.3.4",
        ),
        ({"signer": ec.generate_private_key(ec.SECP384R1())}, "'CN=leaf' is not signed by 'CN=instance'"),
    ],
)
def test_leaf_when_not_of_its_role_then_refused(module: Module, changes: dict[str, Any], reason: str) -> None:
    odd = module.with_leaf(**changes)
    raw = nitro.encode(replace(nitro.parse(module.document()), payload=cbor.encode(odd.payload())))
    with pytest.raises(SignatureError, match=reason):
        module.verify(raw)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ca": False}, "is not an authority and stands above"),
        ({"usage": ("digital_signature",)}, "is not an authority and stands above"),
    ],
)
def test_intermediate_when_no_authority_then_refused(
    module: Module, changes: dict[str, Any], reason: str
) -> None:
    instance = module.zone.issue("instance", **changes)
    odd = replace(module, instance=instance, leaf=instance.issue("leaf", **LEAF))
    with pytest.raises(SignatureError, match=reason):
        odd.verify()


def test_intermediate_when_path_is_longer_than_allowed_then_refused(module: Module) -> None:
    below = module.instance.issue("below")
    longer = replace(module, leaf=below.issue("leaf", **LEAF))
    bundle = (module.root.der, module.zone.der, module.instance.der, below.der)
    with pytest.raises(SignatureError, match="allows 0 authorities below it, not 1"):
        module.verify(longer.document(cabundle=bundle))


def test_root_when_it_did_not_sign_itself_then_refused() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    root = issue("root", key=key, signer=ec.generate_private_key(ec.SECP384R1()), digest=SHA256())
    zone = root.issue("zone")
    instance = zone.issue("instance")
    with pytest.raises(SignatureError, match="'CN=root' is not signed by 'CN=root'"):
        Module(root, zone, instance, instance.issue("leaf", **LEAF)).verify()


def test_certificate_when_unreadable_then_refused_as_malformed(module: Module) -> None:
    with pytest.raises(MalformedEvidenceError, match="the Nitro leaf certificate cannot be read"):
        module.verify(module.document(certificate=b"\x30\x03\1\2\3"))


def test_document_when_its_time_is_off_then_refused(module: Module) -> None:
    def stamped(**parts: int) -> bytes:
        return module.document(timestamp=int(later(**parts).timestamp() * 1000))

    assert module.verify(stamped(seconds=30))
    with pytest.raises(BindingError, match="of the future"):
        module.verify(stamped(minutes=2))
    with pytest.raises(SignatureError, match="outside its certificate's validity"):
        module.verify(stamped(days=-2))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_image_pcr_when_zero_or_absent_then_refused_as_debug(module: Module, index: int) -> None:
    pcrs = {number: bytes([7]) * 48 for number in range(5)}
    for odd in (pcrs | {index: bytes(48)}, {number: pcrs[number] for number in pcrs if number != index}):
        with pytest.raises(ConfigurationError, match=f"PCR{index} is zero: the enclave runs in debug mode"):
            module.verify(module.document(pcrs=odd))


@pytest.mark.parametrize("name", ["user_data", "nonce", "public_key"])
def test_binding_when_value_differs_or_is_absent_then_refused(module: Module, name: str) -> None:
    value = bytes(32)
    assert module.verify(module.document(**{name: value}), expected={name: value})
    for carried in (bytes(31), bytes(31) + b"\1", None):
        with pytest.raises(BindingError, match=f"the document's {name} is not the one expected"):
            module.verify(module.document(**{name: carried}), expected={name: value})


@pytest.mark.parametrize("expected", [{}, {"nonce": b""}, {"user_data": REPORT_DATA, "nonce": b""}])
def test_binding_when_nothing_or_an_empty_value_is_expected_then_refused(
    module: Module, expected: dict[str, bytes]
) -> None:
    with pytest.raises(BindingError, match="no value was given"):
        module.verify(expected=expected)


def test_verifier_when_given_a_development_root_or_another_platform_then_refused(module: Module) -> None:
    with pytest.raises(SimulationRefusedError, match="development root"):
        NitroVerifier(replace(module.root.anchors, development=True))
    evidence = Evidence(Platform.TDX, module.document())
    with pytest.raises(UnsupportedPlatformError, match="given to the verifier of nitro"):
        NitroVerifier(module.root.anchors).verify(evidence, expected_report_data=REPORT_DATA, now=NOW)
