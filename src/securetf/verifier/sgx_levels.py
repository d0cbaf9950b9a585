"""TCB level of an SGX platform against authentic collateral (Intel PCS API v4, "TCB Info V3")."""

from collections.abc import Sequence

from securetf.errors import TcbError
from securetf.verifier.dcap_levels import UPDATE, Document, reaches


def check_platform(cpu_svn: Sequence[int], pce_svn: int, tcb_info: Document) -> None:
    """Check that a TCB level is reached by the SVNs of the PCK certificate.

    Raises:
        TcbError: none is.
    """
    for level in tcb_info["tcbLevels"]:
        tcb = level["tcb"]
        if pce_svn >= tcb["pcesvn"] and reaches(cpu_svn, tcb["sgxtcbcomponents"]):
            return
    raise TcbError(
        f"no TCB level of the TCB info is reached: CPUSVN {bytes(cpu_svn).hex()}, PCESVN {pce_svn}", UPDATE
    )
