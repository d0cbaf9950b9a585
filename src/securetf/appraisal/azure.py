"""Rows of the appraisal of Azure confidential VMs: the hardware's own rows, and the vTPM's PCRs.

There is no run-time register of ours: the reviewed code is bound by the Manifest hash in the report data,
which the measured launcher checks before it starts anything.
"""

from collections.abc import Iterator

from securetf.appraisal import pcrs, sev_snp
from securetf.appraisal.comparison import Claims, Mismatch, machine, register, tcb_status
from securetf.claims import Platform
from securetf.errors import PlatformNotAllowedError
from securetf.manifest.platforms import AzurePolicy, AzureTdxPolicy

_RTMRS = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")


def mismatches(claims: Claims, policy: AzurePolicy) -> Iterator[Mismatch]:
    """Yield whatever of the claims the policy does not accept."""
    yield from pcrs.values(claims, policy.pcrs)
    hardware = claims.properties.get("hardware")
    if hardware == Platform.SEV_SNP.value and policy.sev_snp is not None:
        yield from sev_snp.mismatches(claims, policy.sev_snp)
    elif hardware == Platform.TDX.value and policy.tdx is not None:
        yield from _tdx(claims, policy.tdx)
    else:
        yield PlatformNotAllowedError, f"the policy does not name the hardware {hardware or 'unknown'}"
    yield from machine(claims, policy.platform_ids)


def _tdx(claims: Claims, policy: AzureTdxPolicy) -> Iterator[Mismatch]:
    yield from register("mr_td", claims, policy.mr_td)
    for name in _RTMRS:
        accepted = getattr(policy, name)
        if accepted is not None:
            yield from register(name, claims, accepted)
    yield from tcb_status(claims, policy.tcb, policy.tolerate)
