"""Evidence from the simulated platform to the token: every stage with the value of the stage before it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from securetf.appraisal import AttestationResult, appraise, ear
from securetf.attester.insecure_simulation import (
    SimulatedTdx,
    create_platform,
    load_anchor,
    load_endorsements,
)
from securetf.attester.measurement import software_measurement
from securetf.claims import Evidence, Platform, code_register
from securetf.errors import BindingError, MeasurementError, SignatureError, SimulationRefusedError
from securetf.evidence.binding import Role, report_data
from securetf.verifier import insecure_simulation, verify

NOW = datetime(2026, 11, 22, tzinfo=UTC)
CODE = {"code": bytes(range(32))}
FIELDS: dict[str, Any] = {
    "role": Role.WORKLOAD,
    "nonce": bytes(range(32)),
    "tls_spki": b"attester's TLS key".ljust(91, b"."),
    "hpke_public_key": bytes([5]) * 1216,
    "cas_spki": b"the CAS's TLS key".ljust(91, b"."),
    "exporter": None,
    "manifest_hash": bytes([9]) * 32,
}

Run = Callable[..., AttestationResult]


@dataclass(frozen=True)
class Reference:
    """The part of a Manifest that appraises the simulation."""

    mr_td: tuple[str, ...] = ()
    rtmr0: tuple[str, ...] | None = None
    rtmr1: tuple[str, ...] | None = None
    rtmr2: tuple[str, ...] | None = None
    tcb: tuple[str, ...] = ("UpToDate",)
    tolerate: tuple[str, ...] = ()
    platform_ids: tuple[str, ...] = ()


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    create_platform(tmp_path / "platform", NOW)
    return tmp_path / "platform"


@pytest.fixture
def run(platform: Path) -> Run:
    """The CAS's side: verify and appraise against its own view of the transcript."""

    def run(evidence: Evidence, *, code: dict[str, bytes] = CODE, **changes: Any) -> AttestationResult:
        simulation = insecure_simulation.verifier(load_anchor(platform), load_endorsements(platform, NOW))
        claims = verify(
            evidence,
            verifiers={Platform.INSECURE_SIMULATION: simulation},
            expected_report_data=report_data(**FIELDS | changes),
            now=NOW,
        )
        policy = Reference(mr_td=(software_measurement().hex(),))
        return appraise(claims, policy=policy, rtmr3=code_register(code), now=NOW)

    return run


def attest(platform: Path, code: dict[str, bytes] | None = None) -> Evidence:
    return SimulatedTdx(platform, CODE if code is None else code).attest(report_data(**FIELDS))


def test_workload_when_everything_is_as_reviewed_then_gets_a_token_bound_to_its_key(
    platform: Path, run: Run
) -> None:
    result = run(attest(platform))
    cas, holder = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    token = ear.issue(
        result,
        key=ear.SigningKey.of(cas),
        issuer="cas",
        audience="cas",
        subject="spiffe://example/acme/mnist/trainer/0",
        nonce=FIELDS["nonce"],
        confirmation_jwk=ear.confirmation_jwk(holder.public_key()),
        binding=ear.Binding.KEY,
        token_id="0123456789abcdef",  # noqa: S106 - an identifier
        now=NOW,
    )
    checks: dict[str, Any] = {
        "keys": {ear.key_id(cas.public_key()): cas.public_key()},
        "issuer": "cas",
        "audience": "cas",
        "nonce": FIELDS["nonce"],
        "now": NOW,
    }
    claims = ear.check_insecure_simulation(token, **checks)
    assert claims.confirmation_jwk == ear.confirmation_jwk(holder.public_key())
    with pytest.raises(SimulationRefusedError, match="only hardware counts"):
        ear.check(token, **checks)


@pytest.mark.parametrize(
    "seen_by_the_cas",
    [
        {"nonce": bytes([1]) * 32},  # an older challenge: replayed
        {"cas_spki": b"another CAS".ljust(91, b".")},  # relayed
        {"role": Role.CAS},  # reflected
        {"tls_spki": b"a man in the middle".ljust(91, b".")},
        {"hpke_public_key": bytes([6]) * 1216},
        {"manifest_hash": bytes([8]) * 32},
        {"exporter": bytes([7]) * 32},  # another connection
    ],
    ids=lambda change: next(iter(change)),
)
def test_evidence_when_replayed_relayed_or_for_other_keys_then_refused(
    platform: Path, run: Run, seen_by_the_cas: dict[str, Any]
) -> None:
    with pytest.raises(BindingError, match="not the digest of this nonce"):
        run(attest(platform), **seen_by_the_cas)


def test_workload_when_its_code_is_another_then_refused_with_both_registers(platform: Path, run: Run) -> None:
    for code in ({"code": bytes(32)}, {}, {"data": bytes(range(32))}):
        with pytest.raises(MeasurementError, match=f"rtmr3 is {code_register(code).hex()}"):
            run(attest(platform, code))


def test_workload_when_its_software_is_another_then_refused(
    platform: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("securetf.attester.insecure_simulation.software_measurement", lambda: bytes([4]) * 48)
    with pytest.raises(MeasurementError, match=f"mr_td is {'04' * 48}"):
        run(attest(platform))


def test_evidence_when_of_another_simulated_platform_then_refused(tmp_path: Path, run: Run) -> None:
    create_platform(tmp_path / "other", NOW)
    with pytest.raises(SignatureError, match="not a trust anchor"):
        run(attest(tmp_path / "other"))
