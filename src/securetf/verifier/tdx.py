"""Verifier of Intel TDX quotes v4 and v5 (ECDSA P-256), offline, under pinned roots.

The chain of trust of DCAP (docs/platforms.md, "Intel TDX", same numbers) is verified by dcap-qvl behind
our strict parser; what it leaves open is checked here. When it refuses, `tdx_diagnosis` names the part.
"""

import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import dcap_qvl
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements import Endorsements, TrustAnchors
from securetf.endorsements.dcap import strict_json
from securetf.errors import (
    BindingError,
    EndorsementError,
    EvidenceError,
    SimulationRefusedError,
    TcbError,
    UnsupportedPlatformError,
)
from securetf.evidence import tdx
from securetf.verifier import pck, tdx_configuration, tdx_diagnosis, tdx_levels
from securetf.verifier.known import Known

EndorsementsFor = Callable[[str], Endorsements | None]
_COLLATERAL = tuple(entry.name for entry in fields(Endorsements))
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
    known = known or Known()
    # 1. Framing: exact bytes; from here on only the canonical ones.
    quote = tdx.parse(raw)
    canonical = tdx.encode(quote)
    # 2. PCK chain: three certificates, self-signed root with a pinned key.
    chain = known.parse_chain(quote.pck_chain, anchors)
    # 3. Collateral of this platform; its signers are Intel's TCB signer, not a PCK.
    endorsements = endorsements_for(chain.fmspc)
    if endorsements is None:
        raise EndorsementError(
            f"no collateral for the platform with FMSPC {chain.fmspc}",
            "fetch the collateral of this platform and give it to the verifier",
        )
    known.check_signer_chain("TCB info", endorsements.tcb_info_issuer_chain, anchors)
    if endorsements.qe_identity_issuer_chain != endorsements.tcb_info_issuer_chain:
        known.check_signer_chain("QE identity", endorsements.qe_identity_issuer_chain, anchors)
    # 4. Signatures, certificates, revocation, windows, QE, TCB level: dcap-qvl.
    facts = _verify_signatures(quote, canonical, chain, endorsements, now)
    # 5. What dcap-qvl leaves open about the collateral.
    _check_collateral(facts, quote, endorsements, minimum_tcb_evaluation)
    # 6. Configuration of the TD.
    tdx_configuration.check(quote.body)
    # 7. Binding: nonce, keys, CAS and Manifest, in one digest.
    if not hmac.compare_digest(quote.body.report_data, expected_report_data):
        raise BindingError(
            "the quote's report data is not the digest of this nonce, these keys and this CAS",
            "attest again with a new challenge; if it persists, something relays between you and the CAS",
        )
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What dcap-qvl authenticated."""

    tcb_status: str
    advisories: tuple[str, ...]
    tcb_evaluation: int
    qe_evaluation: int
    ppid: bytes
    pce_id: bytes
    latest_issue: datetime
    valid_until: datetime


def _verify_signatures(
    quote: tdx.TdxQuote, canonical: bytes, chain: pck.Chain, endorsements: Endorsements, now: datetime
) -> _Facts:
    seconds = int(now.timestamp())
    root = chain.root.public_bytes(Encoding.DER)
    try:
        collateral = dcap_qvl.QuoteCollateralV3(**{name: getattr(endorsements, name) for name in _COLLATERAL})
        claims = dcap_qvl.QuoteVerifier(root).verify_with_policy(
            canonical, collateral, seconds, dcap_qvl.QuotePolicy.claims_only(seconds)
        )
    except ValueError as error:
        tdx_diagnosis.explain(quote, chain, endorsements, now, str(error))
    facts = _read_facts(json.loads(claims.to_json()))
    if facts.latest_issue > now:  # dcap-qvl does not look at the date of a CRL
        tdx_diagnosis.explain(quote, chain, endorsements, now, "collateral is issued in the future")
    return facts


def _read_facts(claims: Mapping[str, Any]) -> _Facts:
    try:
        tcb, platform = claims["tcb"], claims["platform"]["pck"]
        return _Facts(
            tcb_status=str(tcb["status"]),
            advisories=tuple(str(advisory) for advisory in tcb["advisory_ids"]),
            tcb_evaluation=int(tcb["eval_data_number"]),
            qe_evaluation=int(claims["qe"]["tcb_eval_data_number"]),
            ppid=bytes(platform["ppid"]),
            pce_id=bytes(platform["pce_id"]),
            latest_issue=datetime.fromtimestamp(
                max(claims["latest_issue_date"], claims["qe_iden_latest_issue_date"]), UTC
            ),
            valid_until=datetime.fromtimestamp(
                min(claims["earliest_expiration_date"], claims["qe_iden_earliest_expiration_date"]), UTC
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EvidenceError(
            f"dcap-qvl answered in a form that this release does not know: {error!r}",
            "install the dcap-qvl release that securetf names",
        ) from None


def _check_collateral(
    facts: _Facts, quote: tdx.TdxQuote, endorsements: Endorsements, minimum_tcb_evaluation: int
) -> None:
    tcb_info = strict_json(endorsements.tcb_info, "TCB info")  # authentic by now
    if str(tcb_info["pceId"]).lower() != facts.pce_id.hex():
        raise EndorsementError(
            f"TCB info is for PCE {tcb_info['pceId']}, the platform has {facts.pce_id.hex()}",
            "fetch the collateral of this platform",
        )
    tdx_levels.check_module(quote.body, tcb_info)
    if facts.tcb_evaluation != facts.qe_evaluation:
        raise EndorsementError(
            f"TCB info has evaluation number {facts.tcb_evaluation}, QE identity {facts.qe_evaluation}",
            "fetch TCB info and QE identity of one TCB recovery",
        )
    if facts.tcb_evaluation < minimum_tcb_evaluation:
        raise EndorsementError(
            f"collateral has tcbEvaluationDataNumber {facts.tcb_evaluation}, "
            f"expected at least {minimum_tcb_evaluation}",
            "fetch the current collateral (update=standard) of this platform",
        )
    if facts.tcb_status == "Revoked":
        raise TcbError("the platform's TCB is Revoked", "do not use this machine")
