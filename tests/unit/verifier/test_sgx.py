"""What the SGX verifier must refuse (EVIDENCE.md), and why, on synthetic chains."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from securetf.attester import development_pki as pki
from securetf.claims import Evidence, Platform
from securetf.endorsements import TrustAnchors
from securetf.errors import (
    BindingError,
    ConfigurationError,
    EndorsementError,
    MalformedEvidenceError,
    SignatureError,
    SimulationRefusedError,
    TcbError,
    UnsupportedPlatformError,
)
from securetf.evidence import sgx
from securetf.verifier.sgx import SgxVerifier
from support.sgx_platform import FLAGS, NOW, REPORT_DATA, SgxPlatform, attributes

SIGNATURE_START = 48 + 384 + 4
KEY_START = SIGNATURE_START + 64
QE_REPORT_START = KEY_START + 64
QE_SIGNATURE_START = QE_REPORT_START + 384
QE_AUTH_START = QE_SIGNATURE_START + 64 + 2
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture(scope="module")
def machine() -> SgxPlatform:
    return SgxPlatform.make()


def flip(raw: bytes, offset: int) -> bytes:
    changed = bytearray(raw)
    changed[offset] ^= 1
    return bytes(changed)


def put(raw: bytes, offset: int, part: bytes) -> bytes:
    return raw[:offset] + part + raw[offset + len(part) :]


def test_verify_when_everything_holds_then_claims_say_what_was_verified(machine: SgxPlatform) -> None:
    claims = machine.verify()
    assert (claims.platform, claims.simulated) == (Platform.SGX, True)
    assert claims.measurement == b"\1" * 32
    assert claims.registers["mr_signer"] == b"\2" * 32
    assert (claims.properties["isv_prod_id"], claims.properties["isv_svn"]) == (3, 4)
    assert (claims.tcb_status, claims.advisories, claims.tcb_evaluation_number) == ("UpToDate", (), 18)
    assert claims.platform_id == bytes(range(16))
    assert claims.valid_until == NOW + pki.COLLATERAL_LIFETIME


# --- crypto ---


@pytest.mark.parametrize(
    ("offset", "reason"),
    [
        (8, "quote's signature does not hold"),  # header, QE SVN
        (28, "quote's signature does not hold"),
        (48 + 64, "quote's signature does not hold"),  # MRENCLAVE
        (48 + 383, "quote's signature does not hold"),
        (SIGNATURE_START + 5, "quote's signature does not hold"),
        (KEY_START + 5, "not the one that the quoting enclave reports"),
        (QE_REPORT_START, "QE report is not signed"),
        (QE_REPORT_START + 321, "QE report is not signed"),
        (QE_SIGNATURE_START, "QE report is not signed"),
        (QE_AUTH_START, "not the one that the quoting enclave reports"),
    ],
)
def test_flipped_bit_when_in_a_signed_part_then_names_the_part(
    machine: SgxPlatform, offset: int, reason: str
) -> None:
    with pytest.raises(SignatureError, match=reason):
        machine.verify(flip(machine.quote(), offset))


@pytest.mark.parametrize("value", [0, P256_ORDER, 2**256 - 1])
@pytest.mark.parametrize("half", [0, 32])
@pytest.mark.parametrize(
    ("start", "reason"),
    [(SIGNATURE_START, "quote's signature does not hold"), (QE_SIGNATURE_START, "QE report is not signed")],
)
def test_signature_when_r_or_s_is_zero_or_out_of_range_then_refused(
    machine: SgxPlatform, start: int, half: int, value: int, reason: str
) -> None:
    with pytest.raises(SignatureError, match=reason):
        machine.verify(put(machine.quote(), start + half, value.to_bytes(32, "big")))


def test_quote_when_of_another_machine_then_refused(machine: SgxPlatform) -> None:
    other = SgxPlatform.make()
    with pytest.raises(SignatureError, match="not a trust anchor"):
        machine.verify(other.quote())
    with pytest.raises(SignatureError, match="PCK CA of the quote is not signed by its issuer"):
        machine.verify(machine.quote(keys=replace(other.keys, root=machine.keys.root)))
    with pytest.raises(SignatureError, match="not a trust anchor"):
        machine.verify(anchors=TrustAnchors.intel())


def test_certificates_when_revoked_or_expired_then_refused(machine: SgxPlatform) -> None:
    for revoked, reason in (
        ({"revoked_by_ca": [machine.keys.pck.certificate]}, "PCK certificate is revoked"),
        ({"revoked_by_root": [machine.keys.pck_ca.certificate]}, "PCK CA is revoked"),
    ):
        with pytest.raises(SignatureError, match=reason):
            machine.verify(endorsements=machine.endorse(**revoked))
    with pytest.raises(SignatureError, match="root of the quote is good from"):
        machine.verify(now=NOW + timedelta(days=3651))


# --- collateral ---


def test_collateral_when_for_tdx_or_another_platform_then_names_both(machine: SgxPlatform) -> None:
    for changes, reason in (
        ({"tcb": {"id": "TDX"}}, "TCB info is for 'TDX', expected 'SGX'"),
        ({"qe": {"id": "TD_QE"}}, "QE identity is for 'TD_QE', expected 'QE'"),
        ({"tcb": {"fmspc": "00906EA10000"}}, "FMSPC 00906EA10000, the platform has 00000053494D"),
        ({"tcb": {"pceId": "0001"}}, "for PCE 0001, the platform has 0000"),
        ({"qe": {"tcbEvaluationDataNumber": 17}}, "TCB info has evaluation number 18, QE identity 17"),
        ({"qe": {"mrsigner": "00" * 32}}, "quoting enclave has MRSIGNER"),
        ({"qe": {"isvprodid": 1}}, "quoting enclave has ISVPRODID"),
    ):
        with pytest.raises(EndorsementError, match=reason):
            machine.verify(endorsements=machine.endorse(**changes))  # type: ignore[arg-type]


def test_collateral_when_none_below_the_floor_or_expired_then_refused(machine: SgxPlatform) -> None:
    with pytest.raises(EndorsementError, match=f"no collateral for .* {pki.FMSPC}"):
        machine.verify(endorsements_for=lambda _: None)
    with pytest.raises(EndorsementError, match="tcbEvaluationDataNumber 18, expected at least 19"):
        machine.verify(minimum_tcb_evaluation=19)
    with pytest.raises(EndorsementError, match="TCB info expired at"):
        machine.verify(now=NOW + timedelta(days=31))


# --- TCB ---


def with_level(status: str = "UpToDate", svn: int = 0, pce_svn: int = 0) -> dict[str, Any]:
    level = {"tcb": {"sgxtcbcomponents": [{"svn": svn}] * 16, "pcesvn": pce_svn}, "tcbStatus": status}
    return {"tcbLevels": [{**level, "tcbDate": "2026-01-01T00:00:00Z"}]}


@pytest.mark.parametrize(
    "status",
    ["OutOfDate", "ConfigurationNeeded", "SWHardeningNeeded", "ConfigurationAndSWHardeningNeeded"],
)
def test_tcb_when_less_than_up_to_date_then_a_claim(machine: SgxPlatform, status: str) -> None:
    assert machine.verify(endorsements=machine.endorse(tcb=with_level(status))).tcb_status == status


def test_tcb_when_revoked_unknown_or_below_every_level_then_refused(machine: SgxPlatform) -> None:
    with pytest.raises(TcbError, match="Revoked"):
        machine.verify(endorsements=machine.endorse(tcb=with_level("Revoked")))
    with pytest.raises(EndorsementError, match="TCB status 'Fine' is not one"):
        machine.verify(endorsements=machine.endorse(tcb=with_level("Fine")))
    for level in (with_level(svn=6), with_level(pce_svn=14)):
        with pytest.raises(TcbError, match="no TCB level of the TCB info is reached: CPUSVN"):
            machine.verify(endorsements=machine.endorse(tcb=level))
    with pytest.raises(TcbError, match="quoting enclave ISVSVN 3 is older than every level"):
        machine.verify(machine.quote(qe={"isv_svn": 3}))


# --- attributes ---


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (FLAGS | 2, "debug mode"),
        (FLAGS & ~1, "not initialised"),
        (FLAGS & ~4, "not in 64-bit mode"),
        (FLAGS | 1 << 3, "does not know"),
        (FLAGS | 1 << 63, "does not know"),
    ],
)
def test_enclave_when_its_attributes_protect_nothing_then_refused(
    machine: SgxPlatform, flags: int, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        machine.verify(machine.quote(attributes=attributes(flags)))


def test_enclave_when_key_separation_is_on_then_its_ids_are_claims(machine: SgxPlatform) -> None:
    raw = machine.quote(attributes=attributes(FLAGS | 1 << 7), config_id=b"\5" * 64, isv_family_id=b"\6" * 16)
    assert machine.verify(raw).registers["config_id"] == b"\5" * 64


# --- framing, binding, registry ---


@pytest.mark.parametrize(
    ("offset", "part", "reason"),
    [
        (0, b"\4", "version is 4, expected 3"),
        (2, b"\3", "key type is 3"),
        (4, b"\x81", "TEE type is 0x81, expected 0x0"),
        (12, bytes(16), "QE vendor is 0"),
        (48 + 20, b"\1", "reserved bytes of the enclave's report"),
        (48 + 96, b"\1", "reserved bytes of the enclave's report"),
        (48 + 160, b"\1", "reserved bytes of the enclave's report"),
        (48 + 262, b"\1", "reserved bytes of the enclave's report"),
        (QE_REPORT_START + 20, b"\1", "reserved bytes of the QE report"),
        (QE_AUTH_START - 2, b"\0\0", "QE authentication data has 0 bytes"),
        (QE_AUTH_START + 32, b"\6\0", "certification data of type 6, expected 5"),
        (QE_AUTH_START + 34, b"\0\0\0\0", "follow the end"),
        (SIGNATURE_START - 4, b"\xff\xff\xff\xff", "ends inside its signature data"),
    ],
)
def test_quote_when_a_header_or_length_is_wrong_then_malformed(
    machine: SgxPlatform, offset: int, part: bytes, reason: str
) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        machine.verify(put(machine.quote(), offset, part))


def test_quote_when_truncated_or_followed_by_bytes_then_malformed(machine: SgxPlatform) -> None:
    raw = machine.quote()
    assert sgx.parse(raw + bytes(500)) == sgx.parse(raw)
    with pytest.raises(MalformedEvidenceError, match="other than zero follow"):
        sgx.parse(raw + b"\0\1")
    with pytest.raises(MalformedEvidenceError, match="at most 32768 are read"):
        sgx.parse(bytes(32 * 1024 + 1))
    for size in (0, 1, 47, 48, 431, 432, 435, 436, 499, 563, 564, 947, 1011, 1012, 1045, 1051, len(raw) - 1):
        with pytest.raises(MalformedEvidenceError, match="ends inside its"):
            sgx.parse(raw[:size])


@pytest.mark.parametrize("expected", [bytes(64), bytes(range(63)), b""])
def test_report_data_when_not_the_expected_digest_then_refused(machine: SgxPlatform, expected: bytes) -> None:
    with pytest.raises(BindingError, match="not the digest of this nonce"):
        machine.verify(expected_report_data=expected)


def test_hardware_verifier_when_given_a_simulation_or_another_platform_then_refused(
    machine: SgxPlatform,
) -> None:
    with pytest.raises(SimulationRefusedError, match="development root"):
        SgxVerifier(machine.anchors, lambda _: None, minimum_tcb_evaluation=0)
    verifier = SgxVerifier(TrustAnchors.intel(), lambda _: machine.endorse(), minimum_tcb_evaluation=0)
    with pytest.raises(SignatureError, match=r"INSECURE SIMULATION Root CA.*not a trust anchor"):
        verifier.verify(Evidence(Platform.SGX, machine.quote()), expected_report_data=REPORT_DATA, now=NOW)
    with pytest.raises(UnsupportedPlatformError, match="verifier of sgx"):
        verifier.verify(Evidence(Platform.TDX, machine.quote()), expected_report_data=REPORT_DATA, now=NOW)
