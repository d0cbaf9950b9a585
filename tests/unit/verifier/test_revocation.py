"""Revocation lists of TPM certificates: needed where a certificate names one; each refusal by its reason."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.endorsements.needs import IssuersNeed
from securetf.endorsements.tpm import Issuers, issuers_of
from securetf.errors import EndorsementError, SignatureError
from securetf.verifier import revocation
from support.authority import NOW, Authority, issue
from support.tpm2 import NOBODY, TPM_KEY, Tpm, make_tpm

POINT = x509.CRLDistributionPoints(
    [
        x509.DistributionPoint(
            full_name=[x509.UniformResourceIdentifier("http://crl.example/list")],
            relative_name=None,
            reasons=None,
            crl_issuer=None,
        )
    ]
)


def crl(
    issuer: Authority,
    *revoked: Authority,
    start: datetime = NOW - timedelta(days=1),
    end: datetime = NOW + timedelta(hours=5),
    extension: x509.ExtensionType | None = None,
    key: Any = None,
) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(start)
        .next_update(end)
    )
    for one in revoked:
        entry = x509.RevokedCertificateBuilder(one.certificate.serial_number, NOW - timedelta(days=1))
        builder = builder.add_revoked_certificate(entry.build())
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key or issuer.key, SHA384()).public_bytes(Encoding.DER)


def point(**changes: Any) -> x509.IssuingDistributionPoint:
    values: dict[str, Any] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**values | changes)


@pytest.fixture(scope="module")
def tpm() -> Tpm:
    """A TPM whose attestation key's certificate names a revocation list."""
    return make_tpm(extensions=(TPM_KEY, (POINT, False)))


def verify(tpm: Tpm, *lists: bytes, **changes: Any) -> Any:
    return tpm.verify(issuers_for=lambda _: Issuers(crls=lists), **changes)


def test_list_when_the_certificate_names_one_then_needed_and_ends_the_claims(tpm: Tpm) -> None:
    assert verify(tpm, crl(tpm.root)).valid_until == NOW + timedelta(hours=5)
    with pytest.raises(EndorsementError, match="no revocation list by its issuer was given") as refused:
        tpm.verify()
    assert refused.value.step == 3


def test_list_when_no_certificate_names_one_then_none_is_needed_and_one_given_counts() -> None:
    plain = make_tpm()
    assert plain.verify().valid_until == NOW + timedelta(days=1)
    with pytest.raises(SignatureError, match="is revoked by its issuer"):
        verify(plain, crl(plain.root, plain.certificate))


def test_key_when_its_certificate_is_revoked_then_refused(tpm: Tpm) -> None:
    with pytest.raises(SignatureError, match="is revoked by its issuer"):
        verify(tpm, crl(tpm.root, tpm.certificate))
    with pytest.raises(SignatureError, match="is revoked by its issuer"):
        verify(tpm, crl(tpm.root), crl(tpm.root, tpm.certificate))  # one of two is enough


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"start": NOW + timedelta(hours=1)}, "issued in the future"),
        ({"end": NOW - timedelta(hours=1)}, "expired at"),
        ({"extension": x509.DeltaCRLIndicator(1)}, "kind or scope"),
        ({"extension": point(only_contains_ca_certs=True)}, "kind or scope"),
        ({"extension": point(indirect_crl=True)}, "kind or scope"),
        (
            {"extension": point(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise}))},
            "kind or scope",
        ),
    ],
)
def test_list_when_it_does_not_count_then_refused_for_that(
    tpm: Tpm, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(EndorsementError, match=reason):
        verify(tpm, crl(tpm.root, **changes))


def test_list_when_it_is_for_leaves_only_then_it_counts_for_the_leaf(tpm: Tpm) -> None:
    assert verify(tpm, crl(tpm.root, extension=point(only_contains_user_certs=True)))


def test_list_when_forged_or_of_another_issuer_then_as_good_as_none(tpm: Tpm) -> None:
    other = issue("TPM root")
    for forged in (crl(tpm.root, key=other.key), crl(other), crl(issue("another"))):
        with pytest.raises(EndorsementError, match="no revocation list by its issuer"):
            verify(tpm, forged)
    with pytest.raises(EndorsementError, match="cannot be read"):
        verify(tpm, b"\x30\x00")
    with pytest.raises(EndorsementError, match="33 revocation lists"):
        verify(tpm, *[crl(tpm.root)] * 33)


def test_intermediate_when_revoked_then_refused() -> None:
    root = issue("root")
    middle = root.issue("middle", extensions=((POINT, False),))
    leaf = middle.issue("leaf", ca=False, usage=("digital_signature",))
    path = [leaf.certificate, middle.certificate, root.certificate]
    assert revocation.check("it", path, [crl(root)], NOW) == NOW + timedelta(hours=5)
    with pytest.raises(SignatureError, match="CN=middle' is revoked"):
        revocation.check("it", path, [crl(root, middle)], NOW)
    with pytest.raises(EndorsementError, match="kind or scope"):
        revocation.check("it", path, [crl(root, extension=point(only_contains_user_certs=True))], NOW)


def test_issuers_when_they_come_apart_from_the_evidence_then_complete_the_chain(tpm: Tpm) -> None:
    alone = tpm.evidence(certificates=(tpm.certificate.der,))
    issuers = Issuers(certificates=(tpm.root.der,), crls=(crl(tpm.root),))
    asked: list[tuple[bytes, ...]] = []

    def issuers_for(chain: tuple[bytes, ...]) -> Issuers:
        asked.append(IssuersNeed(chain=chain).chain)
        return issuers

    assert tpm.verify(alone, issuers_for=issuers_for).platform_id
    assert asked == [(tpm.certificate.der,)]
    with pytest.raises(SignatureError, match="not a trust anchor"):
        tpm.verify(alone, issuers_for=issuers_for, anchors=NOBODY)


def test_files_of_issuers_when_sorted_then_certificates_and_lists_in_der(tpm: Tpm) -> None:
    pem = tpm.root.certificate.public_bytes(Encoding.PEM)
    one = crl(tpm.root)
    pem_list = x509.load_der_x509_crl(one).public_bytes(Encoding.PEM)
    expected = Issuers(certificates=(tpm.root.der,), crls=(one,))
    assert issuers_of([pem, pem_list]) == issuers_of([tpm.root.der, one]) == expected
    with pytest.raises(EndorsementError, match="neither certificate nor revocation list"):
        issuers_of([b"hello"])


def test_list_when_its_signature_is_no_whole_number_of_bytes_then_refused(tpm: Tpm) -> None:
    good = next(one for one in iter(lambda: crl(tpm.root), b"") if not one[-1] & 1)
    path = [tpm.certificate.certificate, tpm.root.certificate]
    assert revocation.check("the chain", path, [good], NOW)
    unused_bits = len(good) - len(x509.load_der_x509_crl(good).signature) - 1
    changed = good[:unused_bits] + b"\1" + good[unused_bits + 1 :]
    with pytest.raises(EndorsementError, match="signature is not a whole number of bytes"):
        revocation.check("the chain", path, [changed], NOW)
