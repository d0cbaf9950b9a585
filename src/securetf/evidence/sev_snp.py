"""AMD SEV-SNP attestation reports, versions 2, 3 and 5, as exact bytes: AMD 56860 revision 1.58,
"ATTESTATION_REPORT Structure". Little endian.

Strict: exactly 1184 bytes, every reserved byte and bit as the table says, known version, algorithm and CPU.
`encode` gives the same bytes back.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from securetf.errors import MalformedEvidenceError

REPORT_SIZE = 1184  # bytes
SIGNED_SIZE = 0x2A0  # bytes that the signature covers
VMPL_OF_HOST = 0xFFFFFFFF  # VMPL of a report that the hypervisor asked for
NO_MIGRATION_AGENT = b"\xff" * 32  # REPORT_ID_MA
ALGORITHM_ECDSA_P384_SHA384 = 1
VERSIONS = (2, 3, 5)

_POLICY_MUST_BE_ONE, _POLICY_KNOWN = 1 << 17, (1 << 26) - 1
_COMPONENT_SIZE = 72  # bytes of r and of s; P-384 fills 48
_VALUE_SIZE = 48
_FIX = "pass the report exactly as the firmware gave it, without the 32-byte header of SNP_GET_REPORT"


class SnpProduct(StrEnum):
    """A product line, with the name that AMD's root certificates use."""

    MILAN = "Milan"
    GENOA = "Genoa"  # also Bergamo and Siena
    TURIN = "Turin"


class SnpKey(StrEnum):
    """Which key signed: the chip's own, or one that a cloud provider loaded into it."""

    VCEK = "VCEK"
    VLEK = "VLEK"


# CPUID family to product lines by range of models (AMD 57230, "Supported Products").
_PRODUCTS = {
    0x19: ((0x00, 0x0F, SnpProduct.MILAN), (0x10, 0x1F, SnpProduct.GENOA), (0xA0, 0xAF, SnpProduct.GENOA)),
    0x1A: ((0x00, 0x1F, SnpProduct.TURIN),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpTcb:
    """Security version numbers of the firmware, one byte each (AMD 56860, "TCB_VERSION"). fmc: Turin only."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None

    def reaches(self, minimum: "SnpTcb") -> bool:
        """Return whether no component is below that of `minimum`; a demanded FMC that is absent is below."""
        fmc = -1 if self.fmc is None else self.fmc
        return (
            self.bootloader >= minimum.bootloader
            and self.tee >= minimum.tee
            and self.snp >= minimum.snp
            and self.microcode >= minimum.microcode
            and (minimum.fmc is None or fmc >= minimum.fmc)
        )

    def __str__(self) -> str:
        fmc = "" if self.fmc is None else f"fmc {self.fmc}, "
        loaded = f"bootloader {self.bootloader}, tee {self.tee}, snp {self.snp}"
        return f"{fmc}{loaded}, microcode {self.microcode}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReport:
    """Fields as received; nothing is authenticated until `verifier.sev_snp` returns. Names are AMD's.

    policy: what the guest's owner allows, bits by the properties below. measurement: SHA-384 launch digest.
    report_data: 64 bytes that the guest chose. host_data: 32 bytes that the host gave at launch. vmpl: 0 to 3
    or `VMPL_OF_HOST`. flags: AUTHOR_KEY_EN, MASK_CHIP_KEY, SIGNING_KEY. cpuid: family, model, stepping; None
    in version 2. *_version: major, minor, build of the firmware. *_mitigation: version 5 only. signature_r,
    signature_s: ECDSA P-384 over the first `SIGNED_SIZE` bytes.
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: SnpTcb
    platform_info: int
    flags: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: SnpTcb
    cpuid: tuple[int, int, int] | None
    chip_id: bytes
    committed_tcb: SnpTcb
    current_version: tuple[int, int, int]
    committed_version: tuple[int, int, int]
    launch_tcb: SnpTcb
    launch_mitigation: int | None
    current_mitigation: int | None
    signature_r: int
    signature_s: int

    @property
    def product(self) -> SnpProduct | None:
        """The product line that CPUID tells; None in version 2, which is Milan or Genoa."""
        return None if self.cpuid is None else _product(self.cpuid)

    @property
    def signing_key(self) -> SnpKey:
        """SIGNING_KEY, bits 4:2 of the flags."""
        return SnpKey.VLEK if self.flags >> 2 & 7 else SnpKey.VCEK

    @property
    def chip_key_masked(self) -> bool:
        """MASK_CHIP_KEY, bit 1 of the flags."""
        return bool(self.flags >> 1 & 1)

    @property
    def smt_allowed(self) -> bool:
        """POLICY bit 16: the host may run another thread beside the guest's on one core."""
        return bool(self.policy >> 16 & 1)

    @property
    def migration_agent_allowed(self) -> bool:
        """POLICY bit 18, MIGRATE_MA."""
        return bool(self.policy >> 18 & 1)

    @property
    def debug(self) -> bool:
        """POLICY bit 19: the host can read guest memory."""
        return bool(self.policy >> 19 & 1)


# Name, offset, size of the fields that are plain bytes and plain numbers.
_BYTES = (
    ("family_id", 0x10, 16),
    ("image_id", 0x20, 16),
    ("report_data", 0x50, 64),
    ("measurement", 0x90, 48),
    ("host_data", 0xC0, 32),
    ("id_key_digest", 0xE0, 48),
    ("author_key_digest", 0x110, 48),
    ("report_id", 0x140, 32),
    ("report_id_ma", 0x160, 32),
    ("chip_id", 0x1A0, 64),
)
_NUMBERS = (
    ("version", 0x00, 4),
    ("guest_svn", 0x04, 4),
    ("policy", 0x08, 8),
    ("vmpl", 0x30, 4),
    ("platform_info", 0x40, 8),
    ("flags", 0x48, 4),
)
_MITIGATIONS = (("launch_mitigation", 0x1F8), ("current_mitigation", 0x200))  # 8 bytes each, version 5
_TCBS = (("current_tcb", 0x38), ("reported_tcb", 0x180), ("committed_tcb", 0x1E0), ("launch_tcb", 0x1F0))
_FIRMWARE = (("current_version", 0x1E8), ("committed_version", 0x1EC))  # build, minor, major, reserved
_SIGNATURE = (("signature_r", SIGNED_SIZE), ("signature_s", SIGNED_SIZE + _COMPONENT_SIZE))
_ALGORITHM, _CPUID = 0x34, 0x188


def parse(raw: bytes) -> SnpReport:
    """Read one report: exactly 1184 bytes.

    Raises:
        MalformedEvidenceError: naming the first field that is not as it must be.
    """
    if len(raw) != REPORT_SIZE:
        raise MalformedEvidenceError(f"SEV-SNP report has {len(raw)} bytes, expected {REPORT_SIZE}", _FIX)
    numbers = {name: _number(raw, offset, size) for name, offset, size in _NUMBERS}
    algorithm, version = _number(raw, _ALGORITHM, 4), numbers["version"]
    _check_numbers(numbers, algorithm)
    family, model, stepping = raw[_CPUID : _CPUID + 3]
    cpuid = None if version == 2 else (family, model, stepping)
    turin = cpuid is not None and _product(cpuid) is SnpProduct.TURIN
    values: dict[str, Any] = dict(numbers)
    values |= {name: raw[offset : offset + size] for name, offset, size in _BYTES}
    values |= {name: _tcb(raw[offset : offset + 8], turin=turin) for name, offset in _TCBS}
    values |= {name: (raw[at + 2], raw[at + 1], raw[at]) for name, at in _FIRMWARE}
    values |= {name: _number(raw, at, 8) if version == 5 else None for name, at in _MITIGATIONS}
    values |= {name: _number(raw, offset, _VALUE_SIZE) for name, offset in _SIGNATURE}
    report = SnpReport(**values, cpuid=cpuid)
    canonical = encode(report)
    if canonical != raw:
        offset = next(at for at, byte in enumerate(raw) if byte != canonical[at])
        raise MalformedEvidenceError(f"reserved byte {offset:#x} of the SEV-SNP report is not zero", _FIX)
    return report


def encode(report: SnpReport) -> bytes:
    """Return the 1184 bytes of a report. `parse(encode(report)) == report`."""
    raw = bytearray(REPORT_SIZE)
    for name, offset, size in (*_NUMBERS, *((one, at, 8) for one, at in _MITIGATIONS)):
        raw[offset : offset + size] = (getattr(report, name) or 0).to_bytes(size, "little")
    raw[_ALGORITHM] = ALGORITHM_ECDSA_P384_SHA384
    for name, offset, size in _BYTES:
        raw[offset : offset + size] = getattr(report, name)
    for name, offset in _TCBS:
        raw[offset : offset + 8] = _tcb_bytes(getattr(report, name))
    for name, offset in _FIRMWARE:
        raw[offset : offset + 3] = bytes(reversed(getattr(report, name)))
    for name, offset in _SIGNATURE:
        raw[offset : offset + _VALUE_SIZE] = getattr(report, name).to_bytes(_VALUE_SIZE, "little")
    raw[_CPUID : _CPUID + 3] = bytes(report.cpuid or 3)
    return bytes(raw)


def signed_bytes(report: SnpReport) -> bytes:
    """Return the 672 bytes that the signature covers."""
    return encode(report)[:SIGNED_SIZE]


def _check_numbers(numbers: dict[str, int], algorithm: int) -> None:
    if numbers["version"] not in VERSIONS:
        raise MalformedEvidenceError(
            f"SEV-SNP report version is {numbers['version']}, expected 2, 3 or 5",
            "use a release of securetf that knows this version",
        )
    if algorithm != ALGORITHM_ECDSA_P384_SHA384:
        raise MalformedEvidenceError(
            f"SEV-SNP signature algorithm is {algorithm}, expected 1 (ECDSA P-384 with SHA-384)", _FIX
        )
    policy, flags, vmpl = numbers["policy"], numbers["flags"], numbers["vmpl"]
    if not policy & _POLICY_MUST_BE_ONE or policy & ~_POLICY_KNOWN:
        raise MalformedEvidenceError(
            f"SEV-SNP guest policy {policy:#x} has bits that this release does not know, or lacks bit 17",
            _FIX,
        )
    if flags >> 5 or flags >> 2 & 7 not in {0, 1}:
        raise MalformedEvidenceError(
            f"SEV-SNP flags are {flags:#x}: reserved bits, or signed by neither VCEK nor VLEK", _FIX
        )
    if vmpl > 3 and vmpl != VMPL_OF_HOST:
        raise MalformedEvidenceError(f"VMPL is {vmpl}, expected 0 to 3", _FIX)


def _product(cpuid: tuple[int, int, int]) -> SnpProduct:
    family, model, _ = cpuid
    for first, last, product in _PRODUCTS.get(family, ()):
        if first <= model <= last:
            return product
    raise MalformedEvidenceError(
        f"CPU family {family:#x} model {model:#x} is no product line that this release knows",
        "use a release of securetf that knows this processor",
    )


def _number(raw: bytes, offset: int, size: int) -> int:
    return int.from_bytes(raw[offset : offset + size], "little")


def _tcb(raw: bytes, *, turin: bool) -> SnpTcb:
    """Read TCB_VERSION: Milan and Genoa bootloader, tee, 4 reserved, snp, microcode; Turin fmc, bootloader,
    tee, snp, 3 reserved, microcode.
    """
    if turin:
        return SnpTcb(fmc=raw[0], bootloader=raw[1], tee=raw[2], snp=raw[3], microcode=raw[7])
    return SnpTcb(bootloader=raw[0], tee=raw[1], snp=raw[6], microcode=raw[7])


def _tcb_bytes(tcb: SnpTcb) -> bytes:
    if tcb.fmc is None:
        return bytes((tcb.bootloader, tcb.tee, 0, 0, 0, 0, tcb.snp, tcb.microcode))
    return bytes((tcb.fmc, tcb.bootloader, tcb.tee, tcb.snp, 0, 0, 0, tcb.microcode))
