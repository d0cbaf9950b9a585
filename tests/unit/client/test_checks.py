"""Each thing that a service must prove is a check of its own, and each lie fails the right one."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from securetf.client.checks import verify
from securetf.client.observation import Observation
from securetf.client.policy import ClientPolicy, parse_policy
from securetf.client.verdict import Status, Verdict
from securetf.keys.workload import WorkloadKey
from securetf.service_errors import ServiceNotProvedError
from securetf.wire.statement import DELEGATION_TYPE, Statement
from support.outside_proof import (
    OTHER_MANIFEST,
    OTHER_ROOT,
    OTHER_SOFTWARE,
    ROOT,
    SOFTWARE,
    Cas,
    Member,
    Says,
    policy_text,
)

CAS = Cas()
NONCE = bytes(range(32))
NAMES = [
    "tls", "policy", "statement", "cas", "token-key", "ear-signature", "ear-issuer", "ear-subject",
    "ear-time", "simulation", "ear-status", "measurement", "binding-signature", "nonce", "network-key",
    "binding-subject", "manifest", "volumes", "certificate",
]  # fmt: skip
PINS = f'manifest_hashes = ["sha256:{"1f" * 32}"]\nmaximum_age_s = 120\n[service.volumes.models]\nroots = ["{ROOT}"]\nminimum_epoch = 3\n'  # noqa: E501


@pytest.fixture
def policy(tmp_path: Path) -> ClientPolicy:
    return parse_policy(
        policy_text(CAS.trust(tmp_path / "cas.json"), service=PINS).encode(), directory=tmp_path
    )


def observed(member: Member, **changes: object) -> Observation:
    fields = {
        "url": "https://service.example",
        "observed_at": "",
        "tls_version": "TLSv1.3",
        "tls_spki": member.network.spki,
        "nonce": NONCE,
        "statement": member.statement(NONCE),
    }
    return Observation(**{**fields, **changes})


def judge(member: Member, policy: ClientPolicy, **changes: object) -> Verdict:
    return verify(observed(member, **changes), policy, now=datetime.now(UTC))


def failed(verdict: Verdict) -> dict[str, str]:
    return {one.name: one.found for one in verdict.checks if one.status is Status.FAIL}


def test_service_when_it_proves_everything_passes_every_check_by_name(policy: ClientPolicy) -> None:
    member = Member(CAS)
    verdict = judge(member, policy)
    assert [one.name for one in verdict.checks] == NAMES
    assert failed(verdict) == {}
    proved = verdict.require()
    assert proved.network_spki_sha256 == hashlib.sha256(member.network.spki).hexdigest()
    assert (proved.session, proved.workload, proved.measurement) == ("acme/digits", "server", SOFTWARE)
    assert proved.valid_until - proved.issued_at == timedelta(seconds=120)


def test_service_when_nothing_is_pinned_but_the_software_passes(tmp_path: Path) -> None:
    text = policy_text(CAS.trust(tmp_path / "cas.json"))
    assert judge(Member(CAS), parse_policy(text.encode(), directory=tmp_path)).ok


@pytest.mark.parametrize(
    ("says", "check", "reason"),
    [
        (Says(measurement=OTHER_SOFTWARE), "measurement", f"mr_td is {OTHER_SOFTWARE}, expected {SOFTWARE}"),
        (Says(tcb="OutOfDate"), "measurement", "TCB status is OutOfDate"),
        (Says(advisories=("INTEL-SA-00001",)), "measurement", "advisories apply"),
        (Says(simulated=True), "simulation", "INSECURE SIMULATION"),
        (Says(simulated=True), "ear-status", "'contraindicated', accepted: affirming, warning"),
        (Says(status="contraindicated"), "ear-status", "'contraindicated'"),
        (Says(root=OTHER_ROOT), "volumes", f"models has the root {OTHER_ROOT}"),
        (Says(writable=True), "volumes", "models is writable by the service"),
        (Says(epoch=2), "volumes", "in epoch 2, accepted from 3"),
        (Says(manifest=OTHER_MANIFEST), "manifest", "sha256:2f2f"),
        (Says(certificate_manifest=OTHER_MANIFEST), "certificate", "for the Manifest sha256:2f2f"),
        (Says(age_s=121), "ear-time", "s old, accepted are 120 s"),
        (Says(age_s=301), "ear-time", "it expired at"),
        (Says(age_s=-40), "ear-time", "issued in the future"),
        (Says(audience="securetf-session:acme/x"), "ear-issuer", "audience is 'securetf-session:acme/x'"),
        (Says(session="acme/other"), "ear-subject", "acme/other/server/0, expected"),
        (Says(workload="trainer"), "ear-subject", "/trainer/0, expected"),
        (Says(binding_session="acme/other"), "binding-subject", "acme/other/server/0, the attestation"),
        (Says(nonce=bytes(32)), "nonce", "replayed"),
        (Says(binding_age_s=62), "nonce", "it is made at"),
        (Says(binding_age_s=-62), "nonce", "it is made at"),
        (Says(network_spki=WorkloadKey.generate().spki), "network-key", "someone stands between"),
        (Says(binding_key=WorkloadKey.generate()), "binding-signature", "does not hold"),
        (Says(binding_type=DELEGATION_TYPE), "binding-signature", "header"),
        (Says(certificate_days=-0.0005), "certificate", "is valid from"),
    ],
)  # fmt: skip
def test_service_when_one_thing_is_wrong_fails_that_check(
    says: Says, check: str, reason: str, policy: ClientPolicy
) -> None:
    verdict = judge(Member(CAS, says), policy)
    assert reason in failed(verdict)[check]
    with pytest.raises(ServiceNotProvedError, match="nothing was sent"):
        verdict.require()


def test_service_when_many_things_are_wrong_names_all_of_them_at_once(policy: ClientPolicy) -> None:
    says = Says(measurement=OTHER_SOFTWARE, root=OTHER_ROOT, manifest=OTHER_MANIFEST, age_s=200)
    assert set(failed(judge(Member(CAS, says), policy))) == {"measurement", "volumes", "manifest", "ear-time"}


def test_service_when_of_another_cas_fails_although_its_own_chain_holds(policy: ClientPolicy) -> None:
    found = failed(judge(Member(Cas()), policy))
    assert list(found) == ["cas"]
    assert f"pinned is {CAS.spki_sha256}" in found["cas"]


def test_token_key_when_the_audit_key_did_not_sign_it_is_refused(policy: ClientPolicy) -> None:
    member, thief = Member(CAS), Cas()
    proof = CAS.proof()
    stolen = msgspec.structs.replace(proof.token_key, spki=thief.token.spki)
    honest = msgspec.json.decode(member.statement(NONCE), type=Statement)
    lie = msgspec.structs.replace(honest, cas=msgspec.structs.replace(proof, token_key=stolen))
    found = failed(judge(member, policy, statement=msgspec.json.encode(lie)))
    assert "not signed by this CAS's audit key" in found["token-key"]


def test_attestation_result_when_another_key_signed_it_is_refused(policy: ClientPolicy) -> None:
    member = Member(CAS)
    honest = msgspec.json.decode(member.statement(NONCE), type=Statement)
    for forged, reason in (
        (Member(replace(CAS, token=Cas().token)).ear(), "unknown key"),
        (honest.ear[:-8] + "AAAAAAAA", "does not hold"),
        ("e30." + honest.ear.partition(".")[2], "Missing 'alg' value"),
    ):
        lie = msgspec.structs.replace(honest, ear=forged)
        found = failed(judge(member, policy, statement=msgspec.json.encode(lie)))
        assert list(found) == ["ear-signature"]
        assert reason in found["ear-signature"]


@pytest.mark.parametrize(
    ("changes", "check", "reason"),
    [
        ({"tls_version": "TLSv1.2"}, "tls", "TLSv1.2, expected TLSv1.3"),
        ({"tls_spki": WorkloadKey.generate().spki}, "network-key", "someone stands between"),
        ({"tls_spki": WorkloadKey.generate().spki}, "certificate", "another key than that of the connection"),
        ({"nonce": bytes(32)}, "nonce", "replayed"),
        ({"statement": b"{}"}, "statement", "missing required field"),
        ({"statement": b"\xff"}, "statement", "not one of this version"),
        ({"statement": b"[" * 4000}, "statement", "nested deeper"),
    ],
)
def test_connection_when_it_is_not_the_one_of_the_statement_fails(
    changes: dict[str, object], check: str, reason: str, policy: ClientPolicy
) -> None:
    assert reason in failed(judge(Member(CAS), policy, **changes))[check]


def test_policy_when_it_has_expired_allows_nothing(tmp_path: Path) -> None:
    text = policy_text(CAS.trust(tmp_path / "cas.json"), top='expires = "2026-01-01T00:00:00Z"')
    found = failed(judge(Member(CAS), parse_policy(text.encode(), directory=tmp_path)))
    assert list(found) == ["policy"]


def test_attestation_when_the_policy_ends_first_ends_with_it(tmp_path: Path) -> None:
    end = (datetime.now(UTC) + timedelta(seconds=20)).replace(microsecond=0)
    text = policy_text(CAS.trust(tmp_path / "cas.json"), top=f'expires = "{end:%Y-%m-%dT%H:%M:%SZ}"')
    proved = judge(Member(CAS), parse_policy(text.encode(), directory=tmp_path)).require()
    assert proved.valid_until == end


def test_simulation_when_the_policy_admits_it_passes_and_is_named_everywhere(tmp_path: Path) -> None:
    cas = Cas(simulated=True)
    text = policy_text(
        cas.trust(tmp_path / "cas.json"), platform=f'[insecure_simulation]\nmr_td = ["{SOFTWARE}"]\n'
    )
    policy = parse_policy(text.encode(), directory=tmp_path)
    verdict = judge(Member(cas, Says(simulated=True)), policy)
    assert verdict.require().simulated
    assert verdict.simulated
    assert any("INSECURE SIMULATION" in one.found for one in verdict.checks)


def test_hardware_when_only_the_cas_is_simulated_is_refused(tmp_path: Path) -> None:
    cas = Cas(simulated=True)
    policy = parse_policy(policy_text(cas.trust(tmp_path / "cas.json")).encode(), directory=tmp_path)
    assert "the CAS run in an INSECURE" in failed(judge(Member(cas), policy))["simulation"]


def test_tpm_beside_the_machine_when_the_policy_names_it_is_compared_and_else_is_the_matter_of_the_cas(
    tmp_path: Path,
) -> None:
    pcr = "0a" * 32
    member = Member(CAS, Says(pcr0=pcr))
    trust = CAS.trust(tmp_path / "cas.json")
    for table, names in (
        ("", []),
        (f'[appraisal.tpm2]\npcrs = {{ pcr0 = ["{pcr}"] }}\n', []),
        (f'[appraisal.tpm2]\npcrs = {{ pcr0 = ["{"0b" * 32}"] }}\n', ["measurement"]),
    ):
        text = policy_text(trust) + table
        assert list(failed(judge(member, parse_policy(text.encode(), directory=tmp_path)))) == names
