"""Appraisal of Azure confidential VMs: the hardware report and the PCRs count, each alone is nothing."""

from dataclasses import replace
from datetime import timedelta

import pytest

from securetf.appraisal import appraise
from securetf.claims import Platform, VerifiedClaims
from securetf.errors import (
    AppraisalError,
    ManifestValueError,
    MeasurementError,
    PlatformNotAllowedError,
    TcbNotAcceptedError,
)
from securetf.manifest.convert import struct
from securetf.manifest.platforms import AzurePolicy, AzureTdxPolicy, PcrPolicy, SnpPolicy, SnpTcbMinimum
from support import snp_platform
from support.authority import NOW

PCRS = {"pcr4": ("04" * 32,), "pcr7": ("07" * 32,)}
REGISTERS = {f"pcr{index}": bytes([index]) * 32 for index in range(24)}
MINIMUM = SnpTcbMinimum(bootloader=4, tee=0, snp=24, microcode=219)
SNP = SnpPolicy(measurement=("01" * 48,), minimum_tcb={"Milan": MINIMUM}, tolerate=("SMT",))
TDX = AzureTdxPolicy(mr_td=("07" * 48,), tolerate=("INTEL-SA-1",))


@pytest.fixture(scope="module")
def snp() -> VerifiedClaims:
    """Claims as the verifier of Azure makes them from those of its hardware (here synthetic)."""
    found = snp_platform.Platform().verify()
    return replace(
        found,
        platform=Platform.AZURE_VTPM,
        registers={**found.registers, **REGISTERS},
        properties={**found.properties, "hardware": "sev_snp"},
        simulated=False,
    )


@pytest.fixture(scope="module")
def tdx() -> VerifiedClaims:
    return VerifiedClaims(
        platform=Platform.AZURE_VTPM,
        registers={"mr_td": b"\7" * 48, "rtmr0": b"\0" * 48, **REGISTERS},
        report_data=bytes(64),
        tcb_status="UpToDate",
        advisories=("INTEL-SA-1",),
        tcb_evaluation_number=18,
        platform_id=b"ppid",
        valid_until=NOW + timedelta(hours=1),
        simulated=False,
        properties={"hardware": "tdx"},
    )


def test_azure_when_hardware_and_pcrs_are_accepted_then_no_warning_on_snp(snp: VerifiedClaims) -> None:
    result = appraise(snp, policy=AzurePolicy(pcrs=PCRS, sev_snp=SNP), rtmr3=b"", now=NOW)
    assert (result.status, result.trustworthiness_vector["runtime-opaque"]) == ("affirming", 2)
    other = appraise(snp, policy=AzurePolicy(pcrs={"pcr4": PCRS["pcr4"]}, sev_snp=SNP), rtmr3=b"", now=NOW)
    assert result.policy_id != other.policy_id


def test_azure_when_an_advisory_applies_then_it_must_be_named(tdx: VerifiedClaims) -> None:
    assert appraise(tdx, policy=AzurePolicy(pcrs=PCRS, tdx=TDX), rtmr3=b"", now=NOW).status == "warning"
    strict = AzureTdxPolicy(mr_td=TDX.mr_td)
    with pytest.raises(TcbNotAcceptedError, match="INTEL-SA-1"):
        appraise(tdx, policy=AzurePolicy(pcrs=PCRS, tdx=strict), rtmr3=b"", now=NOW)


def test_azure_when_its_hardware_is_not_named_then_refused(snp: VerifiedClaims, tdx: VerifiedClaims) -> None:
    for claims, policy in (
        (snp, AzurePolicy(pcrs=PCRS, tdx=TDX)),
        (tdx, AzurePolicy(pcrs=PCRS, sev_snp=SNP)),
    ):
        with pytest.raises(PlatformNotAllowedError, match="does not name the hardware"):
            appraise(claims, policy=policy, rtmr3=b"", now=NOW)
    nothing = replace(tdx, properties={})
    with pytest.raises(PlatformNotAllowedError, match="does not name the hardware unknown"):
        appraise(nothing, policy=AzurePolicy(pcrs=PCRS, tdx=TDX), rtmr3=b"", now=NOW)


def test_azure_when_both_steps_differ_then_all_is_named_at_once(snp: VerifiedClaims) -> None:
    higher = SnpTcbMinimum(bootloader=5, tee=0, snp=24, microcode=219)
    policy = AzurePolicy(
        pcrs={"pcr4": ("00" * 32,)},
        sev_snp=SnpPolicy(measurement=("02" * 48,), minimum_tcb={"Milan": higher}),
        platform_ids=("00",),
    )
    with pytest.raises(
        AppraisalError, match=r"pcr4 is .*measurement is .*reported TCB has bootloader 4.*platform_ids"
    ):
        appraise(snp, policy=policy, rtmr3=b"", now=NOW)


def test_azure_when_the_policy_names_no_pcr_then_the_hardware_alone_is_not_enough(
    tdx: VerifiedClaims,
) -> None:
    with pytest.raises(MeasurementError, match="the policy names no PCR, which accepts nothing"):
        appraise(tdx, policy=AzurePolicy(pcrs={}, tdx=TDX), rtmr3=b"", now=NOW)


@pytest.mark.parametrize("name", ["mr_td", "rtmr0", "rtmr3"])
def test_azure_when_a_register_of_the_td_differs_then_refused(tdx: VerifiedClaims, name: str) -> None:
    values = {"mr_td": TDX.mr_td, "tolerate": TDX.tolerate, name: ("ff" * 48,)}
    with pytest.raises(MeasurementError, match=f"{name} is "):
        appraise(tdx, policy=AzurePolicy(pcrs=PCRS, tdx=AzureTdxPolicy(**values)), rtmr3=b"", now=NOW)


def test_azure_when_policy_or_claims_are_of_another_platform_then_refused(tdx: VerifiedClaims) -> None:
    with pytest.raises(PlatformNotAllowedError, match="not one for azure_vtpm"):
        appraise(tdx, policy=PcrPolicy(pcrs=PCRS), rtmr3=b"", now=NOW)
    tpm = replace(tdx, platform=Platform.TPM2)
    with pytest.raises(PlatformNotAllowedError, match="not one for tpm2"):
        appraise(tpm, policy=AzurePolicy(pcrs=PCRS, tdx=TDX), rtmr3=b"", now=NOW)
    plain = replace(tdx, platform=Platform.TDX)
    with pytest.raises(PlatformNotAllowedError, match="not one for tdx"):
        appraise(plain, policy=AzurePolicy(pcrs=PCRS, tdx=TDX), rtmr3=bytes(48), now=NOW)


@pytest.mark.parametrize(
    "table", [{}, {"pcrs": {}}, {"pcrs": PCRS, "sgx": {}}, {"pcrs": PCRS, "tdx": {"rtmr3": ["00" * 48]}}]
)
def test_azure_when_its_table_is_not_whole_then_refused(table: dict[str, object]) -> None:
    with pytest.raises(ManifestValueError):
        struct(table, AzurePolicy, ("appraisal", "azure_vtpm"))
