"""Quoting enclave and statuses against authentic DCAP collateral (Intel PCS API v4, "Enclave Identity V2").

dcap-qvl does the same arithmetic; here it is done again to say what differs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from securetf.errors import EndorsementError, TcbError

FETCH = "fetch the collateral of this platform again"
UPDATE = "update firmware and microcode of this machine"

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
_ENCLAVE_STATUSES = frozenset({"UpToDate", "OutOfDate", "Revoked"})

Document = Mapping[str, Any]


def check_statuses(tcb_info: Document) -> None:
    """Check that every level's status is one that Intel defines for platforms.

    Raises:
        EndorsementError: one is not.
    """
    _check_statuses("TCB", tcb_info, _STATUSES)


def check_enclave_statuses(what: str, identity: Document) -> None:
    """Check that every level's status is one that Intel defines for quoting enclaves and TDX modules.

    Of the others dcap-qvl takes some, and calls the platform as good as without them.

    Raises:
        EndorsementError: one is not.
    """
    _check_statuses(what, identity, _ENCLAVE_STATUSES)


def _check_statuses(what: str, document: Document, known: frozenset[str]) -> None:
    for status in (str(level["tcbStatus"]) for level in document["tcbLevels"]):
        if status not in known:
            raise EndorsementError(f"{what} status {status!r} is not one that this release knows", FETCH)


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
        if not equal_under_mask(found, expected, mask):
            raise EndorsementError(
                f"the quoting enclave has {name} {found.hex()}, expected {expected} under mask {mask}",
                "use a platform with Intel's quoting enclave",
            )
    isvsvn = int.from_bytes(report[258:260], "little")
    if not any(isvsvn >= level["tcb"]["isvsvn"] for level in qe_identity["tcbLevels"]):
        raise TcbError(f"quoting enclave ISVSVN {isvsvn} is older than every level of its identity", UPDATE)


def reaches(svns: Sequence[int], components: Sequence[Document]) -> bool:
    """Return whether no component of a TCB level is above the SVN found."""
    return all(svn >= component["svn"] for svn, component in zip(svns, components, strict=True))


def equal_under_mask(found: bytes, expected: str, mask: str) -> bool:
    """Return whether `found` has the bits of `expected` that `mask` (both hex) names."""
    value, bits = bytes.fromhex(expected), bytes.fromhex(mask)
    if not len(found) == len(value) == len(bits):
        raise ValueError(f"{len(found)} bytes against {expected} under {mask}")
    return not (_number(found) ^ _number(value)) & _number(bits)


def outside(found: bytes, mask: str) -> bool:
    """Return whether `found` has bits that `mask` (hex, as long) does not name."""
    return bool(_number(found) & ~_number(bytes.fromhex(mask)))


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "big")
