"""The registry, and the line between hardware and simulation."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from securetf.attester.development_pki import COLLATERAL_LIFETIME
from securetf.claims import Evidence, Platform
from securetf.endorsements import TrustAnchors
from securetf.errors import SignatureError, SimulationRefusedError, UnsupportedPlatformError
from securetf.verifier import insecure_simulation, verify
from securetf.verifier.tdx import TdxVerifier


@pytest.fixture
def hardware(kit: Any) -> TdxVerifier:
    """A verifier as a production CAS has it, with collateral that the simulation's host offers."""
    return TdxVerifier(TrustAnchors.intel(), lambda _: kit.endorsements, minimum_tcb_evaluation=0)


def test_verify_simulated_quote_under_its_own_root_then_claims_say_simulated(kit: Any, now: Any) -> None:
    verifiers = {Platform.INSECURE_SIMULATION: insecure_simulation.verifier(kit.anchors, kit.endorsements)}
    claims = verify(kit.evidence(), verifiers=verifiers, expected_report_data=bytes(range(64)), now=now)
    assert claims.simulated
    assert claims.platform is Platform.INSECURE_SIMULATION
    assert claims.registers["mr_td"] == kit.body().mr_td
    assert claims.registers["rtmr3"] == kit.body().rtmr3
    assert claims.report_data == bytes(range(64))
    assert (claims.tcb_status, claims.advisories, claims.tcb_evaluation_number) == ("UpToDate", (), 18)
    assert claims.platform_id == bytes(range(16))
    assert claims.valid_until == now + COLLATERAL_LIFETIME


def test_verify_when_no_simulation_verifier_is_configured_then_refused_as_simulation(
    kit: Any, now: Any, hardware: TdxVerifier
) -> None:
    with pytest.raises(SimulationRefusedError, match="only hardware counts"):
        verify(kit.evidence(), verifiers={Platform.TDX: hardware}, expected_report_data=bytes(64), now=now)


def test_verify_when_simulated_bytes_are_relabelled_tdx_then_refused_for_the_root(
    kit: Any, now: Any, hardware: TdxVerifier
) -> None:
    evidence = Evidence(Platform.TDX, kit.evidence().raw)
    with pytest.raises(SignatureError, match=r"INSECURE SIMULATION Root CA.*not a trust anchor"):
        verify(
            evidence,
            verifiers={Platform.TDX: hardware},
            expected_report_data=bytes(range(64)),
            now=now,
        )


def test_verify_when_no_verifier_for_the_platform_then_unsupported(kit: Any, now: Any) -> None:
    evidence = Evidence(Platform.TDX, kit.evidence().raw)
    with pytest.raises(UnsupportedPlatformError, match="no verifier for tdx"):
        verify(evidence, verifiers={}, expected_report_data=bytes(64), now=now)


def test_hardware_verifier_when_given_a_development_root_then_refused(kit: Any) -> None:
    with pytest.raises(SimulationRefusedError, match="development root"):
        TdxVerifier(kit.anchors, lambda _: kit.endorsements, minimum_tcb_evaluation=0)


def test_simulation_verifier_when_given_hardware_anchors_then_refused(kit: Any) -> None:
    with pytest.raises(SimulationRefusedError, match="anchors of hardware"):
        insecure_simulation.verifier(TrustAnchors.intel(), kit.endorsements)
    with pytest.raises(SimulationRefusedError, match="anchors of hardware"):
        insecure_simulation.verifier(replace(kit.anchors, development=False), kit.endorsements)


def test_each_verifier_when_given_the_other_platform_then_unsupported(
    kit: Any, now: Any, hardware: TdxVerifier
) -> None:
    evidence = kit.evidence()
    with pytest.raises(UnsupportedPlatformError, match="verifier of tdx"):
        hardware.verify(evidence, expected_report_data=bytes(64), now=now)
    simulation = insecure_simulation.verifier(kit.anchors, kit.endorsements)
    with pytest.raises(UnsupportedPlatformError, match="verifier of the simulation"):
        simulation.verify(Evidence(Platform.TDX, evidence.raw), expected_report_data=bytes(64), now=now)


def test_simulation_verifier_when_root_is_of_another_simulation_then_refused_for_the_root(
    kit: Any, now: Any, make_kit: Callable[[], Any]
) -> None:
    other = make_kit()
    verifier = insecure_simulation.verifier(other.anchors, kit.endorsements)
    with pytest.raises(SignatureError, match="not a trust anchor"):
        verifier.verify(kit.evidence(), expected_report_data=bytes(range(64)), now=now)


def test_claims_when_a_certificate_expires_before_the_collateral_then_valid_until_is_the_earliest(
    kit: Any, now: Any
) -> None:
    qe = {"nextUpdate": (now + timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")}
    assert kit.verify(endorsements=kit.endorse(qe=qe)).valid_until == now + timedelta(days=3)


def test_quote_v5_and_padding_when_genuine_then_accepted(kit: Any) -> None:
    svn = kit.body().tee_tcb_svn
    assert kit.verify(kit.quote(version=5)).simulated
    assert kit.verify(kit.quote(version=5, tee_tcb_svn2=svn, mr_service_td=bytes(48))).simulated
    assert kit.verify(kit.quote() + bytes(3065)).simulated
