"""Verifier of Intel TDX quotes v4 and v5 (ECDSA P-256), offline, under pinned roots.

Framing, the chain of trust of DCAP (`dcap`), the configuration of the TD and the binding, in the steps of
docs/platforms.md, "Intel TDX".
"""

from collections.abc import Sequence
from datetime import datetime

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements import TrustAnchors
from securetf.errors import SimulationRefusedError, UnsupportedPlatformError
from securetf.evidence import tdx
from securetf.verifier import dcap, tdx_configuration, tdx_levels
from securetf.verifier.dcap import EndorsementsFor
from securetf.verifier.dcap_levels import Document
from securetf.verifier.dcap_rules import Rules
from securetf.verifier.known import Known
from securetf.verifier.steps import check_report_data, step

_REGISTERS = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
_CONTEXT = ("mr_seam", "mr_config_id", "mr_owner", "mr_owner_config")


class TdxVerifier:
    """Verifies hardware TDX; never accepts a simulation's root."""

    def __init__(
        self, anchors: TrustAnchors, endorsements_for: EndorsementsFor, *, minimum_tcb_evaluation: int
    ) -> None:
        """Configure the verifier.

        anchors: `TrustAnchors.intel()`. endorsements_for: FMSPC (12 hex digits, upper case) to collateral,
        None when there is none. minimum_tcb_evaluation: the lowest tcbEvaluationDataNumber that counts;
        without a floor a host picks the collateral that is kindest to it.

        Raises:
            SimulationRefusedError: the anchors are development roots.
        """
        if anchors.development:
            raise SimulationRefusedError(
                "the verifier of hardware TDX was given a development root",
                "use TrustAnchors.intel(), or the verifier named insecure_simulation",
            )
        self._anchors, self._endorsements_for = anchors, endorsements_for
        self._minimum_tcb_evaluation, self._known = minimum_tcb_evaluation, Known()

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        """As `Verifier.verify`."""
        if evidence.platform is not Platform.TDX:
            raise UnsupportedPlatformError(
                f"{evidence.platform.value} Evidence was given to the verifier of tdx",
                "configure a verifier for that platform",
            )
        return authenticate(
            evidence.raw,
            anchors=self._anchors,
            endorsements_for=self._endorsements_for,
            expected_report_data=expected_report_data,
            minimum_tcb_evaluation=self._minimum_tcb_evaluation,
            now=now,
            known=self._known,
        )


def authenticate(
    raw: bytes,
    *,
    anchors: TrustAnchors,
    endorsements_for: EndorsementsFor,
    expected_report_data: bytes,
    minimum_tcb_evaluation: int,
    now: datetime,
    known: Known | None = None,
) -> VerifiedClaims:
    """Verify one quote. The claims say `simulated` exactly when `anchors` are development roots.

    known: what the caller keeps from one quote to the next; it changes the time this takes and nothing else.

    Raises:
        EvidenceError: the exact subclass names the leg that failed.
    """
    with step(1):  # Framing: exact bytes; from here on only the canonical ones.
        quote = tdx.parse(raw)
    # 2. to 6. Chain of trust, collateral, TCB, configuration.
    facts = dcap.authenticate(
        _rules(quote),
        anchors=anchors,
        endorsements_for=endorsements_for,
        minimum_tcb_evaluation=minimum_tcb_evaluation,
        now=now,
        known=known or Known(),
    )
    with step(7):  # Binding: nonce, keys, CAS and Manifest, in one digest.
        check_report_data(quote.body.report_data, expected_report_data)
    return VerifiedClaims(
        platform=Platform.INSECURE_SIMULATION if anchors.development else Platform.TDX,
        registers={name: getattr(quote.body, name) for name in (*_REGISTERS, *_CONTEXT)},
        report_data=quote.body.report_data,
        tcb_status=facts.tcb_status,
        advisories=facts.advisories,
        tcb_evaluation_number=facts.tcb_evaluation,
        platform_id=facts.ppid,
        valid_until=facts.valid_until,
        simulated=anchors.development,
    )


def _rules(quote: tdx.TdxQuote) -> Rules:
    def check_platform(cpu_svn: Sequence[int], pce_svn: int, tcb_info: Document) -> None:
        for svn in (quote.body.tee_tcb_svn, quote.body.tee_tcb_svn2):
            if svn is not None:  # the second is that of the running module, in a TD report 1.5
                tdx_levels.check_platform(svn, cpu_svn, pce_svn, tcb_info)

    return Rules(
        quote=quote,
        canonical=tdx.encode(quote),
        signed=tdx.signed_bytes(quote),
        tcb_info_id="TDX",
        qe_identity_id="TD_QE",
        check_platform=check_platform,
        check_module=lambda tcb_info: tdx_levels.check_module(quote.body, tcb_info),
        check_configuration=lambda: tdx_configuration.check(quote.body),
    )
