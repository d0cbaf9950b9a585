"""Compares VerifiedClaims with an Appraisal Policy and its Reference Values. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from securetf.claims import VerifiedClaims


class Policy(Protocol):
    """What an owner accepts of one platform (`[appraisal.<platform>]` of a Manifest).

    mr_td, rtmr0 to rtmr2: accepted values, 96 hex digits; None for an RTMR means it is not appraised, an empty
    list accepts nothing. tcb: accepted TCB statuses. tolerate: further statuses and each advisory that may apply.
    platform_ids: accepted machines in hex; empty means any machine.
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

    policy_id: "sha256:<64 hex>" over the policy and the expected RTMR 3. status: EAR tier; a simulation is always
    `contraindicated`, so that no relying party takes it for hardware.
    """

    claims: VerifiedClaims
    policy_id: str
    status: str
    trustworthiness_vector: dict[str, int]
    appraised_at: datetime


def appraise(
    claims: VerifiedClaims, *, policy: Policy | None, rtmr3: bytes, now: datetime
) -> AttestationResult:
    """Return the result if everything matches; otherwise raise with all mismatches at once.

    policy: of this claim's platform, None when the Manifest has none. rtmr3: `code_register(code_roots(...))`.

    Raises:
        MeasurementError, TcbNotAcceptedError, PlatformNotAllowedError: all mismatches are of that kind.
        AppraisalError: mismatches of several kinds.
    """
    raise NotImplementedError
