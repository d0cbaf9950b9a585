"""Appraisal of PCRs: accepted values, all mismatches at once, and what a token says of a machine
without TEE.
"""

from datetime import timedelta

import pytest

from securetf.appraisal import appraise
from securetf.claims import VerifiedClaims
from securetf.errors import (
    AppraisalError,
    ManifestValueError,
    MeasurementError,
    PlatformNotAllowedError,
    TcbNotAcceptedError,
)
from securetf.manifest.convert import struct
from securetf.manifest.platforms import PcrPolicy, SgxPolicy
from support.authority import NOW
from support.nitro import make_module
from support.tpm2 import make_tpm

TPM = make_tpm().verify()
NITRO = make_module().verify()
PCR0, PCR4 = TPM.registers["pcr0"].hex(), TPM.registers["pcr4"].hex()


def test_tpm_when_its_pcrs_are_accepted_then_contraindicated_all_the_same() -> None:
    result = appraise(TPM, policy=PcrPolicy(pcrs={"pcr0": (PCR0,), "pcr4": (PCR4,)}), rtmr3=b"", now=NOW)
    assert result.status == "contraindicated"  # the host reads its memory
    assert result.trustworthiness_vector["runtime-opaque"] == 96
    assert result.policy_id.startswith("sha256:")


def test_nitro_when_its_image_is_accepted_then_a_warning_since_no_tcb_is_reported() -> None:
    result = appraise(NITRO, policy=PcrPolicy(pcrs={"pcr0": ("01" * 48,)}), rtmr3=b"", now=NOW)
    assert (result.status, result.trustworthiness_vector["runtime-opaque"]) == ("warning", 2)


def test_pcrs_when_several_differ_then_all_are_named() -> None:
    policy = PcrPolicy(pcrs={"pcr0": ("00" * 32, PCR4), "pcr4": (PCR4,), "pcr9": ("11" * 32,)})
    with pytest.raises(MeasurementError, match=r"pcr0 is .*; pcr9 is "):
        appraise(TPM, policy=policy, rtmr3=b"", now=NOW)
    with pytest.raises(MeasurementError, match="pcr31 is absent"):
        appraise(TPM, policy=PcrPolicy(pcrs={"pcr31": (PCR0,)}), rtmr3=b"", now=NOW)


def test_nitro_when_the_image_is_not_named_then_refused() -> None:
    with pytest.raises(MeasurementError, match="does not name pcr0"):
        appraise(NITRO, policy=PcrPolicy(pcrs={"pcr1": ("02" * 48,)}), rtmr3=b"", now=NOW)


def test_machine_status_policy_or_time_when_not_accepted_then_refused() -> None:
    pcrs = {"pcr0": (PCR0,)}
    with pytest.raises(PlatformNotAllowedError, match="is not among platform_ids"):
        appraise(TPM, policy=PcrPolicy(pcrs=pcrs, platform_ids=("00",)), rtmr3=b"", now=NOW)
    with pytest.raises(TcbNotAcceptedError, match="TCB status is NotReported"):
        appraise(TPM, policy=PcrPolicy(pcrs=pcrs, tcb=("UpToDate",)), rtmr3=b"", now=NOW)
    with pytest.raises(PlatformNotAllowedError, match="not one for tpm2"):
        appraise(TPM, policy=SgxPolicy(mr_enclave=("00" * 32,)), rtmr3=b"", now=NOW)
    with pytest.raises(AppraisalError, match="endorsements behind the claims expired"):
        appraise(TPM, policy=PcrPolicy(pcrs=pcrs), rtmr3=b"", now=NOW + timedelta(days=2))


@pytest.mark.parametrize(
    "pcrs",
    [{}, {"pcr32": [PCR0]}, {"pcr01": [PCR0]}, {"pcr0": []}, {"pcr0": ["00"]}, {"pcr0": [PCR0.upper()]}],
)
def test_policy_when_a_pcr_is_odd_or_none_is_named_then_refused(pcrs: dict[str, list[str]]) -> None:
    with pytest.raises(ManifestValueError):
        struct({"pcrs": pcrs}, PcrPolicy, ("appraisal", "nitro"))


@pytest.mark.parametrize("claims", [TPM, NITRO], ids=["TPM", "Nitro"])
def test_policy_when_it_names_no_pcr_then_nothing_is_accepted(claims: VerifiedClaims) -> None:
    """Also where no Manifest was read, whose rule refuses it before."""
    with pytest.raises(MeasurementError, match="the policy names no PCR, which accepts nothing"):
        appraise(claims, policy=PcrPolicy(pcrs={}), rtmr3=b"", now=NOW)
    with pytest.raises(MeasurementError, match=r"pcr0 is .*, expected nothing"):
        appraise(claims, policy=PcrPolicy(pcrs={"pcr0": ()}), rtmr3=b"", now=NOW)
