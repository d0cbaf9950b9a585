"""TDX module, quoting enclave and TCB level against authentic collateral (Intel PCS API v4, "TCB Info V3").

dcap-qvl does the same arithmetic; here it is done again to say what differs, and where dcap-qvl is lenient.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from securetf.errors import EndorsementError, TcbError
from securetf.evidence import tdx

_FETCH = "fetch the collateral of this platform again"
_UPDATE = "update firmware and TDX module of this machine"

_STATUSES = frozenset(
    {
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "Revoked",
    }
)

Document = Mapping[str, Any]


def check_statuses(*documents: Document) -> None:
    """Check that every level's status is one that Intel defines.

    Raises:
        EndorsementError: one is not.
    """
    for status in (str(level["tcbStatus"]) for document in documents for level in document["tcbLevels"]):
        if status not in _STATUSES:
            raise EndorsementError(f"TCB status {status!r} is not one that this release knows", _FETCH)


def check_module(body: tdx.TdReport, tcb_info: Document) -> None:
    """Check that the TDX module is one that the TCB info knows.

    Byte 0 of TEE_TCB_SVN is the module's ISVSVN, byte 1 its major version; from version 1 on, the TCB info
    must have an identity TDX_<version>. dcap-qvl takes the unversioned one where the list is empty.

    Raises:
        EndorsementError: no identity, another signer, other attributes. TcbError: older than every level.
    """
    isvsvn, version = body.tee_tcb_svn[0], body.tee_tcb_svn[1]
    identity = tcb_info.get("tdxModule")
    if version > 0:
        wanted = f"TDX_{version:02X}"
        found = [one for one in tcb_info.get("tdxModuleIdentities", []) if str(one["id"]).upper() == wanted]
        identity = found[0] if found else None
    if identity is None:
        raise EndorsementError(f"the TCB info has no identity of TDX module version {version}", _FETCH)
    for name, found_bytes, expected, mask in (
        ("MRSIGNER", body.mr_signer_seam, identity["mrsigner"], "FF" * 48),
        ("SEAMATTRIBUTES", body.seam_attributes, identity["attributes"], identity["attributesMask"]),
    ):
        outside = bytes(byte & ~bits & 0xFF for byte, bits in zip(found_bytes, _hex(mask), strict=True))
        if not _equal_under_mask(found_bytes, expected, mask) or any(outside):
            raise EndorsementError(f"TDX module {name} is {found_bytes.hex()}, expected {expected}", _FETCH)
    levels = identity.get("tcbLevels")
    if version > 0 and not any(isvsvn >= level["tcb"]["isvsvn"] for level in levels):
        raise TcbError(f"TDX module ISVSVN {isvsvn} is older than every level of its identity", _UPDATE)


def check_quoting_enclave(report: bytes, qe_identity: Document) -> None:
    """Check the quoting enclave's SGX report (384 bytes) against its identity.

    Raises:
        EndorsementError: another enclave. TcbError: older than every level.
    """
    for name, found, expected, mask in (
        ("MRSIGNER", report[128:160], qe_identity["mrsigner"], "FF" * 32),
        ("MISCSELECT", report[16:20], qe_identity["miscselect"], qe_identity["miscselectMask"]),
        ("ATTRIBUTES", report[48:64], qe_identity["attributes"], qe_identity["attributesMask"]),
        ("ISVPRODID", report[256:258], int(qe_identity["isvprodid"]).to_bytes(2, "little").hex(), "FFFF"),
    ):
        if not _equal_under_mask(found, expected, mask):
            raise EndorsementError(
                f"the quoting enclave has {name} {found.hex()}, expected {expected} under mask {mask}",
                "use a platform with Intel's quoting enclave",
            )
    isvsvn = int.from_bytes(report[258:260], "little")
    if not any(isvsvn >= level["tcb"]["isvsvn"] for level in qe_identity["tcbLevels"]):
        raise TcbError(f"quoting enclave ISVSVN {isvsvn} is older than every level of its identity", _UPDATE)


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
            and _reaches(cpu_svn, tcb["sgxtcbcomponents"])
            and _reaches(tee_tcb_svn[first:], tcb["tdxtcbcomponents"][first:])
        ):
            return
    raise TcbError(
        f"no TCB level of the TCB info is reached: CPUSVN {bytes(cpu_svn).hex()}, PCESVN {pce_svn}, "
        f"TEE_TCB_SVN {tee_tcb_svn.hex()}",
        _UPDATE,
    )


def _reaches(svns: Sequence[int], components: Sequence[Document]) -> bool:
    return all(svn >= component["svn"] for svn, component in zip(svns, components, strict=True))


def _equal_under_mask(found: bytes, expected: str, mask: str) -> bool:
    parts = zip(found, _hex(expected), _hex(mask), strict=True)
    return all(byte & bits == value & bits for byte, value, bits in parts)


def _hex(text: str) -> bytes:
    return bytes.fromhex(text)
