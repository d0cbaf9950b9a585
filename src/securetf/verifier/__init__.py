"""Authenticates Evidence; only this package makes `VerifiedClaims`. Pure: no I/O, clock or randomness."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from securetf.claims import EVIDENCE_SIZE_LIMITS, Evidence, Platform, VerifiedClaims
from securetf.errors import (
    BindingError,
    MalformedEvidenceError,
    SimulationRefusedError,
    UnsupportedPlatformError,
)
from securetf.evidence.binding import composite_report_data

BESIDE = frozenset({Platform.TPM2, Platform.GCP_VTPM})  # what may stand beside a TEE's Evidence


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
        UnsupportedPlatformError: no verifier for the platform. MalformedEvidenceError: too long,
        or composite. EvidenceError: whatever the verifier found.
    """
    limit = EVIDENCE_SIZE_LIMITS[evidence.platform]
    if len(evidence.raw) > limit:
        raise MalformedEvidenceError(
            f"{evidence.platform.value} Evidence has {len(evidence.raw)} bytes, at most {limit} are read",
            "send the Evidence alone",
        )
    if evidence.others:
        raise MalformedEvidenceError(
            "composite Evidence was given where one platform's is expected", "verify all of its parts"
        )
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


def verify_composite(
    evidence: Evidence, *, verifiers: Mapping[Platform, Verifier], expected_report_data: bytes, now: datetime
) -> tuple[VerifiedClaims, ...]:
    """Verify a machine's Evidence and that of the TPMs beside it; the machine's claims come first.

    The others carry `expected_report_data`, and the machine's TEE signed their very bytes together with it:
    all of them answered the same run of the same program.

    Raises:
        UnsupportedPlatformError: the first is no TEE's, or one of the others is no TPM's. BindingError: two
        of one platform, or the parts are not of one attestation. EvidenceError: as `verify`.
    """
    if not evidence.others:
        return (verify(evidence, verifiers=verifiers, expected_report_data=expected_report_data, now=now),)
    platforms = [one.platform for one in evidence.others]
    if evidence.platform in BESIDE or not BESIDE.issuperset(platforms):
        raise UnsupportedPlatformError(
            f"composite Evidence of {evidence.platform.value} with {', '.join(platforms)}",
            "give a TEE's Evidence first, and beside it only a TPM's",
        )
    if len(set(platforms)) != len(platforms):
        raise BindingError("composite Evidence names a platform twice", "give each once")
    covered = {one.platform.value: one.raw for one in evidence.others}
    machine = verify(
        Evidence(evidence.platform, evidence.raw),
        verifiers=verifiers,
        expected_report_data=composite_report_data(expected_report_data, covered),
        now=now,
    )
    return machine, *(
        verify(one, verifiers=verifiers, expected_report_data=expected_report_data, now=now)
        for one in evidence.others
    )
