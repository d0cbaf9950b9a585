"""For every SEV-SNP report: parse and encode agree, no truncation or bit flip passes, only our errors
leave.
"""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from securetf.endorsements.sev_snp import SnpEndorsements
from securetf.errors import EndorsementError, EvidenceError, MalformedEvidenceError
from securetf.evidence import sev_snp
from securetf.evidence.sev_snp import SnpProduct, SnpReport, SnpTcb
from securetf.evidence.sev_snp_certificates import GUIDS, SnpEvidence
from securetf.evidence.sev_snp_certificates import encode as encode_evidence
from securetf.evidence.sev_snp_certificates import parse as parse_evidence
from support.snp_platform import Platform

FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MILAN = Platform()
QUOTE = MILAN.signed()
KNOWN = MILAN.endorsements()
CPUIDS = [(0x19, 0, 0), (0x19, 0x0F, 255), (0x19, 0x11, 1), (0x19, 0xA0, 2), (0x1A, 0, 0), (0x1A, 0x11, 9)]


def sized(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


def number(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


@st.composite
def reports(draw: st.DrawFn) -> SnpReport:
    version = draw(st.sampled_from(sev_snp.VERSIONS))
    cpuid = None if version == 2 else draw(st.sampled_from(CPUIDS))
    turin = cpuid is not None and cpuid[0] == 0x1A
    byte = number(8)
    tcb = st.builds(
        SnpTcb, bootloader=byte, tee=byte, snp=byte, microcode=byte, fmc=byte if turin else st.none()
    )
    values: dict[str, Any] = {name: draw(sized(size)) for name, _, size in sev_snp._BYTES}
    values |= {name: draw(tcb) for name, _ in sev_snp._TCBS}
    values |= {name: draw(st.tuples(byte, byte, byte)) for name, _ in sev_snp._FIRMWARE}
    values |= {name: draw(number(64)) if version == 5 else None for name, _ in sev_snp._MITIGATIONS}
    values |= {name: draw(number(384)) for name, _ in sev_snp._SIGNATURE}
    return SnpReport(
        **values,
        version=version,
        cpuid=cpuid,
        guest_svn=draw(number(32)),
        policy=draw(number(26)) | 1 << 17,
        vmpl=draw(st.sampled_from([0, 1, 2, 3, 0xFFFFFFFF])),
        platform_info=draw(number(64)),
        flags=draw(number(3)),
    )


@given(reports())
@FEW
def test_parse_of_encode_is_the_same_report(report: SnpReport) -> None:
    raw = sev_snp.encode(report)
    assert len(raw) == sev_snp.REPORT_SIZE
    assert sev_snp.parse(raw) == report


@given(reports(), st.dictionaries(st.sampled_from(sorted(GUIDS)), st.binary(min_size=1, max_size=50)))
@FEW
def test_parse_of_encode_is_the_same_evidence(report: SnpReport, certificates: dict[str, bytes]) -> None:
    evidence = SnpEvidence(report=report, certificates=certificates)
    assert parse_evidence(encode_evidence(evidence)) == evidence


@given(reports(), st.data())
@FEW
def test_truncated_report_is_refused(report: SnpReport, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, sev_snp.REPORT_SIZE - 1))
    with pytest.raises(MalformedEvidenceError):
        parse_evidence(sev_snp.encode(report)[:size])


@given(st.binary(max_size=3000))
@FEW
def test_parse_of_anything_raises_only_our_error(raw: bytes) -> None:
    for candidate in (raw, sev_snp.encode(MILAN.report()) + raw, raw[:1184].ljust(1184, b"\0")):
        try:
            parse_evidence(candidate)
        except MalformedEvidenceError:
            continue


@given(st.integers(0, len(QUOTE) - 1), st.integers(0, 7))
@settings(max_examples=400, deadline=None)
def test_flipped_bit_anywhere_in_a_report_is_refused(offset: int, bit: int) -> None:
    changed = bytearray(QUOTE)
    changed[offset] ^= 1 << bit
    with pytest.raises(EvidenceError):
        MILAN.verify(bytes(changed))


@given(st.sampled_from(["root", "ask", "vek", "crl"]), st.data())
@settings(max_examples=400, deadline=None)
def test_verify_with_mutated_certificates_is_refused_with_our_errors(name: str, data: st.DataObject) -> None:
    der = bytearray(getattr(KNOWN, name))
    der[data.draw(st.integers(0, len(der) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(EvidenceError):
        MILAN.verify(QUOTE, endorsements=replace(KNOWN, **{name: bytes(der)}))


@given(st.lists(st.binary(max_size=200), max_size=3))
@FEW
def test_endorsements_of_any_files_raise_only_our_error(files: list[bytes]) -> None:
    try:
        SnpEndorsements.of(files)
    except EndorsementError:
        return


def test_product_lines_when_read_from_cpuid_are_those_of_the_strategy() -> None:
    lines = {replace(MILAN.report(), cpuid=cpuid).product for cpuid in CPUIDS}
    assert lines == set(SnpProduct)
