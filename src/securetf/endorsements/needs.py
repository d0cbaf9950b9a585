"""Which endorsements a piece of Evidence needs, as values: the keys under which they are fetched and kept."""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

from securetf.errors import EndorsementError
from securetf.evidence.sev_snp import SnpKey, SnpProduct, SnpTcb

_FMSPC = re.compile(r"[0-9A-F]{12}\Z")
_FIX = "name the platform as its Evidence does: `securetf evidence show`"


class Tee(StrEnum):
    """Which of Intel's TEEs."""

    SGX = "sgx"
    TDX = "tdx"


class PckCa(StrEnum):
    """Intel's two issuers of PCK certificates, each with a revocation list of its own."""

    PLATFORM = "platform"
    PROCESSOR = "processor"


@dataclass(frozen=True, slots=True, kw_only=True)
class DcapNeed:
    """DCAP collateral of one kind of platform. fmspc: 12 hex digits, upper case."""

    tee: Tee
    fmspc: str
    ca: PckCa

    def __post_init__(self) -> None:
        if not _FMSPC.match(self.fmspc):
            raise EndorsementError(f"FMSPC {self.fmspc!r} is not 12 hex digits in upper case", _FIX)

    def __str__(self) -> str:
        return f"{self.tee.upper()} platforms with FMSPC {self.fmspc} ({self.ca} CA)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpNeed:
    """AMD's certificates and revocation list for one report.

    product: None where the report does not say (version 2: Milan or Genoa). key: who signed. chip_id: raw,
    64 bytes, on Turin 8; empty with a VLEK, and where the VCEK came with the Evidence: then only the chain
    above it is needed. tcb: the report's REPORTED_TCB, for which the VCEK is derived.
    """

    product: SnpProduct | None
    key: SnpKey
    chip_id: bytes
    tcb: SnpTcb

    def __str__(self) -> str:
        line = self.product or "Milan or Genoa"
        chip = f", chip {self.chip_id.hex()[:16]}… with {self.tcb}" if self.chip_id else ""
        return f"SEV-SNP {line} ({self.key}{chip})"


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuersNeed:
    """The issuers above a TPM's certificate, and the revocation lists that its chain names.

    chain: DER, the TPM's certificate first, then whatever came with it.
    """

    chain: tuple[bytes, ...]

    def __str__(self) -> str:
        return f"the TPM certificate with SHA-256 {hashlib.sha256(self.chain[0]).hexdigest()[:16]}…"


Need = DcapNeed | SnpNeed | IssuersNeed
