"""What the TDX verifier must refuse (EVIDENCE.md): module, QE, TCB, configuration, binding."""

from datetime import datetime
from typing import Any

import pytest

from securetf.attester import development_pki as pki
from securetf.errors import (
    BindingError,
    ConfigurationError,
    EndorsementError,
    TcbError,
)


def level(status: str, **changes: Any) -> list[dict[str, Any]]:
    """The TCB levels of the platform with another status."""
    (first,) = pki.tcb_info(datetime(2026, 11, 22))["tcbLevels"]  # noqa: DTZ001 - only a date inside
    return [first | {"tcbStatus": status} | changes]


# --- TDX module and quoting enclave ---


def module(identity: str, isvsvn: int) -> list[dict[str, Any]]:
    base = pki.tcb_info(datetime(2026, 11, 22))["tdxModule"]  # noqa: DTZ001
    levels = [{"tcb": {"isvsvn": isvsvn}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"}]
    return [base | {"id": identity, "tcbLevels": levels}]


def test_tdx_module_when_identity_is_missing_or_another_then_refused(kit: Any, now: Any) -> None:
    raw = kit.quote(tee_tcb_svn=bytes([5, 1, 2, *bytes(13)]))
    known = kit.endorse(tcb={"tdxModuleIdentities": module("TDX_01", 5)})
    assert kit.verify(raw, endorsements=known).tcb_status == "UpToDate"
    unknown = kit.endorse(tcb={"tdxModuleIdentities": module("TDX_03", 5)})
    with pytest.raises(EndorsementError, match="no identity of TDX module version 1"):
        kit.verify(raw, endorsements=unknown)
    old = kit.endorse(tcb={"tdxModuleIdentities": module("TDX_01", 6)})
    with pytest.raises(TcbError, match="TDX module ISVSVN 5 is older"):
        kit.verify(raw, endorsements=old)
    tcb = pki.tcb_info(now)
    del tcb["tdxModule"]
    with pytest.raises(EndorsementError, match="no identity of TDX module version 0"):
        kit.verify(endorsements=pki.endorse(kit.keys, now, tcb=tcb))


def test_tdx_module_when_versioned_and_collateral_names_no_identity_then_refused(kit: Any) -> None:
    with pytest.raises(EndorsementError, match="no identity of TDX module version 1"):
        kit.verify(kit.quote(tee_tcb_svn=bytes([5, 1, 2, *bytes(13)])))


def test_tdx_module_when_signed_by_another_or_with_attributes_then_refused(kit: Any) -> None:
    with pytest.raises(EndorsementError, match="TDX module MRSIGNER"):
        kit.verify(kit.quote(mr_signer_seam=bytes([1]) * 48))
    with pytest.raises(EndorsementError, match="TDX module SEAMATTRIBUTES"):
        kit.verify(kit.quote(seam_attributes=bytes([1, *bytes(7)])))


def test_quoting_enclave_when_of_another_signer_or_too_old_then_refused(kit: Any) -> None:
    foreign = kit.keys.quoting_enclave(mr_signer=bytes(32))
    with pytest.raises(EndorsementError, match="quoting enclave has MRSIGNER 0000"):
        kit.verify(foreign.quote(kit.body()))
    old = kit.keys.quoting_enclave(isv_svn=3)
    with pytest.raises(TcbError, match="quoting enclave ISVSVN 3 is older"):
        kit.verify(old.quote(kit.body()))
    with pytest.raises(EndorsementError, match="ISVPRODID 0200, expected 0100"):
        kit.verify(endorsements=kit.endorse(qe={"isvprodid": 1}))


# --- TCB ---


@pytest.mark.parametrize(
    "status",
    [
        "OutOfDate",
        "ConfigurationNeeded",
        "SWHardeningNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDateConfigurationNeeded",
    ],
)
def test_tcb_when_not_up_to_date_then_claims_carry_status_and_advisories(kit: Any, status: str) -> None:
    levels = level(status, advisoryIDs=["INTEL-SA-00001"])
    claims = kit.verify(endorsements=kit.endorse(tcb={"tcbLevels": levels}))
    assert (claims.tcb_status, claims.advisories) == (status, ("INTEL-SA-00001",))


def test_tcb_when_revoked_then_refused(kit: Any) -> None:
    with pytest.raises(TcbError, match="Revoked"):
        kit.verify(endorsements=kit.endorse(tcb={"tcbLevels": level("Revoked")}))


def test_tcb_when_status_is_unknown_then_refused(kit: Any) -> None:
    with pytest.raises(EndorsementError, match="'Fine' is not one"):
        kit.verify(endorsements=kit.endorse(tcb={"tcbLevels": level("Fine")}))


def test_tcb_when_no_level_matches_then_refused(kit: Any) -> None:
    (only,) = pki.tcb_info(datetime(2026, 11, 22))["tcbLevels"]  # noqa: DTZ001
    higher = only | {"tcb": only["tcb"] | {"pcesvn": pki.PCE_SVN + 1}}
    for levels in ([higher], []):
        with pytest.raises(TcbError, match="no TCB level of the TCB info is reached"):
            kit.verify(endorsements=kit.endorse(tcb={"tcbLevels": levels}))


def test_tcb_when_the_running_module_is_below_every_level_then_refused(kit: Any) -> None:
    raw = kit.quote(version=5, tee_tcb_svn2=bytes(16), mr_service_td=bytes(48))
    with pytest.raises(TcbError, match=r"no TCB level .* TEE_TCB_SVN 0000"):
        kit.verify(raw)


# --- configuration ---


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        (1 << 28 | 1, "debug mode"),
        (0, "SEPT_VE_DISABLE is clear"),
        (1 << 28 | 1 << 29, "migratable"),
        (1 << 28 | 1 << 1, "does not know"),
        (1 << 28 | 1 << 12, "does not know"),
        (1 << 28 | 1 << 27, "does not know"),
        (1 << 28 | 1 << 40, "does not know"),
    ],
)
def test_td_when_its_attributes_protect_nothing_then_refused(kit: Any, attributes: int, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        kit.verify(kit.quote(td_attributes=attributes.to_bytes(8, "little")))


def test_td_when_a_service_td_is_bound_then_refused(kit: Any) -> None:
    raw = kit.quote(version=5, tee_tcb_svn2=kit.body().tee_tcb_svn, mr_service_td=bytes([1, *bytes(47)]))
    with pytest.raises(ConfigurationError, match="MR_SERVICETD"):
        kit.verify(raw)


# --- binding ---


@pytest.mark.parametrize("expected", [bytes(64), bytes(range(63)), b"", bytes(range(64)) + b"\0"])
def test_report_data_when_not_the_expected_digest_then_refused(kit: Any, expected: bytes) -> None:
    with pytest.raises(BindingError, match="not the digest of this nonce"):
        kit.verify(report_data=expected)
