"""Rows of the appraisal of AMD SEV-SNP guests.

There is no run-time register: the reviewed code is bound by the Manifest hash in the report data, which
the measured launcher checks before it starts anything.
"""

from collections.abc import Iterator

from securetf.appraisal.comparison import Claims, Mismatch, machine, number, register
from securetf.errors import MeasurementError, PlatformNotAllowedError, TcbNotAcceptedError
from securetf.manifest.platforms import SnpPolicy

_PARTS = ("fmc", "bootloader", "tee", "snp", "microcode")


def mismatches(claims: Claims, policy: SnpPolicy) -> Iterator[Mismatch]:
    """Yield whatever of the claims the policy does not accept."""
    yield from register("measurement", claims, policy.measurement)
    for name in ("host_data", "id_key_digest", "author_key_digest"):
        accepted = getattr(policy, name)
        if accepted is not None:
            yield from register(name, claims, accepted)
    yield from _tcb(claims, policy)
    yield from _guest(claims, policy)
    csp_id = str(claims.properties.get("csp_id", ""))
    if claims.properties.get("signing_key") != "VCEK" and csp_id not in policy.csp_ids:
        yield (
            PlatformNotAllowedError,
            f"the report is signed by the VLEK of {csp_id!r}, which is not among csp_ids",
        )
    yield from machine(claims, policy.platform_ids)


def _tcb(claims: Claims, policy: SnpPolicy) -> Iterator[Mismatch]:
    product = str(claims.properties.get("product", "unknown"))
    minimum = {str(line): tcb for line, tcb in policy.minimum_tcb.items()}.get(product)
    if minimum is None:
        yield PlatformNotAllowedError, f"minimum_tcb does not name the product line {product}"
    for kind in ("reported", "committed", "launch") if minimum is not None else ():
        for part in _PARTS:
            least, found = getattr(minimum, part), number(claims, f"{kind}_tcb_{part}")
            if least is not None and found < least:
                yield TcbNotAcceptedError, f"{kind} TCB has {part} {found}, expected at least {least}"
    if claims.tcb_status != "Committed" and claims.tcb_status not in policy.tolerate:
        yield TcbNotAcceptedError, "the firmware is provisional: the host can still go back to an older one"


def _guest(claims: Claims, policy: SnpPolicy) -> Iterator[Mismatch]:
    svn, vmpl = number(claims, "guest_svn"), number(claims, "vmpl")
    if svn < policy.minimum_guest_svn:
        yield MeasurementError, f"guest_svn is {svn}, expected at least {policy.minimum_guest_svn}"
    if not 0 <= vmpl <= policy.maximum_vmpl:
        yield TcbNotAcceptedError, f"the report is of VMPL {vmpl}, expected at most {policy.maximum_vmpl}"
    if number(claims, "smt_allowed") != 0 and "SMT" not in policy.tolerate:
        yield TcbNotAcceptedError, "the guest policy allows SMT: the host may run another thread on its cores"
