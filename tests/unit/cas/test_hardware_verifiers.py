"""A CAS that verifies hardware: what it refuses, and genuine quotes through its cache of endorsements."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import structs

from securetf.attester.insecure_simulation import SimulatedTdx
from securetf.cas.hardware_verifiers import TpmRoots, hardware_verifiers
from securetf.cas.service import AuditDraft, CasService
from securetf.claims import EVIDENCE_SIZE_LIMITS, Evidence, Platform, VerifiedClaims
from securetf.endorsements import names
from securetf.endorsements.cache import Cache
from securetf.endorsements.library import Library
from securetf.endorsements.needs import DcapNeed
from securetf.endorsements.refusals import EndorsementExpiredError, EndorsementMissingError
from securetf.errors import (
    BindingError,
    EndorsementError,
    LimitError,
    MalformedEvidenceError,
    ManifestHashError,
    NonceError,
    PlatformNotAllowedError,
    SecuretfError,
    SignatureError,
    UnsupportedPlatformError,
    UsageError,
)
from securetf.verifier import verify, verify_composite
from securetf.verifier.needs import needs_of
from securetf.wire import AttestRequest, CasEvidenceRequest, ChallengeRequest, decode, encode
from support.authority import Authority, issue
from support.shared_vectors import NEEDED, VECTORS, entries
from support.waiting import HERE, waited

from .conftest import SESSION, Cas, Workload

REPORT_DATA = bytes(range(64))
NOW = datetime(2026, 11, 22, tzinfo=UTC)
TDX = f'mr_td = ["{"0" * 96}"]'


@pytest.fixture
def hardware(packed: Cas, tmp_path: Path) -> Cas:
    """A CAS for hardware that takes simulations too, with a session that accepts TDX as well."""
    library = Library(Cache(tmp_path / "cache"), None)
    packed.context.verifiers = {**packed.context.verifiers, **hardware_verifiers(library)}
    packed.service = CasService.of(packed.context)
    packed.update(appraisal__tdx=TDX)
    return packed


def test_simulation_when_relabelled_as_hardware_then_its_root_is_refused(hardware: Cas) -> None:
    for platform in ("tdx", "sgx"):
        with pytest.raises((SignatureError, PlatformNotAllowedError, MalformedEvidenceError)) as refused:
            hardware.attest(platform=platform)
        if platform == "tdx":
            assert "not a trust anchor" in refused.value.problem or "root" in refused.value.problem


def test_simulation_when_the_policy_names_hardware_alone_then_refused_also_where_simulations_count(
    hardware: Cas,
) -> None:
    hardware.update(appraisal__tdx=TDX, appraisal__insecure_simulation="-")
    with pytest.raises(PlatformNotAllowedError, match=r"has no `\[appraisal.insecure_simulation\]`"):
        hardware.attest()


@pytest.mark.parametrize("platform", [Platform.TDX, Platform.NITRO, Platform.TPM2, Platform.SEV_SNP])
def test_evidence_when_longer_than_its_platform_gives_then_refused_unread(platform: Platform) -> None:
    limit = EVIDENCE_SIZE_LIMITS[platform]
    with pytest.raises(MalformedEvidenceError, match=rf"has {limit + 1} bytes, at most {limit} are read"):
        verify(Evidence(platform, bytes(limit + 1)), verifiers={}, expected_report_data=REPORT_DATA, now=NOW)


def test_message_when_its_evidence_fits_no_platform_then_refused_by_the_wire(hardware: Cas) -> None:
    request = hardware.attest_request(Workload())
    longest = max(EVIDENCE_SIZE_LIMITS.values())
    decode(encode(structs.replace(request, evidence=bytes(longest))), AttestRequest)
    longer = encode(structs.replace(request, evidence=bytes(longest + 1)))
    with pytest.raises(UsageError, match="evidence"):
        decode(longer, AttestRequest)
    both = {"tpm2": bytes(longest), "gcp_vtpm": bytes(longest)}
    longer = encode(structs.replace(request, evidence=b"x", submods=both))
    with pytest.raises(LimitError, match="message has"):
        decode(longer, AttestRequest)


@pytest.mark.parametrize("nonce", [b"", b"n" * 31, b"n" * 33], ids=["empty", "short", "long"])
def test_nonce_when_missing_empty_or_of_another_size_then_refused(hardware: Cas, nonce: bytes) -> None:
    request = hardware.attest_request(Workload())
    wrong = encode(structs.replace(request, nonce=nonce))
    with pytest.raises(UsageError, match="nonce"):
        decode(wrong, AttestRequest)
    without = json.loads(encode(request))
    del without["nonce"]
    with pytest.raises(UsageError, match="nonce"):
        decode(json.dumps(without).encode(), AttestRequest)
    with pytest.raises(UsageError, match="nonce"):
        decode(encode(CasEvidenceRequest(nonce=nonce)), CasEvidenceRequest)


def test_nonce_when_of_another_session_then_refused(hardware: Cas) -> None:
    challenge = ChallengeRequest(session="acme/other", workload="trainer")
    other = hardware.service.attestation.challenge(challenge)
    with pytest.raises(NonceError, match="was not issued for trainer of acme/digits"):
        hardware.attest(nonce=other.nonce)


def test_evidence_when_sent_again_with_a_fresh_nonce_then_refused(hardware: Cas) -> None:
    workload = Workload()
    first = hardware.attest_request(workload)
    hardware.send(workload, first)
    second = hardware.attest_request(workload)
    with pytest.raises(BindingError, match="report data"):
        hardware.send(workload, structs.replace(second, evidence=first.evidence))


def test_workload_when_it_names_another_tenants_session_then_its_manifest_is_not_that_one(
    hardware: Cas,
) -> None:
    other = hardware.manifest().replace(SESSION, "rival/digits")
    hardware.create(other)
    challenge = ChallengeRequest(session="rival/digits", workload="trainer")
    nonce = hardware.service.attestation.challenge(challenge).nonce
    request = hardware.attest_request(Workload(), nonce=nonce)
    with pytest.raises(ManifestHashError, match="current in rival/digits is"):
        waited(
            hardware.service.attestation.attest(
                structs.replace(request, session="rival/digits"), AuditDraft(action="attest"), HERE
            )
        )


def test_composite_when_two_of_one_platform_or_of_two_tees_then_refused() -> None:
    machine, tpm = Evidence(Platform.TDX, b"1"), Evidence(Platform.TPM2, b"2")
    arguments: dict[str, Any] = {"verifiers": {}, "expected_report_data": REPORT_DATA, "now": NOW}
    with pytest.raises(BindingError, match="names a platform twice"):
        verify_composite(Evidence(Platform.TDX, b"1", (tpm, tpm)), **arguments)
    for first, second in ((tpm, machine), (machine, Evidence(Platform.SEV_SNP, b"3"))):
        with pytest.raises(UnsupportedPlatformError, match="composite Evidence of"):
            verify_composite(Evidence(first.platform, first.raw, (second,)), **arguments)
    with pytest.raises(MalformedEvidenceError, match="where one platform's is expected"):
        verify(Evidence(Platform.TDX, b"1", (tpm,)), **arguments)


def test_composite_when_one_part_has_no_verifier_then_refused(hardware: Cas) -> None:
    request = hardware.attest_request(Workload())
    with pytest.raises(SecuretfError) as refused:
        hardware.send(Workload(), structs.replace(request, submods={"tpm2": b"x"}))
    assert isinstance(refused.value, BindingError)  # the machine signed nothing about a TPM


def pem(authority: Authority) -> bytes:
    return authority.certificate.public_bytes(Encoding.PEM)


def test_roots_when_they_hold_no_root_then_refused() -> None:
    root = issue("manufacturer")
    below = root.issue("issuer", ca=True)
    assert TpmRoots.of(pem(root) + pem(below)).anchors.spki_sha256 == root.anchors.spki_sha256
    with pytest.raises(EndorsementError, match="no root among the certificates"):
        TpmRoots.of(pem(below))


def _dcap_cases() -> list[Any]:
    return [
        pytest.param(platform, entry, verdict, id=f"{platform.value}/{name}@{verdict['at'][:10]}")
        for platform in (Platform.TDX, Platform.SGX)
        for name, entry in entries(platform.value).items()
        for verdict in entry.get("verdicts", [])
        if verdict.get("collateral") and verdict["result"] != "REJECT"
    ]


Verify = Callable[..., VerifiedClaims]


@NEEDED
@pytest.mark.parametrize(("platform", "entry", "verdict"), _dcap_cases())
def test_genuine_quote_when_its_collateral_is_in_the_cache_then_verified_and_else_refused(
    platform: Platform, entry: dict[str, Any], verdict: dict[str, Any], tmp_path: Path
) -> None:
    evidence = Evidence(platform, (VECTORS / entry["file"]).read_bytes())
    now = datetime.fromisoformat(verdict["at"])
    (need,) = needs_of(evidence)
    assert isinstance(need, DcapNeed)
    cache = Cache(tmp_path / "cache")
    verifiers = hardware_verifiers(Library(cache, None), minimum_tcb_evaluation=0)

    def run(at: datetime) -> VerifiedClaims:
        expected = bytes.fromhex(entry["parse"]["report_data"])
        return verify(evidence, verifiers=verifiers, expected_report_data=expected, now=at)

    with pytest.raises(EndorsementMissingError, match="nothing is fetched here"):
        run(now)
    content = (VECTORS / verdict["collateral"]).read_bytes()
    cache.put(names.dcap(need, "standard"), content, source="shared vectors", now=now)
    assert run(now).platform is platform
    with pytest.raises(EndorsementExpiredError):
        run(datetime(2036, 1, 1, tzinfo=UTC))


def test_simulated_quote_when_given_to_the_hardware_verifier_alone_then_refused(
    platform: Path, tmp_path: Path
) -> None:
    evidence = SimulatedTdx(platform, {}).attest(REPORT_DATA)
    verifiers = hardware_verifiers(Library(Cache(tmp_path), None))
    with pytest.raises(SignatureError, match="root"):
        verify(
            Evidence(Platform.TDX, evidence.raw),
            verifiers=verifiers,
            expected_report_data=REPORT_DATA,
            now=datetime.now(UTC),
        )
