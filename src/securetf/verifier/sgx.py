"""Verifier of Intel SGX quotes v3 (DCAP, ECDSA P-256), offline, under pinned roots.

Framing, the chain of trust of DCAP (`dcap`), the attributes of the enclave and the binding, in the steps of
docs/platforms.md, "Intel SGX".
"""

from datetime import datetime

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements import TrustAnchors
from securetf.errors import SimulationRefusedError, UnsupportedPlatformError
from securetf.evidence import sgx
from securetf.verifier import dcap, sgx_configuration, sgx_levels
from securetf.verifier.dcap import EndorsementsFor
from securetf.verifier.dcap_rules import Rules
from securetf.verifier.known import Known
from securetf.verifier.steps import check_report_data, step

_REGISTERS = ("mr_enclave", "mr_signer", "config_id", "isv_ext_prod_id", "isv_family_id")
_NUMBERS = ("isv_prod_id", "isv_svn", "config_svn")


class SgxVerifier:
    """Verifies hardware SGX; never accepts a simulation's root."""

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
                "the verifier of hardware SGX was given a development root",
                "use TrustAnchors.intel(), or the verifier named insecure_simulation",
            )
        self._anchors, self._endorsements_for = anchors, endorsements_for
        self._minimum_tcb_evaluation, self._known = minimum_tcb_evaluation, Known()

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        """As `Verifier.verify`."""
        if evidence.platform is not Platform.SGX:
            raise UnsupportedPlatformError(
                f"{evidence.platform.value} Evidence was given to the verifier of sgx",
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
        quote = sgx.parse(raw)
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
        platform=Platform.SGX,
        registers={name: getattr(quote.body, name) for name in _REGISTERS},
        report_data=quote.body.report_data,
        tcb_status=facts.tcb_status,
        advisories=facts.advisories,
        tcb_evaluation_number=facts.tcb_evaluation,
        platform_id=facts.ppid,
        valid_until=facts.valid_until,
        simulated=anchors.development,
        properties={
            **{name: getattr(quote.body, name) for name in _NUMBERS},
            "attributes": quote.body.attributes.hex(),
            "misc_select": quote.body.misc_select.hex(),
        },
    )


def _rules(quote: sgx.SgxQuote) -> Rules:
    return Rules(
        quote=quote,
        canonical=sgx.encode(quote),
        signed=sgx.signed_bytes(quote),
        tcb_info_id="SGX",
        qe_identity_id="QE",
        check_platform=sgx_levels.check_platform,
        check_module=lambda _: None,
        check_configuration=lambda: sgx_configuration.check(quote.body),
    )
