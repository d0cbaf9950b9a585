"""What the SEV-SNP verifier must refuse of AMD's certificates (EVIDENCE.md), on synthetic chains."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.hashes import SHA384

from securetf.endorsements.sev_snp import SnpAnchors, SnpEndorsements
from securetf.errors import (
    EndorsementError,
    SignatureError,
)
from securetf.evidence.sev_snp import SnpProduct
from securetf.verifier.sev_snp import authenticate_without_revocation
from support.snp_platform import NOW, REPORT_DATA, SHA256, Platform, rsa_key, text

MILAN, GENOA, TURIN = (Platform(line) for line in (SnpProduct.MILAN, SnpProduct.GENOA, SnpProduct.TURIN))
LINES = pytest.mark.parametrize("platform", [MILAN, GENOA, TURIN], ids=lambda one: str(one.product))
VLEK_FLAGS = 1 << 2


def changed(what: str, **changes: Any) -> SnpEndorsements:
    names = {"ark": "root", "ask": "ask", "asvk": "asvk", "vcek": "vek"}
    recipe = getattr(MILAN, what)(**changes)
    return MILAN.endorsements(**{names[what]: recipe.der()})


@pytest.mark.parametrize(
    ("name", "reason"),
    [("root", "no ARK"), ("ask", "no ASK"), ("vek", "no VCEK"), ("crl", "list of the ARK is missing")],
)
def test_endorsements_when_one_is_missing_then_names_it(name: str, reason: str) -> None:
    with pytest.raises(EndorsementError, match=reason):
        MILAN.verify(endorsements=MILAN.endorsements(**{name: None}))
    with pytest.raises(EndorsementError, match=r"no ARK|cannot be read|missing or damaged"):
        MILAN.verify(endorsements=MILAN.endorsements(**{name: b"\x30\x03no"}))


def test_endorsements_when_there_are_none_then_refused() -> None:
    with pytest.raises(EndorsementError, match="no ARK for this platform"):
        MILAN.verify(endorsements_for=lambda _: None)


def test_root_when_self_made_with_the_trusted_name_then_refused() -> None:
    own = changed("ark", key=rsa_key(3), signer=rsa_key(3))
    with pytest.raises(SignatureError, match=r"ARK-Milan.*not a trust anchor"):
        MILAN.verify(endorsements=own)


def test_root_when_it_has_the_pinned_key_but_another_signature_then_refused() -> None:
    with pytest.raises(SignatureError, match="ARK of Milan is not signed by its issuer"):
        MILAN.verify(endorsements=changed("ark", signer=rsa_key(1)))


def test_roots_when_hardware_pins_are_used_then_the_synthetic_root_is_refused() -> None:
    with pytest.raises(SignatureError, match="not a trust anchor"):
        MILAN.verify(anchors=SnpAnchors.amd())


@LINES
@pytest.mark.parametrize("other", [MILAN, GENOA, TURIN], ids=lambda one: str(one.product))
def test_chain_when_of_another_product_line_then_refused(platform: Platform, other: Platform) -> None:
    if platform is other:
        return
    with pytest.raises(SignatureError, match=f"report is of {platform.product}.*are of {other.product}"):
        platform.verify(endorsements=other.endorsements())


def test_chain_when_a_version_2_report_stands_under_turin_then_refused() -> None:
    raw = MILAN.signed(version=2, cpuid=None, launch_mitigation=None, current_mitigation=None)
    with pytest.raises(SignatureError, match="report is of Genoa or Milan, the certificates are of Turin"):
        MILAN.verify(raw, endorsements=TURIN.endorsements())


def test_chain_when_parts_are_of_another_line_then_refused() -> None:
    with pytest.raises(SignatureError, match="ASK is 'SEV-Genoa', expected 'SEV-Milan'"):
        MILAN.verify(endorsements=MILAN.endorsements(ask=GENOA.ask().der()))
    with pytest.raises(SignatureError, match="VCEK is not signed by its issuer"):
        MILAN.verify(endorsements=MILAN.endorsements(vek=GENOA.vcek().der()))
    relabelled = changed("vcek", extensions=MILAN.extensions(_2=text("Genoa")))
    with pytest.raises(SignatureError, match="VCEK is for 'Genoa' and stands under the root of Milan"):
        MILAN.verify(endorsements=relabelled)


def test_chain_when_out_of_order_then_refused() -> None:
    good = MILAN.endorsements()
    with pytest.raises(SignatureError, match=r"not a trust anchor|ARK of \w+ is not signed by its issuer"):
        MILAN.verify(endorsements=replace(good, root=good.ask, ask=good.root))
    with pytest.raises(SignatureError, match="ASK is 'ARK-Milan'"):
        MILAN.verify(endorsements=replace(good, ask=good.root))


def test_vlek_when_under_the_ask_or_vcek_under_the_asvk_then_refused() -> None:
    raw = MILAN.signed(flags=VLEK_FLAGS, chip_id=bytes(64))
    under_ask = MILAN.vlek(signer=MILAN.ask().key, issuer="SEV-Milan").der()
    with pytest.raises(SignatureError, match="VLEK is not signed by its issuer"):
        MILAN.verify(raw, endorsements=MILAN.endorsements(vek=under_ask))
    with pytest.raises(SignatureError, match="ASVK is 'SEV-Milan', expected 'SEV-VLEK-Milan'"):
        MILAN.verify(raw, endorsements=MILAN.endorsements(vek=under_ask, asvk=MILAN.ask().der()))
    under_asvk = MILAN.vcek(signer=MILAN.asvk().key, issuer="SEV-VLEK-Milan").der()
    with pytest.raises(SignatureError, match="VCEK is not signed by its issuer"):
        MILAN.verify(endorsements=MILAN.endorsements(vek=under_asvk))
    with pytest.raises(SignatureError, match="in the place of the VCEK stands 'SEV-VLEK'"):
        MILAN.verify(endorsements=MILAN.endorsements(vlek=True))


def test_chain_when_a_ca_stands_as_leaf_or_a_leaf_as_ca_then_refused() -> None:
    good = MILAN.endorsements()
    with pytest.raises(SignatureError, match="in the place of the VCEK stands 'SEV-Milan', in another role"):
        MILAN.verify(endorsements=replace(good, vek=good.ask))
    with pytest.raises(SignatureError, match="'SEV-VCEK', in another role"):
        MILAN.verify(endorsements=changed("vcek", ca=True))
    for no_ca in (None, False):
        with pytest.raises(SignatureError, match="ASK is not a CA"):
            MILAN.verify(endorsements=changed("ask", ca=no_ca))


@pytest.mark.parametrize(("what", "name"), [("ark", "ARK of Milan"), ("ask", "ASK"), ("vcek", "VCEK")])
def test_certificate_when_expired_or_not_yet_valid_then_names_its_window(what: str, name: str) -> None:
    for window in ({"end": NOW - timedelta(seconds=1)}, {"start": NOW + timedelta(seconds=1)}):
        with pytest.raises(SignatureError, match=f"the {name} is good from .* not at 2026-11-22 20:00:00"):
            MILAN.verify(endorsements=changed(what, **window))


@pytest.mark.parametrize("what", ["ark", "ask", "vcek"])
def test_certificate_when_signed_with_another_algorithm_then_refused(what: str) -> None:
    for other in ({"digest": SHA256()}, {"pss": False}):
        with pytest.raises(SignatureError, match="is not signed with RSA-PSS and SHA-384"):
            MILAN.verify(endorsements=changed(what, **other))


def test_chain_when_an_issuer_has_a_short_key_then_refused() -> None:
    short = MILAN.endorsements(ask=MILAN.ask(key=rsa_key(3)).der(), vek=MILAN.vcek(signer=rsa_key(3)).der())
    with pytest.raises(SignatureError, match="issuer of the VCEK has no RSA key of 4096 bits"):
        MILAN.verify(endorsements=short)


def test_vcek_when_its_key_is_not_on_p384_then_refused() -> None:
    for key in (ec.generate_private_key(ec.SECP256R1()), rsa_key(3)):
        with pytest.raises(SignatureError, match="key of the VCEK is not on P-384"):
            MILAN.verify(endorsements=changed("vcek", key=key))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_vcek_when_its_serial_number_is_zero_as_amds_are_then_still_read_and_verified() -> None:
    """A canary: `cryptography` issues none and announces that it will read none; our bound must keep it."""
    der = MILAN.vcek().der()
    certificate = x509.load_der_x509_certificate(der)
    signed = certificate.tbs_certificate_bytes
    zero = signed.replace(b"\x02\x01\x07", b"\x02\x01\x00", 1)
    assert zero != signed
    pss = padding.PSS(padding.MGF1(SHA384()), SHA384.digest_size)
    signature = MILAN.ask().key.sign(zero, pss, SHA384())
    vcek = der.replace(signed, zero).replace(certificate.signature, signature)
    assert x509.load_der_x509_certificate(vcek).serial_number == 0
    assert MILAN.verify(endorsements=MILAN.endorsements(vek=vcek)).platform_id == MILAN.hw_id
    forged = der.replace(signed, zero)
    with pytest.raises(SignatureError, match="VCEK is not signed by its issuer"):
        MILAN.verify(endorsements=MILAN.endorsements(vek=forged))


# --- revocation ---


def test_revocation_when_ark_or_ask_is_named_then_refused() -> None:
    with pytest.raises(SignatureError, match="ARK is revoked"):
        MILAN.verify(endorsements=MILAN.endorsements(crl=MILAN.crl([5])))
    with pytest.raises(SignatureError, match="ASK or ASVK is revoked"):
        MILAN.verify(endorsements=MILAN.endorsements(crl=MILAN.crl([6])))
    raw = MILAN.signed(flags=VLEK_FLAGS, chip_id=bytes(64))
    with pytest.raises(SignatureError, match="ASK or ASVK is revoked"):
        MILAN.verify(raw, endorsements=MILAN.endorsements(vlek=True, crl=MILAN.crl([8])))


def test_revocation_list_when_stale_early_or_of_another_issuer_then_refused() -> None:
    day = timedelta(days=1)
    for crl, reason in (
        (MILAN.crl(start=NOW - 9 * day, end=NOW - day), "revocation list expired at"),
        (MILAN.crl(start=NOW + day, end=NOW + 9 * day), "revocation list is issued in the future"),
        (MILAN.crl(key=rsa_key(1)), "revocation list is not signed by the ARK"),
        (GENOA.crl(), "revocation list is not signed by the ARK"),
    ):
        with pytest.raises(EndorsementError, match=reason):
            MILAN.verify(endorsements=MILAN.endorsements(crl=crl))


def test_revocation_list_when_its_signature_is_no_whole_number_of_bytes_then_refused() -> None:
    """A count of unused bits that the signature's last byte allows changes nothing for OpenSSL."""
    crl = next(one for one in iter(MILAN.crl, b"") if not one[-1] & 1)
    MILAN.verify(endorsements=MILAN.endorsements(crl=crl))
    unused_bits = len(crl) - len(x509.load_der_x509_crl(crl).signature) - 1
    assert crl[unused_bits] == 0
    changed = crl[:unused_bits] + b"\1" + crl[unused_bits + 1 :]
    with pytest.raises(EndorsementError, match="revocation list of the ARK is missing or damaged"):
        MILAN.verify(endorsements=MILAN.endorsements(crl=changed))


def test_revocation_when_it_is_not_looked_at_then_the_function_says_so() -> None:
    none = MILAN.endorsements(crl=None)
    claims = authenticate_without_revocation(
        MILAN.signed(),
        anchors=MILAN.anchors,
        endorsements_for=lambda _: none,
        expected_report_data=REPORT_DATA,
        now=NOW,
    )
    assert claims.valid_until == NOW + timedelta(days=1000)
