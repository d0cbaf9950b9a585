"""The decision: claims, policy and Reference Values in, an AttestationResult or all mismatches out."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

from securetf.claims import VerifiedClaims
from securetf.errors import (
    AppraisalError,
    MeasurementError,
    PlatformNotAllowedError,
    TcbNotAcceptedError,
)

Mismatch = tuple[type[AppraisalError], str]
_FIXES: dict[type[AppraisalError], str] = {
    MeasurementError: "start the reviewed software and code, or accept these values in the Manifest",
    TcbNotAcceptedError: "update the machine, or name this status and each advisory under `tolerate`",
    PlatformNotAllowedError: "use a platform and a machine that the Manifest names, or name this one",
    AppraisalError: "attest again with current collateral",
}
_RTMRS = ("rtmr0", "rtmr1", "rtmr2")

# AR4SI trustworthiness claims (draft-ietf-rats-ar4si, section 2.3)
_AFFIRMING, _WARNING, _UNRECOGNISED = 2, 32, 97
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


def appraise(
    claims: VerifiedClaims, *, policy: Policy | None, rtmr3: bytes, now: datetime
) -> AttestationResult:
    """Return the result if everything matches; otherwise raise with all mismatches at once.

    policy: the Manifest's for the claims' platform, None when it has none. rtmr3: 48 bytes,
    `claims.code_register` of the workload's reviewed volumes.

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


def _mismatches(claims: VerifiedClaims, policy: Policy, rtmr3: bytes, now: datetime) -> Iterator[Mismatch]:
    yield from _register("mr_td", claims, policy.mr_td)
    for name in _RTMRS:
        accepted = getattr(policy, name)
        if accepted is not None:
            yield from _register(name, claims, accepted)
    yield from _register("rtmr3", claims, [rtmr3.hex()])
    tolerated = {*policy.tcb, *policy.tolerate}
    if claims.tcb_status not in tolerated:
        yield (
            TcbNotAcceptedError,
            f"TCB status is {claims.tcb_status}, accepted: {', '.join(policy.tcb) or 'none'}",
        )
    open_advisories = [advisory for advisory in claims.advisories if advisory not in policy.tolerate]
    if open_advisories:
        yield TcbNotAcceptedError, f"advisories apply that are not tolerated: {', '.join(open_advisories)}"
    platform_ids = {identity.lower() for identity in policy.platform_ids}
    if platform_ids and claims.platform_id.hex() not in platform_ids:
        yield (
            PlatformNotAllowedError,
            f"machine {claims.platform_id.hex() or 'without identity'} is not among platform_ids",
        )
    if now > claims.valid_until:
        yield AppraisalError, f"the endorsements behind the claims expired at {claims.valid_until:%F %T}"


def _register(name: str, claims: VerifiedClaims, accepted: Sequence[str]) -> Iterator[Mismatch]:
    found = claims.registers[name].hex() if name in claims.registers else "absent"
    if found not in {value.lower() for value in accepted}:
        expected = " or ".join(accepted) or "nothing (the list is empty)"
        yield MeasurementError, f"{name} is {found}, expected {expected}"


def _vector(claims: VerifiedClaims, policy: Policy) -> dict[str, int]:
    if claims.simulated:
        hardware = _UNRECOGNISED
    else:
        hardware = _AFFIRMING if claims.tcb_status == "UpToDate" and not claims.advisories else _WARNING
    vector = {
        "configuration": _AFFIRMING,
        "executables": _AFFIRMING,
        "hardware": hardware,
        "runtime-opaque": _UNRECOGNISED if claims.simulated else _AFFIRMING,
    }
    if policy.platform_ids:
        vector["instance-identity"] = _UNRECOGNISED if claims.simulated else _AFFIRMING
    return vector


def _policy_id(claims: VerifiedClaims, policy: Policy, rtmr3: bytes) -> str:
    """Hash the policy as canonical JSON: names sorted, no spaces, UTF-8."""
    content = {
        "platform": claims.platform.value,
        "rtmr3": rtmr3.hex(),
        "mr_td": list(policy.mr_td),
        **{name: _list(getattr(policy, name)) for name in _RTMRS},
        "tcb": list(policy.tcb),
        "tolerate": list(policy.tolerate),
        "platform_ids": list(policy.platform_ids),
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def _list(values: Sequence[str] | None) -> list[str] | None:
    return None if values is None else list(values)
