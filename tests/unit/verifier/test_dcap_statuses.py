"""What a DCAP verifier must refuse (EVIDENCE.md) and dcap-qvl alone does not, or not by name: statuses of
quoting enclave and TDX module, and the window of each certificate.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from securetf.attester import development_pki as pki
from securetf.errors import EndorsementError, EvidenceError, SignatureError, TcbError
from support.sgx_platform import SgxPlatform

# Intel defines UpToDate, OutOfDate and Revoked for enclaves; the rest is of platforms.
OF_PLATFORMS = [
    "ConfigurationNeeded",
    "OutOfDateConfigurationNeeded",
    "SWHardeningNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "Fine",
]


def levels(svn: int, status: str, *advisories: str) -> dict[str, Any]:
    level = {"tcb": {"isvsvn": svn}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status}
    return {"tcbLevels": [level | {"advisoryIDs": list(advisories)}]}


def with_module(kit: Any, status: str, *advisories: str) -> Any:
    """Verify a quote of a TDX module of version 1 whose only level has this status."""
    identity = {"id": "TDX_01", **pki.tcb_info(datetime(2026, 11, 22))["tdxModule"]}  # noqa: DTZ001
    modules = [identity | levels(5, status, *advisories)]
    return kit.verify(
        kit.quote(tee_tcb_svn=bytes([5, 1, 2, *bytes(13)])),
        endorsements=kit.endorse(tcb={"tdxModuleIdentities": modules}),
    )


def test_quoting_enclave_when_out_of_date_then_the_claim_says_so_and_names_its_advisories(kit: Any) -> None:
    qe = levels(pki.QE_ISV_SVN, "OutOfDate", "INTEL-SA-00009")
    found = kit.verify(endorsements=kit.endorse(qe=qe))
    assert (found.tcb_status, found.advisories) == ("OutOfDate", ("INTEL-SA-00009",))
    machine = SgxPlatform.make()
    assert machine.verify(endorsements=machine.endorse(qe=qe)).tcb_status == "OutOfDate"
    needs = {"tcbLevels": [pki.tcb_info(datetime(2026, 11, 22))["tcbLevels"][0]]}  # noqa: DTZ001
    needs["tcbLevels"][0]["tcbStatus"] = "ConfigurationNeeded"
    both = kit.verify(endorsements=kit.endorse(tcb=needs, qe=qe))
    assert both.tcb_status == "OutOfDateConfigurationNeeded"


def test_quoting_enclave_when_revoked_then_refused(kit: Any) -> None:
    with pytest.raises(TcbError, match="TCB is Revoked"):
        kit.verify(endorsements=kit.endorse(qe=levels(pki.QE_ISV_SVN, "Revoked")))


@pytest.mark.parametrize("status", OF_PLATFORMS)
def test_quoting_enclave_when_its_status_is_one_of_platforms_or_nobodys_then_refused_by_name(
    kit: Any, status: str
) -> None:
    """dcap-qvl takes two of these, and says UpToDate."""
    qe = levels(pki.QE_ISV_SVN, status)
    with pytest.raises(EndorsementError, match=f"QE identity status '{status}' is not one"):
        kit.verify(endorsements=kit.endorse(qe=qe))
    machine = SgxPlatform.make()
    with pytest.raises(EndorsementError, match=f"QE identity status '{status}' is not one"):
        machine.verify(endorsements=machine.endorse(qe=qe))


def test_tdx_module_when_out_of_date_then_the_claim_says_so_and_when_revoked_refused(kit: Any) -> None:
    found = with_module(kit, "OutOfDate", "INTEL-SA-00008")
    assert (found.tcb_status, found.advisories) == ("OutOfDate", ("INTEL-SA-00008",))
    with pytest.raises(TcbError, match="TCB is Revoked"):
        with_module(kit, "Revoked")


@pytest.mark.parametrize("status", OF_PLATFORMS)
def test_tdx_module_when_its_status_is_one_of_platforms_or_nobodys_then_refused_by_name(
    kit: Any, status: str
) -> None:
    with pytest.raises(EndorsementError, match=f"TDX module status '{status}' is not one"):
        with_module(kit, status)


OLD, YOUNG = -pki.CERTIFICATE_LIFETIME - timedelta(days=1), timedelta(days=1)


@pytest.mark.parametrize("age", [OLD, YOUNG], ids=["expired", "not yet valid"])
@pytest.mark.parametrize(
    ("which", "error", "reason"),
    [
        ("pck", SignatureError, "PCK certificate of the quote is good from"),
        ("pck_ca", SignatureError, "PCK CA of the quote is good from"),
        ("tcb_signer", EndorsementError, "certificate of the signer of TCB info (expired at|is issued in)"),
    ],
)
def test_certificate_when_expired_or_not_yet_valid_then_refused_by_its_name(
    kit: Any, now: Any, which: str, error: type[EvidenceError], reason: str, age: timedelta
) -> None:
    keys, then = kit.keys, now + age
    if which == "tcb_signer":
        keys = replace(keys, tcb_signer=kit.issue("TCB Signing", keys.root, then))
    else:
        ca = kit.issue("PCK Platform CA", keys.root, then if which == "pck_ca" else now, ca=0)
        pck = kit.issue("PCK Certificate", ca, then if which == "pck" else now, extension=kit.sgx_extension())
        keys = replace(keys, pck_ca=ca, pck=pck)
    with pytest.raises(error, match=reason):
        kit.verify(keys.quoting_enclave().quote(kit.body()), endorsements=pki.endorse(keys, now))
