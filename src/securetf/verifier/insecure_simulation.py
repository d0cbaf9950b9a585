"""INSECURE SIMULATION: the production TDX verification under a development root."""

from datetime import datetime

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements import Endorsements, TrustAnchors
from securetf.errors import SimulationRefusedError, UnsupportedPlatformError
from securetf.verifier import Verifier, tdx
from securetf.verifier.known import Known


def verifier(anchors: TrustAnchors, endorsements: Endorsements) -> Verifier:
    """Return a verifier for `Platform.INSECURE_SIMULATION`; its claims have `simulated=True`.

    anchors: `TrustAnchors.insecure_simulation`. endorsements: the simulated platform's current collateral.

    Raises:
        SimulationRefusedError: the anchors are not development roots.
    """
    if not anchors.development:
        raise SimulationRefusedError(
            "the simulation's verifier was given trust anchors of hardware",
            "give it the root.pem of a simulated platform",
        )
    return _InsecureSimulationVerifier(anchors, endorsements)


class _InsecureSimulationVerifier:
    def __init__(self, anchors: TrustAnchors, endorsements: Endorsements) -> None:
        self._anchors, self._endorsements, self._known = anchors, endorsements, Known()

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        if evidence.platform is not Platform.INSECURE_SIMULATION:
            raise UnsupportedPlatformError(
                f"{evidence.platform.value} Evidence was given to the verifier of the simulation",
                "configure a verifier for that platform",
            )
        return tdx.authenticate(
            evidence.raw,
            anchors=self._anchors,
            endorsements_for=lambda _: self._endorsements,
            expected_report_data=expected_report_data,
            minimum_tcb_evaluation=0,
            now=now,
            known=self._known,
        )
