"""The chain of trust of a DCAP quote (SGX v3, TDX v4 and v5), offline, under pinned roots.

It is verified by dcap-qvl behind our strict parser; what that leaves open is checked here. When it refuses,
`dcap_diagnosis` names the part. Numbers are those of docs/platforms.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import dcap_qvl
import msgspec

from securetf.endorsements import Endorsements, TrustAnchors
from securetf.errors import EndorsementError, EvidenceError, TcbError
from securetf.verifier import dcap_diagnosis, dcap_levels, pck
from securetf.verifier.dcap_rules import Rules
from securetf.verifier.known import Known
from securetf.verifier.steps import step

STEPS = (
    "framing: exact bytes, known version, declared lengths",
    "PCK certificate chain: three certificates, root with a pinned key",
    "collateral of this platform, by its TCB signer",
    "signatures, certificates, revocation, validity, quoting enclave, TCB level",
    "collateral of one TCB recovery, at least the lowest that counts",
    "configuration of the TEE",
    "binding: report data",
)
EndorsementsFor = Callable[[str], Endorsements | None]


def authenticate(
    rules: Rules,
    *,
    anchors: TrustAnchors,
    endorsements_for: EndorsementsFor,
    minimum_tcb_evaluation: int,
    now: datetime,
    known: Known,
) -> "Facts":
    """Verify steps 2 to 6 of a parsed quote: signatures, chain, collateral, TCB, configuration. Not the
    binding.

    Raises:
        EvidenceError: the exact subclass names the leg that failed.
    """
    with step(2):  # PCK chain: three certificates, self-signed root with a pinned key.
        chain = known.parse_chain(rules.quote.pck_chain, anchors)
    with step(3):  # Collateral of this platform; its signers are Intel's TCB signer, not a PCK.
        endorsements = _collateral(chain, anchors, endorsements_for, known)
    with step(4):  # Signatures, certificates, revocation, windows, QE, TCB level: dcap-qvl.
        facts = _verify_signatures(rules, chain, endorsements, now, known)
    with step(5):  # What dcap-qvl leaves open about the collateral.
        _check_collateral(facts, rules, endorsements, minimum_tcb_evaluation, known)
    with step(6):  # Configuration of the TEE.
        rules.check_configuration()
    return facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What dcap-qvl authenticated. Status and advisories are the vendor's; ppid: 16 bytes."""

    tcb_status: str
    advisories: tuple[str, ...]
    tcb_evaluation: int
    ppid: bytes
    pce_id: bytes
    latest_issue: datetime
    valid_until: datetime


def _collateral(
    chain: pck.Chain, anchors: TrustAnchors, endorsements_for: EndorsementsFor, known: Known
) -> Endorsements:
    endorsements = endorsements_for(chain.fmspc)
    if endorsements is None:
        raise EndorsementError(
            f"no collateral for the platform with FMSPC {chain.fmspc}",
            "fetch the collateral of this platform and give it to the verifier",
        )
    known.check_signer_chain("TCB info", endorsements.tcb_info_issuer_chain, anchors)
    if endorsements.qe_identity_issuer_chain != endorsements.tcb_info_issuer_chain:
        known.check_signer_chain("QE identity", endorsements.qe_identity_issuer_chain, anchors)
    return endorsements


def _verify_signatures(
    rules: Rules, chain: pck.Chain, endorsements: Endorsements, now: datetime, known: Known
) -> Facts:
    seconds = int(now.timestamp())
    try:
        collateral = known.read_collateral(endorsements)
        claims = dcap_qvl.QuoteVerifier(chain.root_der).verify_with_policy(
            rules.canonical, collateral, seconds, dcap_qvl.QuotePolicy.claims_only(seconds)
        )
    except ValueError as error:
        dcap_diagnosis.explain(rules, chain, endorsements, now, str(error))
    facts = _read_facts(claims.to_json())
    if facts.latest_issue > now:  # dcap-qvl does not look at the date of a CRL
        dcap_diagnosis.explain(rules, chain, endorsements, now, "collateral is issued in the future")
    return facts


class _Tcb(msgspec.Struct):
    status: str
    advisory_ids: tuple[str, ...]
    eval_data_number: int


class _Pck(msgspec.Struct):
    ppid: list[int]
    pce_id: list[int]


class _Platform(msgspec.Struct):
    pck: _Pck


class _Claims(msgspec.Struct):
    """The part of dcap-qvl's claims that is used; times in seconds since 1970."""

    tcb: _Tcb
    platform: _Platform
    latest_issue_date: int
    qe_iden_latest_issue_date: int
    earliest_expiration_date: int
    qe_iden_earliest_expiration_date: int


_CLAIMS = msgspec.json.Decoder(_Claims)


def _read_facts(raw: str) -> Facts:
    try:
        claims = _CLAIMS.decode(raw)
        tcb, pck_ = claims.tcb, claims.platform.pck
        return Facts(
            tcb_status=tcb.status,
            advisories=tcb.advisory_ids,
            tcb_evaluation=tcb.eval_data_number,
            ppid=bytes(pck_.ppid),
            pce_id=bytes(pck_.pce_id),
            latest_issue=datetime.fromtimestamp(
                max(claims.latest_issue_date, claims.qe_iden_latest_issue_date), UTC
            ),
            valid_until=datetime.fromtimestamp(
                min(claims.earliest_expiration_date, claims.qe_iden_earliest_expiration_date), UTC
            ),
        )
    except (OverflowError, OSError, ValueError) as error:
        raise EvidenceError(
            f"dcap-qvl answered in a form that this release does not know: {error!r}",
            "install the dcap-qvl release that securetf names",
        ) from None


def _check_collateral(
    facts: Facts, rules: Rules, endorsements: Endorsements, minimum_tcb_evaluation: int, known: Known
) -> None:
    tcb_info = known.read_document(endorsements.tcb_info, "TCB info")  # authentic by now
    if str(tcb_info["pceId"]).lower() != facts.pce_id.hex():
        raise EndorsementError(
            f"TCB info is for PCE {tcb_info['pceId']}, the platform has {facts.pce_id.hex()}",
            "fetch the collateral of this platform",
        )
    rules.check_module(tcb_info)
    # dcap-qvl reports the lower of the two numbers.
    qe_identity = known.read_document(endorsements.qe_identity, "QE identity")
    dcap_levels.check_enclave_statuses("QE identity", qe_identity)
    numbers = tcb_info["tcbEvaluationDataNumber"], qe_identity["tcbEvaluationDataNumber"]
    if numbers[0] != numbers[1]:
        raise EndorsementError(
            f"TCB info has evaluation number {numbers[0]}, QE identity {numbers[1]}",
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
