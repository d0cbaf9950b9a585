"""Issuers and revocation lists of TPM certificates, by the addresses in them: then the chain verifies."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import AuthorityInformationAccessOID

from securetf.endorsements.cache import Cache
from securetf.endorsements.library import Library
from securetf.endorsements.needs import IssuersNeed
from securetf.endorsements.refusals import EndorsementMissingError
from securetf.errors import EndorsementError
from securetf.verifier import certificate_path, revocation
from support.authority import NOW, Authority, issue
from support.vendor import Reply, Vendor


def extensions(vendor: Vendor, *, issuer: str | None, crl: str | None) -> Any:
    """Return what names an issuer's certificate and its list."""
    found: list[tuple[x509.ExtensionType, bool]] = []
    if issuer:
        access = x509.AccessDescription(
            AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(f"{vendor.url}{issuer}")
        )
        found.append((x509.AuthorityInformationAccess([access]), False))
    if crl:
        name = [x509.UniformResourceIdentifier(f"{vendor.url}{crl}")]
        point = x509.DistributionPoint(full_name=name, relative_name=None, reasons=None, crl_issuer=None)
        found.append((x509.CRLDistributionPoints([point]), False))
    return tuple(found)


def revoked_by(issuer: Authority, *certificates: Authority) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(NOW)
        .next_update(issuer.certificate.not_valid_after_utc)
    )
    for one in certificates:
        entry = x509.RevokedCertificateBuilder(one.certificate.serial_number, NOW).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer.key, SHA384()).public_bytes(Encoding.DER)


@pytest.fixture
def chain(vendor: Vendor) -> list[Authority]:
    """EK, manufacturing authority, root; the manufacturer serves everything above the EK."""
    root = issue("manufacturer's root")
    middle = root.issue("manufacturing", extensions=extensions(vendor, issuer="/root.crt", crl="/root.crl"))
    names = extensions(vendor, issuer="/middle.crt", crl="/middle.crl")
    leaf = middle.issue("EK", ca=False, usage=("key_encipherment",), extensions=names)
    vendor.routes |= {
        "/root.crt": Reply(root.der),
        "/middle.crt": Reply(middle.certificate.public_bytes(Encoding.PEM)),
        "/root.crl": Reply(revoked_by(root)),
        "/middle.crl": Reply(revoked_by(middle)),
    }
    return [leaf, middle, root]


def test_issuers_when_fetched_then_the_chain_holds_and_afterwards_without_network(
    vendor: Vendor, cache: Cache, chain: list[Authority]
) -> None:
    need = IssuersNeed(chain=(chain[0].der,))
    for sources in (vendor.sources(), None):
        found = Library(cache, sources).obtain(need, now=NOW)
        assert found.certificates == (chain[1].der, chain[2].der)
        path = [certificate_path.load("it", der) for der in (chain[0].der, *found.certificates)]
        certificate_path.check("it", path, anchors=chain[2].anchors, now=NOW)
        assert revocation.check("it", path, found.crls, NOW)
    assert len(vendor.asked) == 4


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
def test_issuers_when_they_come_in_pkcs7_with_others_then_the_one_that_signed_is_taken(
    vendor: Vendor, cache: Cache, chain: list[Authority], encoding: Encoding
) -> None:
    leaf, middle, root = chain
    twin = issue("another root").issue("manufacturing")  # same name, another key
    for path, one in (("/middle.crt", middle), ("/root.crt", root)):
        bundle = [twin.certificate, root.certificate, one.certificate]
        vendor.routes[path] = Reply(pkcs7.serialize_certificates(bundle, encoding))
    need = IssuersNeed(chain=(leaf.der,))
    for sources in (vendor.sources(), None):
        found = Library(cache, sources).obtain(need, now=NOW)
        assert found.certificates == (middle.der, root.der)


def test_issuers_when_none_of_several_signed_then_refused(
    vendor: Vendor, cache: Cache, chain: list[Authority]
) -> None:
    twin = issue("another root").issue("manufacturing")
    bundle = pkcs7.serialize_certificates([twin.certificate, chain[2].certificate], Encoding.DER)
    vendor.routes["/middle.crt"] = Reply(bundle)
    with pytest.raises(EndorsementError, match="none of 2 certificates issued"):
        Library(cache, vendor.sources()).obtain(IssuersNeed(chain=(chain[0].der,)), now=NOW)


def test_issuers_when_a_bundle_is_empty_cut_or_endless_then_refused(
    vendor: Vendor, cache: Cache, chain: list[Authority]
) -> None:
    whole = pkcs7.serialize_certificates([chain[1].certificate, chain[2].certificate], Encoding.DER)
    many = pkcs7.serialize_certificates([issue(f"{one}").certificate for one in range(33)], Encoding.DER)
    for content, reason in ((whole[:-1], "not certificates"), (many, "33 certificates, expected 1 to 32")):
        vendor.routes["/middle.crt"] = Reply(content)
        with pytest.raises(EndorsementError, match=reason):
            Library(cache, vendor.sources()).obtain(IssuersNeed(chain=(chain[0].der,)), now=NOW)


def test_bundle_when_an_unrelated_certificate_in_it_has_expired_then_still_used(
    vendor: Vendor, cache: Cache, chain: list[Authority]
) -> None:
    old = issue("old", start=NOW - timedelta(days=3), end=NOW - timedelta(days=1))
    bundle = [old.certificate, chain[1].certificate]
    vendor.routes["/middle.crt"] = Reply(pkcs7.serialize_certificates(bundle, Encoding.DER))
    found = Library(cache, vendor.sources()).obtain(IssuersNeed(chain=(chain[0].der,)), now=NOW)
    assert found.certificates == (chain[1].der, chain[2].der)


def test_issuers_when_they_came_along_then_only_the_lists_are_fetched(
    vendor: Vendor, cache: Cache, chain: list[Authority]
) -> None:
    need = IssuersNeed(chain=tuple(one.der for one in chain))
    found = Library(cache, vendor.sources()).obtain(need, now=NOW)
    assert (found.certificates, len(found.crls)) == ((), 2)
    assert vendor.asked == ["/middle.crl", "/root.crl"]


def test_list_when_it_is_not_to_be_had_then_refused(
    vendor: Vendor, cache: Cache, chain: list[Authority]
) -> None:
    vendor.routes["/middle.crl"] = Reply(status=404)
    with pytest.raises(EndorsementMissingError, match=r"no crl-[0-9a-f]{64} in .*HTTP 404"):
        Library(cache, vendor.sources()).obtain(IssuersNeed(chain=(chain[0].der,)), now=NOW)


def test_address_when_another_host_is_named_then_not_asked(
    vendor: Vendor, cache: Cache, chain: list[Authority]
) -> None:
    with pytest.raises(EndorsementMissingError, match="host is not one that is asked"):
        Library(cache, vendor.sources(tpm_hosts=())).obtain(IssuersNeed(chain=(chain[0].der,)), now=NOW)
    assert not vendor.asked


def test_issuers_when_each_names_another_then_not_followed_for_ever(vendor: Vendor, tmp_path: Path) -> None:
    circle = issue("one").issue("two", extensions=extensions(vendor, issuer="/again.crt", crl=None))
    vendor.routes["/again.crt"] = Reply(circle.der)
    found = Library(Cache(tmp_path / "c"), vendor.sources()).obtain(IssuersNeed(chain=(circle.der,)), now=NOW)
    assert (len(found.certificates), len(vendor.asked)) == (7, 1)


def test_chain_when_empty_or_unreadable_then_nothing_or_refused(cache: Cache) -> None:
    assert Library(cache, None).obtain(IssuersNeed(chain=()), now=NOW).certificates == ()
    with pytest.raises(EndorsementError, match="cannot be read"):
        Library(cache, None).obtain(IssuersNeed(chain=(b"\x30\x00",)), now=NOW)
