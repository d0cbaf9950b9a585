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
    SGX = "sgx"
    SEV_SNP = "sev_snp"
    NITRO = "nitro"
    TPM2 = "tpm2"
    AZURE_VTPM = "azure_vtpm"
    GCP_VTPM = "gcp_vtpm"
    INSECURE_SIMULATION = "insecure_simulation"


# The register that tells which software was started.
MEASUREMENT_REGISTERS = MappingProxyType(
    {
        Platform.TDX: "mr_td",
        Platform.INSECURE_SIMULATION: "mr_td",
        Platform.SGX: "mr_enclave",
        Platform.SEV_SNP: "measurement",
        Platform.NITRO: "pcr0",
        Platform.TPM2: "pcr4",
        Platform.AZURE_VTPM: "pcr4",
        Platform.GCP_VTPM: "pcr4",
    }
)

# Bytes of Evidence that are looked at; whatever is longer is refused unread. TPMs have long event logs.
EVIDENCE_SIZE_LIMITS = MappingProxyType(
    {
        Platform.TDX: 32 * 1024,
        Platform.INSECURE_SIMULATION: 32 * 1024,
        Platform.SGX: 32 * 1024,
        Platform.SEV_SNP: 68 * 1024,  # the report, and the host's table of certificates
        Platform.NITRO: 16 * 1024,
        Platform.TPM2: 608 * 1024,
        Platform.AZURE_VTPM: 128 * 1024,
        Platform.GCP_VTPM: 512 * 1024,
    }
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Raw Evidence as it came; nothing in it is authenticated.

    others: Evidence of the same machine's further attesters, such as its vTPM (composite Evidence).
    """

    platform: Platform
    raw: bytes = field(repr=False)
    others: "tuple[Evidence, ...]" = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedClaims:
    """Claims whose signatures, chain and collateral hold. Only `securetf.verifier` makes these.

    registers: name (vendor's, lower case: `mr_td`, `rtmr0` …) to value, of the vendor's size (TDX: 48 bytes).
    properties: what else the Evidence says and a policy compares, name to number or word (`isv_svn` …).
    report_data: 64 bytes, chosen by the attester; compared with the expected binding by the verifier.
    tcb_status: the vendor's word, e.g. `UpToDate`.
    platform_id: identity of the machine as the vendor certifies it (TDX, SGX: PPID; SEV-SNP: chip id), may be
    empty.
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
    properties: Mapping[str, int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "registers", MappingProxyType(dict(self.registers)))
        object.__setattr__(self, "properties", MappingProxyType(dict(self.properties)))

    @property
    def measurement(self) -> bytes:
        """The register that tells which software was started; empty if a TPM's quote does not cover it."""
        return self.registers.get(MEASUREMENT_REGISTERS[self.platform], b"")


def code_event(roots: Mapping[str, bytes]) -> bytes:
    """Return what the launcher extends RTMR 3 with: SHA-384, 48 bytes, over the roots of pinned volumes.

    roots: volume name to root (32 bytes), every volume of the workload for which the Manifest names a root.
    The digest is over a domain label and length-prefixed pairs in the order of names.
    """
    event = hashlib.sha384(b"securetf code roots v1\0")
    for name in sorted(roots):
        for part in (name.encode(), roots[name]):
            event.update(len(part).to_bytes(4, "big") + part)
    return event.digest()


def code_register(roots: Mapping[str, bytes]) -> bytes:
    """Return the value of RTMR 3 after one extend (Intel TDX Module Base Specification, "RTMR") of a zero
    register by `code_event` of the same roots.
    """
    return hashlib.sha384(bytes(REGISTER_SIZE) + code_event(roots)).digest()
