"""Attesters of TDX, SEV-SNP and SGX against fake kernels: the protocol, and why they refuse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from securetf.attester import configfs_tsm, development_pki
from securetf.attester.sev_snp import SnpAttester
from securetf.attester.sgx import SgxAttester
from securetf.attester.simulated_enclave import simulated_report
from securetf.attester.tdx import TdxAttester
from securetf.claims import Platform
from securetf.errors import AttesterError, MalformedEvidenceError
from securetf.evidence import sev_snp_certificates, tdx
from support.configfs import FakeKernel
from support.sgx_platform import NOW, SgxPlatform
from support.snp_platform import Platform as Chip

REPORT_DATA = bytes(range(1, 65))


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeKernel]:
    def make(provider: str, answer: Callable[[bytes], bytes]) -> FakeKernel:
        return FakeKernel(tmp_path, provider, answer).install(monkeypatch)

    return make


def snp_report(report_data: bytes) -> bytes:
    return Chip().signed(report_data=report_data)


def tdx_quote(report_data: bytes) -> bytes:
    keys = development_pki.create(NOW, platform_id=bytes(16))
    return keys.quoting_enclave().quote(simulated_report(report_data, mr_td=bytes(48), rtmr3=bytes(48)))


def test_tdx_when_the_kernel_answers_then_the_quote_carries_the_report_data(kernel: Any) -> None:
    fake = kernel("tdx_guest", tdx_quote)
    evidence = TdxAttester(fake.root).attest(REPORT_DATA)
    assert evidence.platform is Platform.TDX
    assert tdx.parse(evidence.raw).body.report_data == REPORT_DATA
    assert not list(fake.root.iterdir())


def test_snp_when_the_kernel_answers_then_report_and_table_are_the_evidence(kernel: Any) -> None:
    fake = kernel("sev_guest", snp_report)
    assert len(SnpAttester(fake.root).attest(REPORT_DATA).raw) == 1184
    chip = Chip()
    whole = sev_snp_certificates.encode(
        sev_snp_certificates.SnpEvidence(
            report=chip.report(), certificates={"vcek": chip.endorsements().vek or b""}
        )
    )
    fake.auxblob = whole[1184:] + bytes(4096 - len(whole))
    found = sev_snp_certificates.parse(SnpAttester(fake.root).attest(REPORT_DATA).raw)
    assert found.report.report_data == REPORT_DATA
    assert set(found.certificates) == {"vcek"}
    assert len(fake.made) == len(set(fake.made)) == 2


def test_provider_when_asked_then_its_name_and_nothing_is_left(kernel: Any) -> None:
    fake = kernel("sev_guest", snp_report)
    assert configfs_tsm.provider(fake.root) == "sev_guest"
    assert not list(fake.root.iterdir())


def test_request_when_another_process_writes_in_between_then_refused(kernel: Any) -> None:
    fake = kernel("sev_guest", snp_report)
    fake.extra_writes = 1
    with pytest.raises(AttesterError, match="generation went from 0 to 2 around one write"):
        SnpAttester(fake.root).attest(REPORT_DATA)
    assert not list(fake.root.iterdir())


def test_request_when_the_answer_is_for_others_then_refused(kernel: Any) -> None:
    for attester, provider, answer in (
        (SnpAttester, "sev_guest", snp_report),
        (TdxAttester, "tdx_guest", tdx_quote),
    ):
        fake = kernel(provider, lambda _, answer=answer: answer(bytes(64)))
        with pytest.raises(AttesterError, match="with other report data"):
            attester(fake.root).attest(REPORT_DATA)
        fake.answer = lambda _: b"nothing"
        with pytest.raises(MalformedEvidenceError):
            attester(fake.root).attest(REPORT_DATA)
        fake.answer = lambda _: bytes(configfs_tsm.BLOB_SIZE_LIMIT + 1)
        with pytest.raises(AttesterError, match="outblob has more than"):
            attester(fake.root).attest(REPORT_DATA)
        assert not list(fake.root.iterdir())


def test_request_when_there_is_no_device_or_another_one_then_says_what_was_found(
    kernel: Any, tmp_path: Path
) -> None:
    fake = kernel("tdx_guest", tdx_quote)
    with pytest.raises(AttesterError, match="TSM is 'tdx_guest', expected 'sev_guest'"):
        SnpAttester(fake.root).attest(REPORT_DATA)
    fake.root = tmp_path / "absent"
    with pytest.raises(AttesterError, match="absent gives no reports: No such file"):
        TdxAttester(tmp_path / "absent").attest(REPORT_DATA)
    for size in (0, 63, 65):
        with pytest.raises(AttesterError, match=f"has {size} bytes, expected 64"):
            TdxAttester(tmp_path).attest(bytes(size))


def test_request_when_the_real_root_is_absent_then_refused() -> None:
    if configfs_tsm.ROOT.exists():
        pytest.skip("this machine has configfs-tsm")
    with pytest.raises(AttesterError, match="gives no reports"):
        TdxAttester().attest(REPORT_DATA)


# --- Gramine ---


@pytest.fixture
def gramine(tmp_path: Path) -> Path:
    (tmp_path / "attestation_type").write_text("dcap")
    (tmp_path / "user_report_data").write_bytes(b"")
    (tmp_path / "quote").write_bytes(SgxPlatform.make().quote(report_data=REPORT_DATA))
    return tmp_path


def test_sgx_when_gramine_answers_then_the_quote_carries_the_report_data(gramine: Path) -> None:
    evidence = SgxAttester(gramine).attest(REPORT_DATA)
    assert evidence.platform is Platform.SGX
    assert (gramine / "user_report_data").read_bytes() == REPORT_DATA


def test_sgx_when_gramine_answers_otherwise_then_refused(gramine: Path, tmp_path: Path) -> None:
    with pytest.raises(AttesterError, match="with other report data"):
        SgxAttester(gramine).attest(bytes(64))
    with pytest.raises(AttesterError, match="has 63 bytes, expected 64"):
        SgxAttester(gramine).attest(bytes(63))
    (gramine / "quote").write_bytes(bytes(32 * 1024 + 1))
    with pytest.raises(AttesterError, match="quote has more than 32768 bytes"):
        SgxAttester(gramine).attest(REPORT_DATA)
    (gramine / "attestation_type").write_text("epid")
    with pytest.raises(AttesterError, match="attests by 'epid', expected 'dcap'"):
        SgxAttester(gramine).attest(REPORT_DATA)
    with pytest.raises(AttesterError, match="attestation_type cannot be read: No such file"):
        SgxAttester(tmp_path / "absent").attest(REPORT_DATA)
