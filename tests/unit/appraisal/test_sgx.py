"""The decision about SGX enclaves: each row of the policy, and why it refuses."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from securetf.appraisal import appraise
from securetf.claims import VerifiedClaims
from securetf.errors import AppraisalError, MeasurementError, TcbNotAcceptedError
from securetf.manifest import SgxPolicy
from support.sgx_platform import NOW, SgxPlatform

ENCLAVE, SIGNER = "01" * 32, "02" * 32
POLICY = SgxPolicy(mr_enclave=(ENCLAVE,))


@pytest.fixture(scope="module")
def claims() -> VerifiedClaims:
    return replace(SgxPlatform.make().verify(), simulated=False)


def refused(claims: VerifiedClaims, **changes: Any) -> AppraisalError:
    with pytest.raises(AppraisalError) as caught:
        appraise(claims, policy=msgspec.structs.replace(POLICY, **changes), rtmr3=bytes(48), now=NOW)
    return caught.value


def test_appraise_when_enclave_or_signer_with_product_matches_then_affirming(claims: VerifiedClaims) -> None:
    signer = SgxPolicy(mr_signer=(SIGNER,), isv_prod_id=3, minimum_isv_svn=4)
    for policy in (POLICY, signer, msgspec.structs.replace(POLICY, mr_signer=(SIGNER,))):
        assert appraise(claims, policy=policy, rtmr3=bytes(48), now=NOW).status == "affirming"


def test_appraise_when_nothing_identifies_the_enclave_then_refused(claims: VerifiedClaims) -> None:
    assert "names neither mr_enclave nor mr_signer" in refused(claims, mr_enclave=None).problem
    error = refused(claims, mr_enclave=None, mr_signer=(SIGNER,))
    assert type(error) is MeasurementError
    assert "mr_signer without isv_prod_id" in error.problem
    assert "expected nothing" in refused(claims, mr_enclave=()).problem


def test_appraise_when_a_measurement_differs_then_names_found_and_expected(claims: VerifiedClaims) -> None:
    other = "77" * 32
    assert refused(claims, mr_enclave=(other,)).problem == f"mr_enclave is {ENCLAVE}, expected {other}"
    assert refused(claims, mr_signer=(other,)).problem == f"mr_signer is {SIGNER}, expected {other}"
    assert refused(claims, isv_prod_id=4).problem == "isv_prod_id is 3, expected 4"


def test_appraise_when_isv_svn_is_lower_then_refused(claims: VerifiedClaims) -> None:
    error = refused(claims, minimum_isv_svn=5)
    assert type(error) is TcbNotAcceptedError
    assert error.problem == "isv_svn is 4, expected at least 5"


def test_appraise_when_status_or_advisory_is_not_named_then_refused(claims: VerifiedClaims) -> None:
    weak = replace(claims, tcb_status="SWHardeningNeeded", advisories=("INTEL-SA-00615",))
    problem = refused(weak).problem
    assert "TCB status is SWHardeningNeeded" in problem
    assert "INTEL-SA-00615" in problem
    tolerant = msgspec.structs.replace(POLICY, tolerate=("SWHardeningNeeded", "INTEL-SA-00615"))
    assert appraise(weak, policy=tolerant, rtmr3=bytes(48), now=NOW).status == "warning"


def test_appraise_when_the_machine_is_not_listed_or_claims_are_simulated_then_refused(
    claims: VerifiedClaims,
) -> None:
    assert "is not among platform_ids" in refused(claims, platform_ids=("ff" * 16,)).problem
    assert "simulated claims call themselves sgx" in refused(replace(claims, simulated=True)).problem
