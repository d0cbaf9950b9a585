"""A genuine attestation of a Google Cloud VM against the shared vectors' manifest."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509

from securetf.claims import Platform, VerifiedClaims
from securetf.endorsements import TrustAnchors
from securetf.endorsements.tpm import KnownAk
from securetf.errors import (
    BindingError,
    ConfigurationError,
    EvidenceError,
    MalformedEvidenceError,
    SignatureError,
)
from securetf.evidence import gcp_vtpm, tcg_event_log, tpm2, tpm2_public
from securetf.evidence.tpm2_quote import HASH_NAMES, SHA1, SHA256
from securetf.verifier import tpm2_origin
from securetf.verifier import tpm2_quote as steps
from securetf.verifier.gcp_vtpm import GcpVtpmVerifier
from securetf.verifier.tpm2 import Tpm2Verifier
from support.shared_vectors import NEEDED, VECTORS
from support.tpm_vectors import ENTRIES, FOLDER, same

# Google's older issuers have a common name of 79 characters.
pytestmark = [NEEDED, pytest.mark.filterwarnings("ignore:Attribute's length must be")]
GCE = "gce-cos-85-nonce9009.pb"
NOW = datetime(2026, 1, 15, tzinfo=UTC)


def gce() -> gcp_vtpm.GcpEvidence:
    return gcp_vtpm.parse((FOLDER / GCE).read_bytes())


def test_gce_attestation_when_parsed_then_fields_are_those_of_the_manifest() -> None:
    found, expected = gce(), ENTRIES[GCE]["parse"]
    assert found.ak.attributes == int(expected["ak_attributes"], 16)
    assert tpm2_public.name(found.ak)[2:].hex() == expected["ak_tpmt_public_sha256"]
    assert len(found.event_log) == expected["event_log_bytes"]
    for one, words in zip(found.quotes, expected["quotes"], strict=True):
        same(one.quote, words)
        assert HASH_NAMES[one.quote.bank] == words["bank"]


def test_gce_event_log_when_read_written_and_replayed_then_gives_the_quoted_firmware_pcrs() -> None:
    found = gce()
    log = tcg_event_log.parse(found.event_log)
    assert tcg_event_log.encode(log) == found.event_log
    for one in found.quotes:
        replayed = tcg_event_log.replay(log, one.quote.bank)
        assert [index for index in range(24) if replayed[index] != one.pcrs[index]] == [10]  # IMA's, the OS's


def test_gce_event_log_when_an_event_lacks_or_stands_twice_then_refused() -> None:
    found = gce()
    log = tcg_event_log.parse(found.event_log)
    one = next(one for one in found.quotes if one.quote.bank == SHA256)
    for events in (log.events[:-1], log.events[1:], (*log.events, log.events[-1])):
        raw = tcg_event_log.encode(replace(log, events=events))
        with pytest.raises(SignatureError, match="does not replay to the quoted PCRs"):
            steps.check_event_log(raw, one.quote, one.pcrs)


def test_gce_quotes_when_verified_then_sha256_and_sha384_hold_and_sha1_is_refused() -> None:
    found = gce()
    key = steps.public_key(found.ak)
    for one in found.quotes:
        steps.check_signature(one.quote, one.signature, key)
        if one.quote.bank == SHA1:
            with pytest.raises(ConfigurationError, match="over the sha1 PCR bank"):
                steps.check_pcrs(one.quote, one.signature, one.pcrs)
            continue
        steps.check_pcrs(one.quote, one.signature, one.pcrs)
        steps.check_event_log(found.event_log, one.quote, one.pcrs)


def verify_gce(raw: bytes, **changes: Any) -> VerifiedClaims:
    """Verify under a root of the AK certificate's issuer, whose certificate is not at hand: the AK is
    enrolled.
    """
    found = gcp_vtpm.parse(raw)
    known = KnownAk(name=tpm2_public.name(gce().ak), ek_sha256=bytes(32), valid_until=NOW)
    origins = tpm2_origin.KeyOrigins(TrustAnchors.google_tpm(), {known.name: known}.get)
    arguments: dict[str, Any] = {"expected_extra_data": b"\x90\x09", "report_data": b"", "now": NOW}
    if found.certificates:
        raw = without_certificate(raw)
    return GcpVtpmVerifier(origins).authenticate(raw, **arguments | changes)


def without_certificate(raw: bytes) -> bytes:
    der = gcp_vtpm.parse(raw).certificates[0]
    size = bytes([len(der) & 127 | 128, len(der) >> 7])
    assert raw.count(b"\x32" + size + der) == 1
    return raw.replace(b"\x32" + size + der, b"")


def test_gce_attestation_when_its_key_is_enrolled_then_valid_as_the_manifest_says() -> None:
    claims = verify_gce((FOLDER / GCE).read_bytes())
    assert claims.platform is Platform.GCP_VTPM
    assert claims.properties["bank"] == "sha256"
    (words,) = (one for one in ENTRIES[GCE]["parse"]["quotes"] if one["bank"] == "sha256")
    assert claims.properties["clock_ms"] == words["clock"]
    with pytest.raises(BindingError, match="extra data is not the one expected"):
        verify_gce((FOLDER / GCE).read_bytes(), expected_extra_data=b"\x90\x0a")


def test_gce_attestation_when_its_certificate_leads_to_no_pinned_root_then_refused() -> None:
    origins = tpm2_origin.KeyOrigins(TrustAnchors.google_tpm(), lambda _: None)
    with pytest.raises(SignatureError, match="the TPM certificate chain has 1 certificates"):
        GcpVtpmVerifier(origins).authenticate(
            (FOLDER / GCE).read_bytes(), expected_extra_data=b"\x90\x09", report_data=b"", now=NOW
        )


def test_gce_quote_in_our_own_envelope_when_read_written_and_verified_then_valid() -> None:
    found = gce()
    one = next(one for one in found.quotes if one.quote.bank == SHA256)
    evidence = tpm2.Tpm2Evidence(
        ak=found.ak,
        quote=one.quote,
        signature=one.signature,
        pcrs=one.pcrs,
        certificates=(),
        event_log=found.event_log,
    )
    raw = tpm2.encode(evidence)
    assert tpm2.parse(raw) == evidence
    known = KnownAk(name=tpm2_public.name(found.ak), ek_sha256=bytes(32), valid_until=NOW)
    origins = tpm2_origin.KeyOrigins(TrustAnchors.google_tpm(), {known.name: known}.get)
    verifier = Tpm2Verifier(origins, event_log_required=True)
    arguments: dict[str, Any] = {"expected_extra_data": b"\x90\x09", "report_data": b"", "now": NOW}
    assert verifier.authenticate(raw, **arguments).platform is Platform.TPM2
    for offset in range(0, len(raw), 97):
        changed = bytearray(raw)
        changed[offset] ^= 1 << offset % 8
        try:
            verifier.authenticate(bytes(changed), **arguments)
        except EvidenceError:
            continue
        # Event data is free text: only the digests in the log are measured.
        assert offset >= len(raw) - len(found.event_log)
        assert tpm2.parse(bytes(changed)).pcrs == evidence.pcrs
    for size in range(0, len(raw), 31):
        with pytest.raises(MalformedEvidenceError):
            tpm2.parse(raw[:size])


def test_google_root_when_compared_with_the_pin_then_equal() -> None:
    raw = (VECTORS / "roots/gcp_ek_ak_ca_root.crt").read_bytes()
    load = x509.load_pem_x509_certificate if raw.startswith(b"-----") else x509.load_der_x509_certificate
    assert TrustAnchors.google_tpm().find(load(raw))
