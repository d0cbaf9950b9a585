"""TPM 2.0 quotes: each refusal of docs/platforms.md by its reason, with a synthetic TPM."""

import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from securetf.claims import Evidence, Platform
from securetf.endorsements import TrustAnchors
from securetf.endorsements.trust import spki_digest
from securetf.errors import (
    BindingError,
    ConfigurationError,
    MalformedEvidenceError,
    SignatureError,
    SimulationRefusedError,
    UnsupportedPlatformError,
)
from securetf.evidence import tcg_event_log, tpm2_public, tpm2_quote
from securetf.evidence.tpm2_quote import RSAPSS, RSASSA, SHA1, SHA384, SHA512
from securetf.verifier import verify
from securetf.verifier.tpm2 import Tpm2Verifier
from securetf.verifier.tpm2_origin import KeyOrigins, spki_sha256
from support.authority import NOW
from support.tpm2 import (
    AK_ATTRIBUTES,
    LOG,
    NOBODY,
    REPORT_DATA,
    SELECTION,
    TPM_KEY,
    Tpm,
    make_log,
    make_tpm,
    public_of,
    sign,
)


@pytest.fixture(scope="module")
def tpm() -> Tpm:
    return make_tpm()


def test_quote_when_all_holds_then_claims_are_the_pcrs_and_the_certified_key(tpm: Tpm) -> None:
    verifier = Tpm2Verifier(KeyOrigins(tpm.root.anchors, lambda _: None), event_log_required=True)
    evidence = Evidence(Platform.TPM2, tpm.evidence())
    claims = verify(evidence, verifiers={Platform.TPM2: verifier}, expected_report_data=REPORT_DATA, now=NOW)
    assert claims.platform is Platform.TPM2
    assert claims.registers["pcr0"] == tpm.pcrs[0]
    assert claims.report_data == REPORT_DATA
    assert claims.platform_id == spki_sha256(tpm.key.public_key())
    assert claims.valid_until == NOW + timedelta(days=1)
    assert (claims.tcb_status, claims.simulated, claims.properties["reset_count"]) == (
        "NotReported",
        False,
        2,
    )


def test_quote_when_by_rsa_with_either_padding_then_accepted() -> None:
    tpm = make_tpm(rsa.generate_private_key(65537, 2048))
    assert tpm.verify()
    whole = b"".join(tpm.pcrs[index] for index in SELECTION)
    for digest, name in ((tpm2_quote.SHA256, "sha256"), (SHA384, "sha384"), (SHA512, "sha512")):
        quote = tpm.quote(pcr_digest=hashlib.new(name, whole).digest())
        for scheme in (RSASSA, RSAPSS):
            signature = sign(tpm.key, quote, scheme=scheme, digest=digest)
            assert tpm.verify(tpm.evidence(quote, signature=signature))


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        (AK_ATTRIBUTES & ~(1 << 16), "not restricted: it signs whatever it is given"),
        (AK_ATTRIBUTES & ~(1 << 18), "not a signing key"),
        (AK_ATTRIBUTES & ~(1 << 1), "not fixedTPM"),
        (AK_ATTRIBUTES & ~(1 << 4), "not fixedParent"),
        (AK_ATTRIBUTES & ~(1 << 5), "not made by the TPM"),
        (AK_ATTRIBUTES | 1 << 17, "may also decrypt"),
    ],
)
def test_ak_when_an_attribute_is_wrong_then_refused(tpm: Tpm, attributes: int, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        tpm.verify(tpm.evidence(ak=public_of(tpm.key, attributes=attributes)))


def test_ak_when_its_name_is_by_sha1_then_refused(tpm: Tpm) -> None:
    with pytest.raises(ConfigurationError, match="name is by SHA-1"):
        tpm.verify(tpm.evidence(ak=public_of(tpm.key, name_hash=SHA1)))


def test_ak_when_it_is_no_usable_key_then_refused_as_malformed(tpm: Tpm) -> None:
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
    large = rsa.generate_private_key(65537, 2048)
    for ak in (
        public_of(tpm.key, unique=(bytes(32), bytes(31) + b"\1")),
        public_of(small),
        public_of(large, exponent=3),
    ):
        with pytest.raises(MalformedEvidenceError, match="the TPM key cannot be used"):
            tpm.verify(tpm.evidence(ak=ak))


def test_signature_when_of_another_key_part_or_scheme_then_refused(tpm: Tpm) -> None:
    quote, other = tpm.quote(), ec.generate_private_key(ec.SECP256R1())
    good = sign(tpm.key, quote)
    as_rsa = tpm2_quote.Signature(scheme=tpm2_quote.RSASSA, hash=good.hash, parts=(bytes(256),))
    zero, large = bytes(32), b"\xff" * 32
    for signature in (
        sign(other, quote),
        sign(tpm.key, tpm.quote(clock=9)),
        replace(good, hash=SHA384),
        replace(good, parts=(zero, good.parts[1])),
        replace(good, parts=(good.parts[0], zero)),
        replace(good, parts=(large, good.parts[1])),
        replace(good, parts=tuple(reversed(good.parts))),
        as_rsa,
    ):
        with pytest.raises(SignatureError, match="the TPM quote's signature does not hold"):
            tpm.verify(tpm.evidence(quote, signature=signature))
    with pytest.raises(SignatureError, match="signed over SHA-1"):
        tpm.verify(tpm.evidence(quote, signature=replace(good, hash=SHA1)))


P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.mark.parametrize("value", [0, P256_ORDER, P256_ORDER + 1, 2**256 - 1])
@pytest.mark.parametrize("part", [0, 1], ids=["r", "s"])
def test_signature_when_r_or_s_is_zero_or_out_of_range_then_refused(tpm: Tpm, part: int, value: int) -> None:
    good = sign(tpm.key, tpm.quote())
    parts = [*good.parts]
    parts[part] = value.to_bytes(32, "big")
    with pytest.raises(SignatureError, match="the TPM quote's signature does not hold"):
        tpm.verify(tpm.evidence(signature=replace(good, parts=tuple(parts))))


def test_pcrs_when_not_those_quoted_then_refused(tpm: Tpm) -> None:
    with pytest.raises(SignatureError, match="not the ones that the TPM quoted"):
        tpm.verify(tpm.evidence(pcrs=tpm.pcrs | {7: bytes(32)}))
    swapped = tpm.pcrs | {1: tpm.pcrs[2], 2: tpm.pcrs[1]}
    with pytest.raises(SignatureError, match="not the ones that the TPM quoted"):
        tpm.verify(tpm.evidence(pcrs=swapped))


def test_pcrs_when_of_sha1_bank_or_none_then_refused(tpm: Tpm) -> None:
    quote = tpm.quote(bank=SHA1)
    short = {index: value[:20] for index, value in tpm.pcrs.items()}
    with pytest.raises(ConfigurationError, match="over the sha1 PCR bank"):
        tpm.verify(tpm.evidence(quote, signature=sign(tpm.key, quote), pcrs=short))
    quote = tpm.quote(selection=())
    with pytest.raises(ConfigurationError, match="covers no PCR"):
        tpm.verify(tpm.evidence(quote, signature=sign(tpm.key, quote), pcrs={}))


def test_event_log_when_it_does_not_replay_then_refused_naming_the_pcrs(tpm: Tpm) -> None:
    events = LOG.events
    other = replace(events[3], digests=((tpm2_quote.SHA256, bytes(32)),))
    for changed, pcrs in (
        (events[:-1], r"\[1\]"),
        ((*events, events[-1]), r"\[1\]"),
        ((events[10], events[0], *events[1:10], events[11]), r"\[0\]"),
        ((*events[:3], other, *events[4:]), r"\[3\]"),
        ((), r"\[0, 1, 2, 3, 4, 5, 6, 7, 8, 9\]"),
    ):
        log = tcg_event_log.encode(replace(LOG, events=changed))
        with pytest.raises(SignatureError, match=f"does not replay to the quoted PCRs {pcrs}"):
            tpm.verify(tpm.evidence(event_log=log))
    with pytest.raises(MalformedEvidenceError, match="does not cover the sha256 bank"):
        tpm.verify(tpm.evidence(event_log=tcg_event_log.encode(make_log(SHA384))))


def test_event_log_when_absent_then_refused_only_where_it_is_required(tpm: Tpm) -> None:
    raw = tpm.evidence(event_log=b"")
    assert tpm.verify(raw)
    with pytest.raises(SignatureError, match="has no event log"):
        tpm.verify(raw, event_log_required=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"usage": ("key_encipherment",)}, "is not of a TPM's attestation key"),
        ({"extensions": ()}, "is not of a TPM's attestation key"),
        ({"key": ec.generate_private_key(ec.SECP256R1())}, "is of another key than the attestation key"),
        ({"ca": True}, "is an authority and stands where the leaf should be"),
        ({"end": NOW - timedelta(minutes=1)}, "'CN=AK' expired"),
        ({"start": NOW + timedelta(minutes=1)}, "'CN=AK' is valid from"),
    ],
)
def test_certificate_when_not_of_this_ak_then_refused(changes: dict[str, Any], reason: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    tpm = make_tpm(key)
    odd = tpm.root.issue(
        "AK", **{"key": key, "ca": False, "usage": ("digital_signature",), "extensions": (TPM_KEY,)} | changes
    )
    with pytest.raises(SignatureError, match=reason):
        replace(tpm, certificate=odd).verify()


def test_chain_when_root_is_another_or_a_key_is_revoked_then_refused(tpm: Tpm) -> None:
    other = make_tpm()
    with pytest.raises(SignatureError, match="which is not a trust anchor"):
        tpm.verify(anchors=other.root.anchors)
    with pytest.raises(SignatureError, match="'CN=AK' is not signed by 'CN=TPM root'"):
        tpm.verify(
            tpm.evidence(certificates=(tpm.certificate.der, other.root.der)), anchors=other.root.anchors
        )
    for authority in (tpm.certificate, tpm.root):
        with pytest.raises(SignatureError, match="is revoked"):
            tpm.verify(revoked=frozenset({spki_digest(authority.certificate)}))


def test_chain_when_its_upper_end_is_known_then_completed(tpm: Tpm) -> None:
    raw = tpm.evidence(certificates=(tpm.certificate.der,))
    assert tpm.verify(raw, authorities=[tpm.root.der])
    with pytest.raises(SignatureError, match="has 1 certificates, expected 2"):
        tpm.verify(raw)
    with pytest.raises(SignatureError, match="which is not a trust anchor"):
        tpm.verify(raw, authorities=[tpm.root.der], anchors=NOBODY)


def test_ak_when_enrolled_then_accepted_until_it_ends_or_is_revoked(tpm: Tpm) -> None:
    raw, known = tpm.evidence(certificates=()), tpm.known
    enrolled: dict[str, Any] = {"anchors": NOBODY, "enrolment_of": {known.name: known}.get}
    assert tpm.verify(raw, **enrolled).platform_id == known.ek_sha256
    with pytest.raises(SignatureError, match="neither certified nor enrolled"):
        tpm.verify(raw)
    with pytest.raises(SignatureError, match="enrolment ended at"):
        tpm.verify(raw, **enrolled, now=NOW + timedelta(days=2))
    for revoked in (known.ek_sha256, spki_sha256(tpm.key.public_key())):
        with pytest.raises(SignatureError, match="the TPM's key is revoked"):
            tpm.verify(raw, **enrolled, revoked=frozenset({revoked}))
    with pytest.raises(SignatureError, match="neither certified nor enrolled"):
        tpm.verify(raw, enrolment_of=lambda _: replace(known, name=bytes(34)))


def test_ak_when_its_public_area_claims_other_attributes_then_its_name_is_not_enrolled(tpm: Tpm) -> None:
    known = tpm.known
    raw = tpm.evidence(certificates=(), ak=public_of(tpm.key, attributes=AK_ATTRIBUTES | 1 << 10))
    with pytest.raises(SignatureError, match="neither certified nor enrolled"):
        tpm.verify(raw, enrolment_of={known.name: known}.get)


def test_binding_when_report_data_differs_or_is_missing_then_refused(tpm: Tpm) -> None:
    with pytest.raises(BindingError, match="extra data is not the one expected"):
        tpm.verify(report_data=bytes(64))
    with pytest.raises(BindingError, match="no value was given"):
        tpm.verify(expected_extra_data=b"")
    verifier = Tpm2Verifier(KeyOrigins(tpm.root.anchors, lambda _: None), event_log_required=False)
    with pytest.raises(BindingError, match="no value was given"):
        verifier.verify(Evidence(Platform.TPM2, tpm.evidence()), expected_report_data=b"", now=NOW)
    plain = tpm.quote(extra_data=REPORT_DATA[:32])
    with pytest.raises(BindingError, match="extra data is not the one expected"):
        tpm.verify(tpm.evidence(plain, signature=sign(tpm.key, plain)))


def test_verifier_when_given_a_development_root_or_another_platform_then_refused() -> None:
    with pytest.raises(SimulationRefusedError, match="development root"):
        KeyOrigins(TrustAnchors(spki_sha256=frozenset(), development=True), lambda _: None)
    verifier = Tpm2Verifier(KeyOrigins(NOBODY, lambda _: None), event_log_required=False)
    with pytest.raises(UnsupportedPlatformError, match="given to the verifier of tpm2"):
        verifier.verify(Evidence(Platform.TDX, b""), expected_report_data=REPORT_DATA, now=NOW)


def test_selection_when_partial_then_only_those_pcrs_are_claimed(tpm: Tpm) -> None:
    chosen = SELECTION[:8]
    digest = hashlib.sha256(b"".join(tpm.pcrs[index] for index in chosen)).digest()
    quote = tpm.quote(selection=chosen, pcr_digest=digest)
    pcrs = {index: tpm.pcrs[index] for index in chosen}
    claims = tpm.verify(tpm.evidence(quote, signature=sign(tpm.key, quote), pcrs=pcrs))
    assert sorted(claims.registers) == [f"pcr{index}" for index in chosen]
    assert tpm2_public.name(tpm.public) == tpm.known.name
