"""The decision about all parts of composite Evidence: each by its own policy, and none may be missing."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from securetf.appraisal.policy import AnyPolicy, AttestationResult, appraise
from securetf.claims import VerifiedClaims
from securetf.errors import AppraisalError, PlatformNotAllowedError


def appraise_all(
    claims: Sequence[VerifiedClaims],
    *,
    policies: Mapping[str, AnyPolicy],
    require: Sequence[str],
    rtmr3: bytes,
    now: datetime,
) -> tuple[AttestationResult, ...]:
    """Return one result for each part if every one is accepted, and every platform of `require` is there.

    policies: platform's name to what the Manifest accepts of it. Other arguments: as `appraise`.

    Raises:
        AppraisalError: as `appraise`; with mismatches of several parts, all of them.
    """
    results: list[AttestationResult] = []
    refusals: list[AppraisalError] = []
    for one in claims:
        policy = policies.get(one.platform.value)
        try:
            results.append(appraise(one, policy=policy, rtmr3=rtmr3, now=now))
        except AppraisalError as error:
            refusals.append(error)
    present = {one.platform.value for one in claims}
    for name in require:
        if name not in present:
            refusals.append(
                PlatformNotAllowedError(
                    f"the Manifest requires Evidence of {name}, which is missing",
                    f"attest with it too: `--attester {name}`",
                )
            )
    if len(refusals) == 1:
        raise refusals[0]
    if refusals:
        kinds = {type(one) for one in refusals}
        kind = kinds.pop() if len(kinds) == 1 else AppraisalError
        fixes = dict.fromkeys(one.fix for one in refusals)
        raise kind("; ".join(one.problem for one in refusals), "; ".join(fixes))
    return tuple(results)
