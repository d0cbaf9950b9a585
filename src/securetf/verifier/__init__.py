"""Authenticates Evidence; only this package makes `VerifiedClaims`. Pure: no I/O, clock or randomness."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.errors import SimulationRefusedError, UnsupportedPlatformError


class Verifier(Protocol):
    """Authenticates the Evidence of one platform."""

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        """Return claims whose signatures, chain, collateral, configuration and binding hold.

        Raises:
            EvidenceError: the exact subclass names the leg that failed.
        """
        ...


def verify(
    evidence: Evidence, *, verifiers: Mapping[Platform, Verifier], expected_report_data: bytes, now: datetime
) -> VerifiedClaims:
    """Use the one verifier for this platform. `now` is timezone-aware UTC.

    Raises:
        SimulationRefusedError: simulated Evidence, and no simulation verifier is configured.
        UnsupportedPlatformError: no verifier for the platform.
        EvidenceError: whatever the verifier found.
    """
    verifier = verifiers.get(evidence.platform)
    if verifier is not None:
        return verifier.verify(evidence, expected_report_data=expected_report_data, now=now)
    if evidence.platform is Platform.INSECURE_SIMULATION:
        raise SimulationRefusedError(
            "simulated Evidence was presented, and only hardware counts here",
            "run the workload in a TEE; for a trial start the CAS with --insecure-simulation",
        )
    raise UnsupportedPlatformError(
        f"no verifier for {evidence.platform.value}",
        "configure this platform at the CAS, or reject the workload",
    )
