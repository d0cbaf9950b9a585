"""The SEV-SNP report and its certificate table as exact bytes: each framing error, and why."""

import base64
from dataclasses import replace

import pytest

from securetf.errors import MalformedEvidenceError
from securetf.evidence import sev_snp
from securetf.evidence.sev_snp import SnpKey, SnpProduct
from securetf.evidence.sev_snp_certificates import ENTRY_SIZE, GUIDS, SnpEvidence
from securetf.evidence.sev_snp_certificates import encode as encode_evidence
from securetf.evidence.sev_snp_certificates import parse as parse_evidence
from support.snp_platform import Platform

MILAN, TURIN = Platform(), Platform(SnpProduct.TURIN)
RAW = sev_snp.encode(MILAN.report())


def put(offset: int, *values: int, raw: bytes = RAW) -> bytes:
    return raw[:offset] + bytes(values) + raw[offset + len(values) :]


@pytest.mark.parametrize("size", [0, 1, 32, 671, 672, 1183, 1185, 1216])
def test_report_when_of_another_size_then_names_it(size: int) -> None:
    with pytest.raises(MalformedEvidenceError, match=f"has {size} bytes, expected 1184"):
        sev_snp.parse((RAW + bytes(32))[:size])


@pytest.mark.parametrize("version", [0, 1, 4, 6, 0xFFFFFFFF])
def test_report_when_of_an_unknown_version_then_refused(version: int) -> None:
    with pytest.raises(MalformedEvidenceError, match=f"version is {version}, expected 2, 3 or 5"):
        sev_snp.parse(put(0, *version.to_bytes(4, "little")))


@pytest.mark.parametrize("algorithm", [0, 2, 0x101])
def test_report_when_of_an_unknown_algorithm_then_refused(algorithm: int) -> None:
    with pytest.raises(MalformedEvidenceError, match=f"algorithm is {algorithm}, expected 1"):
        sev_snp.parse(put(0x34, *algorithm.to_bytes(4, "little")))


@pytest.mark.parametrize("policy", [0, 1 << 16, 1 << 17 | 1 << 26, 1 << 17 | 1 << 63])
def test_report_when_reserved_policy_bits_are_wrong_then_refused(policy: int) -> None:
    with pytest.raises(MalformedEvidenceError, match=r"guest policy .* bits that this release does not know"):
        sev_snp.parse(put(0x08, *policy.to_bytes(8, "little")))


@pytest.mark.parametrize("flags", [1 << 5, 2 << 2, 7 << 2, 1 << 31])
def test_report_when_flags_are_unknown_or_nobody_signed_then_refused(flags: int) -> None:
    with pytest.raises(MalformedEvidenceError, match="reserved bits, or signed by neither"):
        sev_snp.parse(put(0x48, *flags.to_bytes(4, "little")))


@pytest.mark.parametrize("vmpl", [4, 255, 0xFFFFFFFE])
def test_report_when_vmpl_does_not_exist_then_refused(vmpl: int) -> None:
    with pytest.raises(MalformedEvidenceError, match=f"VMPL is {vmpl}, expected 0 to 3"):
        sev_snp.parse(put(0x30, *vmpl.to_bytes(4, "little")))


@pytest.mark.parametrize("cpuid", [(0x17, 1), (0x19, 0x20), (0x19, 0xB0), (0x1A, 0x20), (0, 0)])
def test_report_when_the_processor_is_unknown_then_refused(cpuid: tuple[int, int]) -> None:
    with pytest.raises(MalformedEvidenceError, match=f"CPU family {cpuid[0]:#x} model {cpuid[1]:#x}"):
        sev_snp.parse(put(0x188, *cpuid))


@pytest.mark.parametrize(
    "offset",
    [
        *(0x3A, 0x3D, 0x4C, 0x4F, 0x182, 0x18B, 0x19F, 0x1E2, 0x1EB, 0x1EF, 0x1F5, 0x208, 0x29F),
        *(0x2A0 + 48, 0x2A0 + 71, 0x2E8 + 48, 0x2E8 + 71, 0x330, 0x49F),
    ],
)
def test_report_when_a_reserved_byte_is_set_then_names_it(offset: int) -> None:
    with pytest.raises(MalformedEvidenceError, match=f"reserved byte {offset:#x} .* is not zero"):
        sev_snp.parse(put(offset, 1))


def test_report_when_of_an_older_version_then_later_fields_are_reserved() -> None:
    older = replace(MILAN.report(), version=2, cpuid=None, launch_mitigation=None, current_mitigation=None)
    raw = sev_snp.encode(older)
    assert sev_snp.parse(raw) == older
    for version, offset in ((2, 0x188), (2, 0x1F8), (3, 0x200)):
        changed = put(
            0, version, raw=put(offset, 1, raw=raw if version == 2 else put(0x188, 0x19, 1, 1, raw=raw))
        )
        with pytest.raises(MalformedEvidenceError, match=f"reserved byte {offset:#x}"):
            sev_snp.parse(changed)


def test_report_when_of_turin_then_its_tcb_has_another_layout() -> None:
    raw = put(0x180, 1, 2, 3, 4, 0, 0, 0, 5, raw=sev_snp.encode(TURIN.report()))
    tcb = sev_snp.parse(raw).reported_tcb
    assert (tcb.fmc, tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode) == (1, 2, 3, 4, 5)
    milan = sev_snp.parse(put(0x180, 1, 2, 0, 0, 0, 0, 3, 4)).reported_tcb
    assert (milan.fmc, milan.bootloader, milan.tee, milan.snp, milan.microcode) == (None, 1, 2, 3, 4)
    with pytest.raises(MalformedEvidenceError, match="reserved byte 0x184"):
        sev_snp.parse(put(0x184, 1, raw=raw))


def test_report_when_read_then_bits_have_names() -> None:
    report = replace(MILAN.report(), policy=1 << 16 | 1 << 17 | 1 << 18 | 1 << 19, flags=1 << 2 | 2)
    assert report.smt_allowed
    assert report.migration_agent_allowed
    assert report.debug
    assert report.chip_key_masked
    assert report.signing_key is SnpKey.VLEK
    assert replace(report, cpuid=None).product is None


# --- certificate table ---


def entry(guid: bytes, offset: int, size: int) -> bytes:
    return guid + offset.to_bytes(4, "little") + size.to_bytes(4, "little")


END = bytes(ENTRY_SIZE)


def test_table_when_written_and_read_then_the_same() -> None:
    evidence = SnpEvidence(
        report=MILAN.report(), certificates={"vcek": b"one", "ask": b"two", "ark": b"three"}
    )
    assert parse_evidence(encode_evidence(evidence)) == evidence
    assert parse_evidence(encode_evidence(evidence) + bytes(4096)) == evidence
    assert parse_evidence(RAW) == SnpEvidence(report=MILAN.report())


def test_table_when_it_has_entries_of_others_then_they_are_left_out() -> None:
    table = entry(b"\7" * 16, 72, 4) + entry(GUIDS["vcek"], 76, 4) + END + b"junkVCEK"
    assert parse_evidence(RAW + table).certificates == {"vcek": b"VCEK"}


def armoured(der: bytes, label: str = "CERTIFICATE") -> bytes:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n".encode()


def table_of(name: str, content: bytes) -> bytes:
    return entry(GUIDS[name], 48, len(content)) + END + content


def test_table_when_its_certificates_are_in_pem_then_read_as_der() -> None:
    """Hosts that store what AMD's service gives out, chain in PEM, hand it on so."""
    der = b"\x30" + bytes(range(200))
    assert parse_evidence(RAW + table_of("ark", armoured(der))).certificates == {"ark": der}
    crl = armoured(der, "X509 CRL") + b"\n"
    assert parse_evidence(RAW + table_of("crl", crl)).certificates == {"crl": der}
    for name, content in (
        ("ark", armoured(armoured(der))),
        ("vcek", armoured(b"")),
        ("vcek", armoured(b"\x31")),
    ):
        with pytest.raises(MalformedEvidenceError, match=f"{name} in the certificate table is PEM around"):
            parse_evidence(RAW + table_of(name, content))


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (b"x", "ends without its closing entry"),
        (entry(GUIDS["vcek"], 24, 4), "ends without its closing entry"),
        (entry(GUIDS["vcek"], 24, 4) * 20 + END, "more than 16 entries"),
        (entry(GUIDS["vcek"], 0, 4) + END + b"VCEK", "has 4 bytes at 0, outside 48 to 52"),
        (entry(GUIDS["vcek"], 47, 4) + END + b"VCEK", "outside"),
        (entry(GUIDS["vcek"], 48, 5) + END + b"VCEK", "outside"),
        (entry(GUIDS["vcek"], 48, 0) + END + b"VCEK", "has 0 bytes"),
        (entry(GUIDS["vcek"], 0xFFFFFFFF, 0xFFFFFFFF) + END + b"VCEK", "outside"),
        (entry(GUIDS["vcek"], 72, 4) * 2 + END + b"VCEK", "names vcek twice"),
        (entry(GUIDS["vcek"], 48, 4) + END + b"VCEK" + b"\0x", "bytes other than zero follow"),
        (END + b"x", "bytes other than zero follow"),
    ],
)
def test_table_when_its_framing_is_wrong_then_says_how(table: bytes, reason: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        parse_evidence(RAW + table)


def test_evidence_when_too_long_or_too_short_then_refused() -> None:
    with pytest.raises(MalformedEvidenceError, match="at most 66720 are read"):
        parse_evidence(RAW + bytes(64 * 1024 + 1))
    with pytest.raises(MalformedEvidenceError, match="has 1183 bytes"):
        parse_evidence(RAW[:-1])
