"""What Evidence needs is read from it before anything is believed: it is the key of a look-up, and exact."""

from dataclasses import replace

import pytest

from securetf.attester import development_pki
from securetf.attester.simulated_enclave import simulated_report
from securetf.claims import Evidence, Platform
from securetf.endorsements.needs import DcapNeed, IssuersNeed, PckCa, SnpNeed, Tee
from securetf.errors import EndorsementError, MalformedEvidenceError
from securetf.evidence import sev_snp_certificates, sgx
from securetf.evidence.sev_snp import SnpKey, SnpProduct
from securetf.evidence.sev_snp_certificates import SnpEvidence
from securetf.verifier.needs import needs_of
from support import shared_vectors, snp_platform, tpm2
from support.nitro import make_module
from support.sgx_platform import NOW, SgxPlatform


def snp(raw: bytes) -> SnpNeed:
    (need,) = needs_of(Evidence(Platform.SEV_SNP, raw))
    assert isinstance(need, SnpNeed)
    return need


@pytest.mark.parametrize("product", list(SnpProduct))
def test_report_when_bare_then_its_chip_and_reported_firmware(product: SnpProduct) -> None:
    chip = snp_platform.Platform(product)
    need = snp(chip.signed())
    assert need == SnpNeed(product=product, key=SnpKey.VCEK, chip_id=chip.hw_id, tcb=chip.tcb)
    assert len(need.chip_id) == (8 if product is SnpProduct.TURIN else 64)


def test_report_when_its_vcek_came_along_then_the_chain_above_alone() -> None:
    chip = snp_platform.Platform(SnpProduct.GENOA)
    report = sev_snp_certificates.parse(chip.signed()).report
    carried = SnpEvidence(report=report, certificates={"vcek": chip.vcek().der()})
    assert snp(sev_snp_certificates.encode(carried)).chip_id == b""


def test_report_when_of_version_2_then_no_product_line_unless_a_certificate_tells() -> None:
    chip = snp_platform.Platform()
    raw = chip.signed(version=2, cpuid=None, launch_mitigation=None, current_mitigation=None)
    assert snp(raw).product is None
    report = sev_snp_certificates.parse(raw).report
    for certificate, line in ((chip.vcek().der(), SnpProduct.MILAN), (b"damaged", None)):
        carried = SnpEvidence(report=report, certificates={"vcek": certificate})
        assert snp(sev_snp_certificates.encode(carried)).product is line


def test_report_when_its_chip_id_is_masked_then_nothing_is_looked_up_for_a_chip() -> None:
    assert snp(snp_platform.Platform().signed(chip_id=bytes(64))).chip_id == b""


def test_quotes_when_read_then_fmspc_and_issuer_of_the_pck() -> None:
    machine = SgxPlatform.make()
    need = DcapNeed(tee=Tee.SGX, fmspc=development_pki.FMSPC, ca=PckCa.PLATFORM)
    assert needs_of(Evidence(Platform.SGX, machine.quote())) == (need,)
    keys = development_pki.create(NOW, platform_id=bytes(16), fmspc="00806f050000")
    quote = keys.quoting_enclave().quote(simulated_report(bytes(64), mr_td=bytes(48), rtmr3=bytes(48)))
    (need,) = needs_of(Evidence(Platform.TDX, quote))
    assert need == DcapNeed(tee=Tee.TDX, fmspc="00806F050000", ca=PckCa.PLATFORM)
    with pytest.raises(EndorsementError, match="not 12 hex digits"):
        DcapNeed(tee=Tee.TDX, fmspc="../../etc/x", ca=PckCa.PLATFORM)


def test_quote_when_its_chain_is_no_chain_or_its_issuer_unknown_then_refused() -> None:
    keys = SgxPlatform.make().keys
    for chain, reason in (
        (b"nothing", "not PEM certificates"),
        (development_pki.pem_chain(keys.root).encode(), "is not one of Intel's"),
    ):
        quote = replace(sgx.parse(SgxPlatform.make().quote()), pck_chain=chain)
        with pytest.raises(MalformedEvidenceError, match=reason):
            needs_of(Evidence(Platform.SGX, sgx.encode(quote)))


def test_tpm_when_certified_then_its_chain_and_when_enrolled_nothing() -> None:
    machine = tpm2.make_tpm()
    chain = (machine.certificate.der, machine.root.der)
    assert needs_of(Evidence(Platform.TPM2, machine.evidence())) == (IssuersNeed(chain=chain),)
    assert needs_of(Evidence(Platform.TPM2, machine.evidence(certificates=()))) == ()


def test_nitro_and_simulation_when_read_then_nothing() -> None:
    assert needs_of(Evidence(Platform.NITRO, make_module().document())) == ()
    assert needs_of(Evidence(Platform.INSECURE_SIMULATION, b"")) == ()


@shared_vectors.NEEDED
@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
def test_genuine_evidence_when_read_then_what_its_manifest_says() -> None:
    for name, platform, ca in (
        ("tdx/dcapqvl_tdx_v4.bin", Platform.TDX, PckCa.PLATFORM),
        ("sgx/dcapqvl_sgx_v3.bin", Platform.SGX, PckCa.PROCESSOR),
    ):
        (need,) = needs_of(Evidence(platform, (shared_vectors.VECTORS / name).read_bytes()))
        assert isinstance(need, DcapNeed)
        assert need.ca is ca
    raw = (shared_vectors.VECTORS / "tpm/azure_snp_milan_evidence_v0.json").read_bytes()
    (need,) = needs_of(Evidence(Platform.AZURE_VTPM, raw))
    assert isinstance(need, SnpNeed)
    assert (need.product, need.chip_id) == (SnpProduct.MILAN, b"")
