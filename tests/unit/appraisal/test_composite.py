"""Composite Evidence: every part by its own policy, none missing, all mismatches at once."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from securetf.appraisal import appraise_all
from securetf.claims import Platform, VerifiedClaims
from securetf.errors import AppraisalError, MeasurementError, PlatformNotAllowedError
from securetf.manifest import PcrPolicy

RTMR3 = b"\3" * 48


@pytest.fixture
def tpm(claims: VerifiedClaims) -> VerifiedClaims:
    registers = {f"pcr{index}": bytes([index]) * 32 for index in range(24)}
    return replace(
        claims, platform=Platform.TPM2, registers=registers, tcb_status="NotReported", platform_id=b"ek"
    )


PCRS = PcrPolicy(pcrs={"pcr4": ((b"\4" * 32).hex(),)})


def test_parts_when_all_accepted_then_one_result_each(
    claims: VerifiedClaims, tpm: VerifiedClaims, policy: Any, now: datetime
) -> None:
    results = appraise_all(
        (claims, tpm), policies={"tdx": policy, "tpm2": PCRS}, require=("tdx", "tpm2"), rtmr3=RTMR3, now=now
    )
    assert [one.claims.platform for one in results] == [Platform.TDX, Platform.TPM2]


def test_parts_when_several_do_not_fit_then_all_mismatches_are_told_at_once(
    claims: VerifiedClaims, tpm: VerifiedClaims, policy: Any, now: datetime
) -> None:
    other = PcrPolicy(pcrs={"pcr4": ("0" * 64,)})
    with pytest.raises(MeasurementError, match=r"rtmr3.*pcr4"):
        appraise_all(
            (claims, tpm), policies={"tdx": policy, "tpm2": other}, require=(), rtmr3=bytes(48), now=now
        )
    with pytest.raises(PlatformNotAllowedError, match="names no Reference Values for tpm2"):
        appraise_all((claims, tpm), policies={"tdx": policy}, require=(), rtmr3=RTMR3, now=now)
    with pytest.raises(
        AppraisalError, match=r"rtmr3.*requires Evidence of tpm2, which is missing"
    ) as refused:
        appraise_all((claims,), policies={"tdx": policy}, require=("tpm2",), rtmr3=bytes(48), now=now)
    assert type(refused.value) is AppraisalError
    assert "--attester tpm2" in refused.value.fix
