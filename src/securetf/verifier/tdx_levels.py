"""TDX module and TCB level against authentic collateral (Intel PCS API v4, "TCB Info V3").

dcap-qvl does the same arithmetic; here it is done again to say what differs, and where dcap-qvl is lenient.
"""

from collections.abc import Sequence

from securetf.errors import EndorsementError, TcbError
from securetf.evidence import tdx
from securetf.verifier.dcap_levels import (
    FETCH,
    UPDATE,
    Document,
    check_enclave_statuses,
    equal_under_mask,
    outside,
    reaches,
)


def check_module(body: tdx.TdReport, tcb_info: Document) -> None:
    """Check that the TDX module is one that the TCB info knows.

    Byte 0 of TEE_TCB_SVN is the module's ISVSVN, byte 1 its major version; from version 1 on, the TCB info
    must have an identity TDX_<version>. dcap-qvl takes the unversioned one where the list is empty.

    Raises:
        EndorsementError: no identity, another signer, other attributes, an unknown status. TcbError: older
        than every level.
    """
    isvsvn, version = body.tee_tcb_svn[0], body.tee_tcb_svn[1]
    identity = tcb_info.get("tdxModule")
    if version > 0:
        wanted = f"TDX_{version:02X}"
        found = [one for one in tcb_info.get("tdxModuleIdentities", []) if str(one["id"]).upper() == wanted]
        identity = found[0] if found else None
    if identity is None:
        raise EndorsementError(f"the TCB info has no identity of TDX module version {version}", FETCH)
    for name, found_bytes, expected, mask in (
        ("MRSIGNER", body.mr_signer_seam, identity["mrsigner"], "FF" * 48),
        ("SEAMATTRIBUTES", body.seam_attributes, identity["attributes"], identity["attributesMask"]),
    ):
        if not equal_under_mask(found_bytes, expected, mask) or outside(found_bytes, mask):
            raise EndorsementError(f"TDX module {name} is {found_bytes.hex()}, expected {expected}", FETCH)
    if version == 0:
        return
    check_enclave_statuses("TDX module", identity)
    if not any(isvsvn >= level["tcb"]["isvsvn"] for level in identity["tcbLevels"]):
        raise TcbError(f"TDX module ISVSVN {isvsvn} is older than every level of its identity", UPDATE)


def check_platform(tee_tcb_svn: bytes, cpu_svn: Sequence[int], pce_svn: int, tcb_info: Document) -> None:
    """Check that a TCB level is reached.

    From TDX module version 1 on (byte 1), bytes 0 and 1 are the module's, which `check_module` looks at.

    Raises:
        TcbError: none is.
    """
    first = 2 if tee_tcb_svn[1] > 0 else 0
    for level in tcb_info["tcbLevels"]:
        tcb = level["tcb"]
        if (
            pce_svn >= tcb["pcesvn"]
            and reaches(cpu_svn, tcb["sgxtcbcomponents"])
            and reaches(tee_tcb_svn[first:], tcb["tdxtcbcomponents"][first:])
        ):
            return
    raise TcbError(
        f"no TCB level of the TCB info is reached: CPUSVN {bytes(cpu_svn).hex()}, PCESVN {pce_svn}, "
        f"TEE_TCB_SVN {tee_tcb_svn.hex()}",
        UPDATE,
    )
