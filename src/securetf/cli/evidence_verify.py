"""Runs the verifier and the appraisal that a piece of Evidence needs, and says what each check gave."""

import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from securetf.appraisal import appraise
from securetf.claims import Evidence, Platform, VerifiedClaims, code_register
from securetf.cli import evidence_tpm
from securetf.cli.evidence_kinds import detect
from securetf.endorsements import Endorsements, TrustAnchors
from securetf.endorsements.sev_snp import SnpAnchors, SnpEndorsements
from securetf.errors import (
    EndorsementError,
    EvidenceError,
    ManifestSyntaxError,
    PlatformNotAllowedError,
    SecuretfError,
    UnsupportedPlatformError,
    UsageError,
)
from securetf.evidence import tdx, tdx_event_log
from securetf.evidence.azure_vtpm import SNP, TDX
from securetf.manifest.convert import struct
from securetf.manifest.types import POLICIES
from securetf.verifier import Verifier, azure_vtpm, dcap, insecure_simulation, sev_snp
from securetf.verifier.sgx import SgxVerifier
from securetf.verifier.steps import step
from securetf.verifier.tdx import TdxVerifier

PASSED, REFUSED, OPEN, NOT_ASKED = "passed", "REFUSED", "not reached", "not asked for"
_STEPS = {
    Platform.TDX: dcap.STEPS,
    Platform.SGX: dcap.STEPS,
    Platform.SEV_SNP: sev_snp.STEPS,
    Platform.AZURE_VTPM: azure_vtpm.STEPS,
    **evidence_tpm.STEPS,
}
_HARDWARE = 2  # step of Azure's verifier
_EVENT_LOG = "event log replays to RTMR 0 to 3, the firmware's to RTMR 0 to 2"
_REVOCATION = sev_snp.STEPS.index("revocation list of the ARK") + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to verify, with everything that it needs as bytes.

    report_data: 64 bytes. policy: TOML with `[appraisal.<platform>]`. rtmr3: 48 bytes, None: no code was
    measured. event_log: of TDX, JSON. simulation_root: PEM, None: hardware only. nonce: as given, 1 to 64
    bytes. roots: PEM files that count beside the built-in ones, for Nitro and TPMs.
    """

    raw: bytes
    report_data: bytes
    endorsements: Sequence[bytes]
    policy: bytes | None
    rtmr3: bytes | None
    event_log: bytes | None
    now: datetime
    minimum_tcb_evaluation: int
    simulation_root: bytes | None
    no_revocation: bool
    nonce: bytes
    roots: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One step and what came out of it."""

    number: int
    name: str
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came out. claims: None unless authentic. error: None if everything holds that was asked for."""

    platform: Platform
    now: datetime
    checks: Sequence[Check]
    claims: VerifiedClaims | None
    error: SecuretfError | None

    def claim_values(self) -> dict[str, Any]:
        """Return the claims by name, bytes in hex; empty unless authentic."""
        claims = self.claims
        if claims is None:
            return {}
        return {
            "platform_id": claims.platform_id.hex(),
            "simulated": claims.simulated,
            "tcb_status": claims.tcb_status,
            "advisories": list(claims.advisories),
            "tcb_evaluation_number": claims.tcb_evaluation_number,
            "valid_until": claims.valid_until.isoformat(),
            "report_data": claims.report_data.hex(),
            **{name: value.hex() for name, value in claims.registers.items()},
            **claims.properties,
        }

    def to_builtins(self) -> dict[str, Any]:
        """Return the JSON form."""
        error = self.error
        return {
            "platform": self.platform.value,
            "at": self.now.isoformat(),
            "authentic": self.claims is not None,
            "accepted": error is None and self.checks[-1].result == PASSED,
            "checks": [
                {"number": check.number, "name": check.name, "result": check.result} for check in self.checks
            ],
            "error": None if error is None else _error(error),
            "claims": self.claim_values(),
        }


def _error(error: SecuretfError) -> dict[str, Any]:
    return {"code": error.code, "problem": error.problem, "fix": error.fix, "exit_code": error.exit_code}


def judge(request: Request) -> Verdict:
    """Verify and, with a policy, appraise.

    Raises:
        MalformedEvidenceError: the file begins no known kind. ManifestError: the policy cannot be read.
        EndorsementError: the endorsements cannot be read.
    """
    platform = detect(request.raw)
    policy = None if request.policy is None else _policy(request, platform)
    run = _verifier(request, platform)
    claims, error = None, None
    try:
        with warnings.catch_warnings():  # AMD's certificates have serial number 0
            warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't positive")
            warnings.filterwarnings("ignore", message="Attribute's length must be")  # Google's issuers
            claims = run(expected_report_data=request.report_data, now=request.now)
        _check_event_log(request, platform)
    except EvidenceError as refused:
        return Verdict(
            platform=platform,
            now=request.now,
            checks=_checks(request, platform, refused),
            claims=None,
            error=refused,
        )
    result = NOT_ASKED
    if request.policy is not None:
        rtmr3 = code_register({}) if request.rtmr3 is None else request.rtmr3
        try:
            appraise(claims, policy=policy, rtmr3=rtmr3, now=request.now)
            result = PASSED
        except SecuretfError as refused:
            error, result = refused, REFUSED
    return Verdict(
        platform=claims.platform,
        now=request.now,
        checks=_checks(request, platform, None, result),
        claims=claims,
        error=error,
    )


def _check_event_log(request: Request, platform: Platform) -> None:
    if request.event_log is None:
        return
    with step(len(_STEPS[platform]) + 1):
        if platform is not Platform.TDX:
            raise UnsupportedPlatformError("only TDX has an event log of this kind", "leave --event-log out")
        body = tdx.parse(request.raw).body
        if tdx_event_log.is_firmware_log(request.event_log):
            events = tdx_event_log.parse_firmware_log(request.event_log)
            tdx_event_log.check(events, body, tdx_event_log.FIRMWARE_REGISTERS)
        else:
            tdx_event_log.check(tdx_event_log.parse(request.event_log), body)


def _checks(
    request: Request, platform: Platform, refused: EvidenceError | None, appraisal: str = OPEN
) -> list[Check]:
    checks = []
    names = _STEPS[platform] if request.event_log is None else (*_STEPS[platform], _EVENT_LOG)
    for number, name in enumerate(names, start=1):
        result = PASSED
        if refused is not None and number >= max(refused.step, 1):
            result = REFUSED if number == max(refused.step, 1) else OPEN
        elif platform is Platform.SEV_SNP and number == _REVOCATION and request.no_revocation:
            result = "NOT CHECKED (--insecure-no-revocation)"
        elif platform is Platform.AZURE_VTPM and number == _HARDWARE and request.no_revocation:
            result = "passed, revocation NOT CHECKED (--insecure-no-revocation)"
        checks.append(Check(number=number, name=name, result=result))
    checks.append(
        Check(number=len(checks) + 1, name="appraisal: policy and Reference Values", result=appraisal)
    )
    return checks


def _verifier(request: Request, platform: Platform) -> Any:
    """Return what verifies, given the expected report data and the time."""
    if platform is not Platform.TDX and request.simulation_root is not None:
        raise UsageError(
            f"there is no simulation of {platform.value}", "leave --insecure-simulation-root out"
        )
    if platform is Platform.AZURE_VTPM:
        return partial(_verify_azure, request)
    if platform in evidence_tpm.STEPS:
        tpm = evidence_tpm.TpmRequest(
            raw=request.raw,
            nonce=request.nonce,
            roots=request.roots,
            enrolments=request.endorsements,
            now=request.now,
        )
        return lambda **_: evidence_tpm.verify(tpm, platform)
    return _verify_cpu(request, platform, request.raw)


def _verify_azure(request: Request, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
    """Verify with the hardware's verifiers, which get the same endorsements."""
    snp = (azure_vtpm.snp_evidence, _Hardware(request, Platform.SEV_SNP))
    tdx = (azure_vtpm.tdx_evidence, _Hardware(request, Platform.TDX))
    return azure_vtpm.AzureVtpmVerifier({SNP: snp, TDX: tdx}).authenticate(
        request.raw,
        expected_extra_data=evidence_tpm.expected_extra_data(request.nonce),
        report_data=expected_report_data,
        now=now,
    )


@dataclass(frozen=True, slots=True)
class _Hardware(Verifier):
    """Verifies the hardware part of Azure Evidence as a file of its own would be."""

    request: Request
    platform: Platform

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        run = _verify_cpu(self.request, self.platform, evidence.raw)
        claims: VerifiedClaims = run(expected_report_data=expected_report_data, now=now)
        return claims


def _verify_cpu(request: Request, platform: Platform, raw: bytes) -> Any:
    """Return what verifies SEV-SNP, TDX and SGX."""
    if platform is Platform.SEV_SNP:
        authenticate = sev_snp.authenticate
        if request.no_revocation:
            authenticate = sev_snp.authenticate_without_revocation
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't positive")
            known = SnpEndorsements.of(request.endorsements)
        return partial(authenticate, raw, anchors=SnpAnchors.amd(), endorsements_for=lambda _: known)
    if len(request.endorsements) > 1:
        raise EndorsementError(
            f"{len(request.endorsements)} files were given, TDX and SGX need one",
            "give the collateral of this platform as one JSON file",
        )
    collateral = Endorsements.from_json(request.endorsements[0]) if request.endorsements else None
    if request.simulation_root is not None:
        if platform is not Platform.TDX or collateral is None:
            raise UnsupportedPlatformError(
                "a simulation makes TDX quotes, and its collateral is needed",
                "give both files of the simulation",
            )
        verifier = insecure_simulation.verifier(
            TrustAnchors.insecure_simulation(request.simulation_root), collateral
        )
        return partial(verifier.verify, Evidence(Platform.INSECURE_SIMULATION, raw))
    kind = SgxVerifier if platform is Platform.SGX else TdxVerifier
    hardware = kind(
        TrustAnchors.intel(), lambda _: collateral, minimum_tcb_evaluation=request.minimum_tcb_evaluation
    )
    return partial(hardware.verify, Evidence(platform, raw))


def _policy(request: Request, platform: Platform) -> Any:
    name = platform.value if request.simulation_root is None else Platform.INSECURE_SIMULATION.value
    try:
        tree: Mapping[str, Any] = tomllib.loads((request.policy or b"").decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ManifestSyntaxError(f"the policy is not TOML: {error}", "correct the file") from None
    appraisal = tree.get("appraisal")
    if not isinstance(appraisal, dict) or name not in appraisal:
        raise PlatformNotAllowedError(
            f"the policy has no `[appraisal.{name}]`", "add Reference Values for this platform"
        )
    if name not in POLICIES:
        raise PlatformNotAllowedError(
            f"`[appraisal.{name}]` cannot be compared in this release", "leave --policy out, read the claims"
        )
    return struct(appraisal[name], POLICIES[name], ("appraisal", name))
