"""Verifier of Intel TDX quotes v4 and v5 (ECDSA P-256), offline, under pinned roots."""

from collections.abc import Callable
from datetime import datetime

from securetf.claims import Evidence, VerifiedClaims
from securetf.endorsements import Endorsements, TrustAnchors


class TdxVerifier:
    """Verifies hardware TDX. `endorsements_for` maps an FMSPC (12 hex digits, upper case) to collateral or None."""

    def __init__(
        self,
        anchors: TrustAnchors,
        endorsements_for: Callable[[str], Endorsements | None],
        *,
        minimum_tcb_evaluation: int,
    ) -> None:
        raise NotImplementedError

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        """As `Verifier.verify`."""
        raise NotImplementedError
