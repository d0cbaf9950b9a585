"""Rows of the appraisal of platforms whose registers are PCRs: Nitro enclaves and TPMs.

There is no run-time register of ours: the reviewed code is bound by the Manifest hash in the report data,
which the measured launcher checks before it starts anything.
"""

from collections.abc import Iterator, Mapping, Sequence

from securetf.appraisal.comparison import Claims, Mismatch, machine, register, tcb_status
from securetf.claims import Platform
from securetf.errors import MeasurementError
from securetf.manifest.platforms import PcrPolicy

Pcrs = Mapping[str, Sequence[str]]

NO_TEE = frozenset({Platform.TPM2, Platform.GCP_VTPM})  # whose memory the host reads


def mismatches(claims: Claims, policy: PcrPolicy) -> Iterator[Mismatch]:
    """Yield whatever of the claims the policy does not accept."""
    if claims.platform is Platform.NITRO and "pcr0" not in policy.pcrs:
        yield MeasurementError, "the policy does not name pcr0, the enclave's image, which accepts nothing"
    yield from values(claims, policy.pcrs)
    yield from tcb_status(claims, policy.tcb, policy.tolerate)
    yield from machine(claims, policy.platform_ids)


def values(claims: Claims, accepted: Pcrs) -> Iterator[Mismatch]:
    """Yield each PCR that has none of its accepted values (hex); no PCR at all accepts nothing."""
    if not accepted:
        yield MeasurementError, "the policy names no PCR, which accepts nothing"
    for name, one in sorted(accepted.items()):
        yield from register(name, claims, one)
