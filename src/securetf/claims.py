"""The values that pass between the stages: Platform, Evidence, VerifiedClaims (RFC 9334)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

REPORT_DATA_SIZE = 64  # bytes; TDX REPORTDATA, SNP REPORT_DATA, SGX report_data
REGISTER_SIZE = 48  # bytes; SHA-384, TDX MRTD and RTMR


class Platform(StrEnum):
    """Where Evidence comes from. `INSECURE_SIMULATION` proves nothing about any machine."""

    TDX = "tdx"
    NITRO = "nitro"
    TPM2 = "tpm2"
    AZURE_VTPM = "azure_vtpm"
    GCP_VTPM = "gcp_vtpm"
    INSECURE_SIMULATION = "insecure_simulation"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Raw Evidence as it came; nothing in it is authenticated."""

    platform: Platform
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedClaims:
    """Claims whose signatures, chain and collateral hold. Only `securetf.verifier` makes these.

    registers: name (vendor's, lower case: `mr_td`, `rtmr0` …) to value, 48 bytes each for TDX.
    report_data: 64 bytes, chosen by the attester; compared with the expected binding by the verifier.
    tcb_status: the vendor's word, e.g. `UpToDate`.
    platform_id: identity of the machine as the vendor certifies it (TDX: PPID or PIID), may be empty.
    valid_until: when the earliest of the endorsements used expires; timezone-aware UTC.
    simulated: True if rooted in a development key.
    """

    platform: Platform
    registers: Mapping[str, bytes]
    report_data: bytes
    tcb_status: str
    advisories: tuple[str, ...]
    tcb_evaluation_number: int
    platform_id: bytes
    valid_until: datetime
    simulated: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "registers", MappingProxyType(dict(self.registers)))


def code_register(roots: Mapping[str, bytes]) -> bytes:
    """Return the value of RTMR 3 after the launcher has measured the roots of a workload's pinned volumes.

    roots: volume name to root (32 bytes), every volume of the workload for which the Manifest names a root.
    One extend (Intel TDX Module Base Specification, "RTMR") of a zero register by SHA-384 over a domain label
    and length-prefixed pairs in the order of names.
    """
    event = hashlib.sha384(b"securetf code roots v1\0")
    for name in sorted(roots):
        for part in (name.encode(), roots[name]):
            event.update(len(part).to_bytes(4, "big") + part)
    return hashlib.sha384(bytes(REGISTER_SIZE) + event.digest()).digest()
