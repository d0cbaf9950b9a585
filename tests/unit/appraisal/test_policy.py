"""The decision: what is accepted, and every reason why not, all at once."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from securetf.appraisal import appraise
from securetf.claims import Platform, VerifiedClaims
from securetf.errors import (
    AppraisalError,
    MeasurementError,
    PlatformNotAllowedError,
    TcbNotAcceptedError,
)

CODE = b"\3" * 48
OTHER = b"\7" * 48


def test_appraise_when_everything_matches_then_affirming(
    claims: VerifiedClaims, policy: Any, now: datetime
) -> None:
    result = appraise(claims, policy=policy, rtmr3=CODE, now=now)
    assert (result.status, result.claims, result.appraised_at) == ("affirming", claims, now)
    assert set(result.trustworthiness_vector.values()) == {2}


def test_appraise_when_simulated_then_never_affirming(
    claims: VerifiedClaims, policy: Any, now: datetime
) -> None:
    simulated = replace(claims, platform=Platform.INSECURE_SIMULATION, simulated=True)
    result = appraise(simulated, policy=policy, rtmr3=CODE, now=now)
    assert result.status == "contraindicated"
    assert result.trustworthiness_vector["hardware"] == 97


def test_appraise_when_tolerated_status_then_warning(
    claims: VerifiedClaims, policy: Any, now: datetime
) -> None:
    weak = replace(claims, tcb_status="SWHardeningNeeded", advisories=("INTEL-SA-00615",))
    policy.tolerate = ["SWHardeningNeeded", "INTEL-SA-00615"]
    assert appraise(weak, policy=policy, rtmr3=CODE, now=now).status == "warning"


def test_appraise_when_no_policy_for_the_platform_then_refused(claims: VerifiedClaims, now: datetime) -> None:
    with pytest.raises(PlatformNotAllowedError, match=r"no Reference Values for tdx; add \[appraisal.tdx\]"):
        appraise(claims, policy=None, rtmr3=CODE, now=now)


@pytest.mark.parametrize("register", ["mr_td", "rtmr0", "rtmr1", "rtmr2"])
def test_appraise_when_a_register_differs_then_names_found_and_expected(
    claims: VerifiedClaims, policy: Any, now: datetime, register: str
) -> None:
    setattr(policy, register, [OTHER.hex()])
    found = claims.registers[register].hex()
    with pytest.raises(MeasurementError, match=f"{register} is {found}, expected {OTHER.hex()}"):
        appraise(claims, policy=policy, rtmr3=CODE, now=now)


def test_appraise_when_the_code_register_differs_then_names_it(
    claims: VerifiedClaims, policy: Any, now: datetime
) -> None:
    with pytest.raises(MeasurementError, match=f"rtmr3 is {CODE.hex()}, expected {OTHER.hex()}"):
        appraise(claims, policy=policy, rtmr3=OTHER, now=now)


@pytest.mark.parametrize("register", ["mr_td", "rtmr0", "rtmr1", "rtmr2"])
def test_appraise_when_reference_values_are_empty_then_nothing_is_accepted(
    claims: VerifiedClaims, policy: Any, now: datetime, register: str
) -> None:
    setattr(policy, register, [])
    with pytest.raises(MeasurementError, match=f"{register} is .* expected nothing"):
        appraise(claims, policy=policy, rtmr3=CODE, now=now)


def test_appraise_when_a_register_is_absent_from_the_claims_then_refused(
    claims: VerifiedClaims, policy: Any, now: datetime
) -> None:
    registers = {name: value for name, value in claims.registers.items() if name != "rtmr3"}
    with pytest.raises(MeasurementError, match="rtmr3 is absent"):
        appraise(replace(claims, registers=registers), policy=policy, rtmr3=CODE, now=now)


def test_appraise_when_values_are_in_upper_case_or_second_in_the_list_then_accepted(
    claims: VerifiedClaims, policy: Any, now: datetime
) -> None:
    policy.mr_td = [OTHER.hex(), claims.registers["mr_td"].hex().upper()]
    policy.platform_ids = ["00", claims.platform_id.hex().upper()]
    result = appraise(claims, policy=policy, rtmr3=CODE, now=now)
    assert result.trustworthiness_vector["instance-identity"] == 2


@pytest.mark.parametrize(
    "status",
    [
        "OutOfDate",
        "ConfigurationNeeded",
        "SWHardeningNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDateConfigurationNeeded",
        "Revoked",
        "",
    ],
)
def test_appraise_when_tcb_status_is_not_named_then_refused(
    claims: VerifiedClaims, policy: Any, now: datetime, status: str
) -> None:
    with pytest.raises(TcbNotAcceptedError, match=f"TCB status is {status}, accepted: UpToDate"):
        appraise(replace(claims, tcb_status=status), policy=policy, rtmr3=CODE, now=now)


def test_appraise_when_no_status_is_accepted_then_even_up_to_date_is_refused(
    claims: VerifiedClaims, policy: Any, now: datetime
) -> None:
    policy.tcb = []
    with pytest.raises(TcbNotAcceptedError, match="TCB status is UpToDate, accepted: none"):
        appraise(claims, policy=policy, rtmr3=CODE, now=now)


def test_appraise_when_an_advisory_is_not_tolerated_then_names_it_alone(
    claims: VerifiedClaims, policy: Any, now: datetime
) -> None:
    weak = replace(claims, advisories=("INTEL-SA-00001", "INTEL-SA-00002"))
    policy.tolerate = ["INTEL-SA-00001"]
    with pytest.raises(TcbNotAcceptedError, match="not tolerated: INTEL-SA-00002;"):
        appraise(weak, policy=policy, rtmr3=CODE, now=now)


def test_appraise_when_the_machine_is_not_listed_then_refused(
    claims: VerifiedClaims, policy: Any, now: datetime
) -> None:
    policy.platform_ids = ["ff" * 16]
    with pytest.raises(PlatformNotAllowedError, match=f"machine {claims.platform_id.hex()} is not among"):
        appraise(claims, policy=policy, rtmr3=CODE, now=now)
    with pytest.raises(PlatformNotAllowedError, match="machine without identity"):
        appraise(replace(claims, platform_id=b""), policy=policy, rtmr3=CODE, now=now)


def test_appraise_when_endorsements_expired_since_then_refused(
    claims: VerifiedClaims, policy: Any, now: datetime
) -> None:
    with pytest.raises(AppraisalError, match="endorsements behind the claims expired"):
        appraise(claims, policy=policy, rtmr3=CODE, now=now + timedelta(days=1, seconds=1))


def test_appraise_when_several_things_differ_then_all_are_named_with_all_fixes(
    claims: VerifiedClaims, policy: Any, now: datetime
) -> None:
    policy.mr_td, policy.rtmr1, policy.platform_ids = [OTHER.hex()], [OTHER.hex()], ["00"]
    weak = replace(claims, tcb_status="OutOfDate", advisories=("INTEL-SA-00001",))
    with pytest.raises(AppraisalError) as caught:
        appraise(weak, policy=policy, rtmr3=OTHER, now=now)
    assert type(caught.value) is AppraisalError
    for word in ("mr_td is", "rtmr1 is", "rtmr3 is", "TCB status is OutOfDate", "INTEL-SA-00001", "machine "):
        assert word in caught.value.problem
    for word in ("reviewed software", "tolerate", "a machine that the Manifest names"):
        assert word in caught.value.fix
    policy.platform_ids = []
    with pytest.raises(MeasurementError) as only:
        appraise(claims, policy=policy, rtmr3=OTHER, now=now)
    assert only.value.problem.count("expected") == 3


def test_policy_id_when_any_part_of_the_policy_differs_then_differs(
    claims: VerifiedClaims, policy: Any, now: datetime
) -> None:
    def identity() -> str:
        return appraise(claims, policy=policy, rtmr3=CODE, now=now).policy_id

    first = identity()
    assert first == identity()
    assert first.startswith("sha256:")
    assert len(first) == len("sha256:") + 64
    seen = {first}
    for name, value in (
        ("mr_td", [*policy.mr_td, OTHER.hex()]),
        ("rtmr0", [bytes(48).hex()]),
        ("tcb", ["UpToDate", "OutOfDate"]),
        ("tolerate", ["OutOfDate"]),
        ("platform_ids", [claims.platform_id.hex()]),
    ):
        setattr(policy, name, value)
        assert identity() not in seen
        seen.add(identity())
