"""The decision: claims, policy and Reference Values in, an AttestationResult or all mismatches out."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

import msgspec

from securetf.appraisal import azure, pcrs, sev_snp, sgx
from securetf.appraisal.comparison import Claims, Mismatch, machine, register, tcb_status
from securetf.claims import Platform, VerifiedClaims
from securetf.errors import (
    AppraisalError,
    MeasurementError,
    PlatformNotAllowedError,
    TcbNotAcceptedError,
)
from securetf.manifest.platforms import AzurePolicy, PcrPolicy, SgxPolicy, SnpPolicy

_FIXES: dict[type[AppraisalError], str] = {
    MeasurementError: "start the reviewed software and code, or accept these values in the Manifest",
    TcbNotAcceptedError: "update the machine, or name this status and each advisory under `tolerate`",
    PlatformNotAllowedError: "use a platform and a machine that the Manifest names, or name this one",
    AppraisalError: "attest again with current collateral",
}
_POLICIES = MappingProxyType(  # the others have TDX's registers
    {
        Platform.SGX: SgxPolicy,
        Platform.SEV_SNP: SnpPolicy,
        Platform.NITRO: PcrPolicy,
        Platform.TPM2: PcrPolicy,
        Platform.GCP_VTPM: PcrPolicy,
        Platform.AZURE_VTPM: AzurePolicy,
    }
)
_GOOD = {"UpToDate", "Committed"}  # TCB statuses that leave nothing to be desired
_RTMRS = ("rtmr0", "rtmr1", "rtmr2")

# AR4SI trustworthiness claims (draft-ietf-rats-ar4si, section 2.3)
_AFFIRMING, _WARNING, _CONTRAINDICATED, _UNRECOGNISED = 2, 32, 96, 97
_TIERS = ((96, "contraindicated"), (32, "warning"), (2, "affirming"))


class Policy(Protocol):
    """What an owner accepts of one platform (`[appraisal.<platform>]` of a Manifest).

    mr_td, rtmr0 to rtmr2: accepted values, 96 hex digits; None for an RTMR means that it is not appraised, an
    empty list accepts nothing. tcb: accepted TCB statuses. tolerate: further statuses, and each advisory that
    may apply to the machine. platform_ids: accepted machines in hex; empty means any machine.
    """

    @property
    def mr_td(self) -> Sequence[str]: ...
    @property
    def rtmr0(self) -> Sequence[str] | None: ...
    @property
    def rtmr1(self) -> Sequence[str] | None: ...
    @property
    def rtmr2(self) -> Sequence[str] | None: ...
    @property
    def tcb(self) -> Sequence[str]: ...
    @property
    def tolerate(self) -> Sequence[str]: ...
    @property
    def platform_ids(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationResult:
    """The policy accepts these claims. Only `appraise` makes one; nothing is released without.

    policy_id: "sha256:<64 hex>" over policy and expected RTMR 3. trustworthiness_vector: AR4SI claims.
    status: EAR tier, the worst of the vector; a simulation is always `contraindicated`, although its policy
    accepted it, so that no relying party takes it for hardware.
    """

    claims: VerifiedClaims
    policy_id: str
    status: str
    trustworthiness_vector: Mapping[str, int]
    appraised_at: datetime


AnyPolicy = Policy | SgxPolicy | SnpPolicy | PcrPolicy | AzurePolicy


def appraise(
    claims: VerifiedClaims, *, policy: AnyPolicy | None, rtmr3: bytes, now: datetime
) -> AttestationResult:
    """Return the result if everything matches; otherwise raise with all mismatches at once.

    policy: the Manifest's for the claims' platform, None when it has none. rtmr3: 48 bytes,
    `claims.code_register` of the workload's reviewed volumes; SGX and SEV-SNP have no such register.

    Raises:
        MeasurementError, TcbNotAcceptedError, PlatformNotAllowedError: all mismatches are of that kind.
        AppraisalError: mismatches of several kinds, or claims whose endorsements have expired since.
    """
    if policy is None:
        raise PlatformNotAllowedError(
            f"the Manifest names no Reference Values for {claims.platform.value}",
            f"add [appraisal.{claims.platform.value}] to the Manifest, or use another platform",
        )
    mismatches = list(_mismatches(claims, policy, rtmr3, now))
    if mismatches:
        kinds = {kind for kind, _ in mismatches}
        error = kinds.pop() if len(kinds) == 1 else AppraisalError
        fixes = dict.fromkeys(_FIXES[kind] for kind, _ in mismatches)
        raise error("; ".join(text for _, text in mismatches), "; ".join(fixes))
    vector = _vector(claims, policy)
    return AttestationResult(
        claims=claims,
        policy_id=_policy_id(claims, policy, rtmr3),
        status=next(word for least, word in _TIERS if max(vector.values()) >= least),
        trustworthiness_vector=MappingProxyType(vector),
        appraised_at=now,
    )


def _mismatches(claims: VerifiedClaims, policy: AnyPolicy, rtmr3: bytes, now: datetime) -> Iterator[Mismatch]:
    if claims.simulated and claims.platform is not Platform.INSECURE_SIMULATION:
        yield PlatformNotAllowedError, f"simulated claims call themselves {claims.platform.value}"
    yield from compare(claims, policy, rtmr3=rtmr3)
    if now > claims.valid_until:
        yield AppraisalError, f"the endorsements behind the claims expired at {claims.valid_until:%F %T}"


def compare(claims: Claims, policy: AnyPolicy, *, rtmr3: bytes | None) -> Iterator[Mismatch]:
    """Yield whatever of the claims the policy does not accept; alone it decides nothing, see `appraise`.

    rtmr3: expected value of TDX's register of code; None = not compared.
    """
    kind = _POLICIES.get(claims.platform)
    others = tuple({one for one in _POLICIES.values() if one is not kind})
    if isinstance(policy, others) or (kind is not None and not isinstance(policy, kind)):
        yield PlatformNotAllowedError, f"the policy is not one for {claims.platform.value}"
    elif isinstance(policy, SgxPolicy):
        yield from sgx.mismatches(claims, policy)
    elif isinstance(policy, SnpPolicy):
        yield from sev_snp.mismatches(claims, policy)
    elif isinstance(policy, PcrPolicy):
        yield from pcrs.mismatches(claims, policy)
    elif isinstance(policy, AzurePolicy):
        yield from azure.mismatches(claims, policy)
    else:
        yield from _tdx(claims, policy, rtmr3)


def _tdx(claims: Claims, policy: Policy, rtmr3: bytes | None) -> Iterator[Mismatch]:
    yield from register("mr_td", claims, policy.mr_td)
    for name in _RTMRS:
        accepted = getattr(policy, name)
        if accepted is not None:
            yield from register(name, claims, accepted)
    if rtmr3 is not None:
        yield from register("rtmr3", claims, [rtmr3.hex()])
    yield from tcb_status(claims, policy.tcb, policy.tolerate)
    yield from machine(claims, policy.platform_ids)


def _vector(claims: VerifiedClaims, policy: AnyPolicy) -> dict[str, int]:
    if claims.simulated:
        hardware = _UNRECOGNISED
    else:
        hardware = _AFFIRMING if claims.tcb_status in _GOOD and not claims.advisories else _WARNING
    vector = {
        "configuration": _AFFIRMING,
        "executables": _AFFIRMING,
        "hardware": hardware,
        "runtime-opaque": _UNRECOGNISED if claims.simulated else _AFFIRMING,
    }
    if claims.platform in pcrs.NO_TEE:
        vector["runtime-opaque"] = _CONTRAINDICATED
    if policy.platform_ids:
        vector["instance-identity"] = _UNRECOGNISED if claims.simulated else _AFFIRMING
    return vector


def _policy_id(claims: VerifiedClaims, policy: AnyPolicy, rtmr3: bytes) -> str:
    """Hash the policy as canonical JSON: names sorted, no spaces, UTF-8."""
    if isinstance(policy, SgxPolicy | SnpPolicy | PcrPolicy | AzurePolicy):
        return _digest({"platform": claims.platform.value, **msgspec.to_builtins(policy)})
    content = {
        "platform": claims.platform.value,
        "rtmr3": rtmr3.hex(),
        "mr_td": list(policy.mr_td),
        **{name: _list(getattr(policy, name)) for name in _RTMRS},
        "tcb": list(policy.tcb),
        "tolerate": list(policy.tolerate),
        "platform_ids": list(policy.platform_ids),
    }
    return _digest(content)


def _digest(content: Mapping[str, object]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def _list(values: Sequence[str] | None) -> list[str] | None:
    return None if values is None else list(values)
