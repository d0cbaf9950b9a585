"""What the TDX verifier must refuse (EVIDENCE.md), each for its own reason, on synthetic chains."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.attester import development_pki as pki
from securetf.endorsements import Endorsements
from securetf.errors import (
    BindingError,
    ConfigurationError,
    EndorsementError,
    EvidenceError,
    MalformedEvidenceError,
    SignatureError,
    TcbError,
)
from securetf.evidence import tdx

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
BODY_START, SIGNATURE_START = 48, 48 + 584 + 4
KEY_START = SIGNATURE_START + 64
QE_REPORT_START = KEY_START + 64 + 6
QE_SIGNATURE_START = QE_REPORT_START + 384
QE_AUTH_START = QE_SIGNATURE_START + 64 + 2


def flip(raw: bytes, offset: int, bit: int = 0) -> bytes:
    changed = bytearray(raw)
    changed[offset] ^= 1 << bit
    return bytes(changed)


def put(raw: bytes, offset: int, part: bytes) -> bytes:
    return raw[:offset] + part + raw[offset + len(part) :]


def level(status: str, **changes: Any) -> list[dict[str, Any]]:
    """The TCB levels of the platform with another status."""
    (first,) = pki.tcb_info(datetime(2026, 11, 22))["tcbLevels"]  # noqa: DTZ001 - only a date inside
    return [first | {"tcbStatus": status} | changes]


# --- crypto: every signed part, other keys, degenerate signatures --------------------------------------------


@pytest.mark.parametrize(
    ("offset", "reason"),
    [
        (28, "quote's signature does not hold"),  # header, user data
        (BODY_START, "quote's signature does not hold"),
        (BODY_START + 136, "quote's signature does not hold"),  # mr_td
        (BODY_START + 583, "quote's signature does not hold"),  # report data
        (SIGNATURE_START + 5, "quote's signature does not hold"),
        (KEY_START + 5, "not the one that the quoting enclave reports"),
        (QE_REPORT_START, "QE report is not signed"),
        (QE_REPORT_START + 321, "QE report is not signed"),
        (QE_SIGNATURE_START, "QE report is not signed"),
        (QE_AUTH_START, "not the one that the quoting enclave reports"),
    ],
)
def test_flipped_bit_when_in_a_signed_part_then_names_the_part(kit: Any, offset: int, reason: str) -> None:
    with pytest.raises(SignatureError, match=reason):
        kit.verify(flip(kit.quote(), offset))


@pytest.mark.parametrize("value", [0, P256_ORDER, P256_ORDER + 1, 2**256 - 1])
@pytest.mark.parametrize("half", [0, 32])
@pytest.mark.parametrize(
    ("start", "reason"),
    [(SIGNATURE_START, "quote's signature does not hold"), (QE_SIGNATURE_START, "QE report is not signed")],
)
def test_signature_when_r_or_s_is_zero_or_out_of_range_then_refused(
    kit: Any, start: int, half: int, value: int, reason: str
) -> None:
    with pytest.raises(SignatureError, match=reason):
        kit.verify(put(kit.quote(), start + half, value.to_bytes(32, "big")))


def test_quote_when_signed_by_another_platforms_key_then_refused(
    kit: Any, make_kit: Callable[[], Any]
) -> None:
    other = make_kit().quote()
    mixed = put(kit.quote(), SIGNATURE_START, other[SIGNATURE_START : SIGNATURE_START + 64])
    with pytest.raises(SignatureError, match="quote's signature does not hold"):
        kit.verify(mixed)
    mixed = put(kit.quote(), SIGNATURE_START, other[SIGNATURE_START : SIGNATURE_START + 128])
    with pytest.raises(SignatureError, match="not the one that the quoting enclave reports"):
        kit.verify(mixed)


# --- crypto: certificates ------------------------------------------------------------------------------------


def with_chain(kit: Any, *certificates: x509.Certificate) -> bytes:
    quote = tdx.parse(kit.quote())
    pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    return tdx.encode(replace(quote, pck_chain=pem))


def test_chain_when_out_of_order_then_refused(kit: Any) -> None:
    leaf, ca, root = (entry.certificate for entry in (kit.keys.pck, kit.keys.pck_ca, kit.keys.root))
    with pytest.raises(EvidenceError, match="not signed by its issuer|cannot be read"):
        kit.verify(with_chain(kit, ca, leaf, root))
    with pytest.raises(SignatureError, match="not a trust anchor"):
        kit.verify(with_chain(kit, leaf, root, ca))


def test_chain_when_short_long_or_with_other_text_then_malformed(kit: Any) -> None:
    leaf, ca, root = (entry.certificate for entry in (kit.keys.pck, kit.keys.pck_ca, kit.keys.root))
    for chain in ((leaf,), (leaf, root), (leaf, ca, ca, root)):
        with pytest.raises(MalformedEvidenceError, match="exactly three PEM"):
            kit.verify(with_chain(kit, *chain))
    quote = tdx.parse(kit.quote())
    for text in (b"text\n" + quote.pck_chain, quote.pck_chain + b"\0\0", quote.pck_chain + b"x", b"\0"):
        with pytest.raises(MalformedEvidenceError, match="exactly three PEM"):
            kit.verify(tdx.encode(replace(quote, pck_chain=text)))


def test_chain_when_root_is_self_made_with_the_trusted_name_then_refused(
    kit: Any, make_kit: Callable[[], Any]
) -> None:
    other = make_kit()
    with pytest.raises(SignatureError, match="not a trust anchor"):
        kit.verify(other.quote(), endorsements=other.endorsements)
    with pytest.raises(SignatureError, match="PCK CA of the quote is not signed by its issuer"):
        kit.verify(
            with_chain(
                kit, other.keys.pck.certificate, other.keys.pck_ca.certificate, kit.keys.root.certificate
            )
        )


def test_chain_when_root_has_the_pinned_key_but_another_signature_then_refused(kit: Any) -> None:
    der = bytearray(kit.keys.root.certificate.public_bytes(Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_certificate(bytes(der))
    with pytest.raises(SignatureError, match="root whose own signature does not hold"):
        kit.verify(with_chain(kit, kit.keys.pck.certificate, kit.keys.pck_ca.certificate, forged))


def test_chain_when_a_ca_stands_as_leaf_then_refused(kit: Any) -> None:
    ca_pck = pki._issue(  # noqa: SLF001 - makes what no real issuer makes
        "PCK Certificate", kit.keys.pck_ca, pki_now(kit), ca=0, extension=sgx_extension()
    )
    keys = replace(kit.keys, pck=ca_pck)
    with pytest.raises(SignatureError, match="another role"):
        kit.verify(pki.QuotingEnclave(keys).quote(kit.body()))


def test_chain_when_leaf_has_no_sgx_extension_then_malformed(kit: Any) -> None:
    keys = replace(kit.keys, pck=pki._issue("PCK Certificate", kit.keys.pck_ca, pki_now(kit)))  # noqa: SLF001
    with pytest.raises(MalformedEvidenceError, match="SGX extension cannot be read"):
        kit.verify(pki.QuotingEnclave(keys).quote(kit.body()))


def test_certificates_when_expired_or_not_yet_valid_then_refused_with_the_window(kit: Any, now: Any) -> None:
    late, early = now + timedelta(days=3651), now - timedelta(days=1)
    with pytest.raises(SignatureError, match="root of the quote is good from"):
        kit.verify(endorsements=pki.endorse(kit.keys, late), now=late)
    with pytest.raises(SignatureError, match="root of the quote is good from"):
        kit.verify(endorsements=pki.endorse(kit.keys, early), now=early)


def test_pck_when_expired_then_refused_with_the_window(kit: Any, now: Any) -> None:
    old = now - pki.CERTIFICATE_LIFETIME - timedelta(days=1)
    expired = pki._issue("PCK Certificate", kit.keys.pck_ca, old, extension=sgx_extension())  # noqa: SLF001
    keys = replace(kit.keys, pck=expired)
    with pytest.raises(SignatureError, match="PCK certificate of the quote is good from"):
        kit.verify(pki.QuotingEnclave(keys).quote(kit.body()))


def test_leaf_and_intermediate_when_revoked_then_refused(kit: Any, now: Any) -> None:
    leaf = pki.endorse(kit.keys, now, revoked_by_ca=[kit.keys.pck.certificate])
    with pytest.raises(SignatureError, match="PCK certificate is revoked"):
        kit.verify(endorsements=leaf)
    intermediate = pki.endorse(kit.keys, now, revoked_by_root=[kit.keys.pck_ca.certificate])
    with pytest.raises(SignatureError, match="PCK CA is revoked"):
        kit.verify(endorsements=intermediate)
    signer = pki.endorse(kit.keys, now, revoked_by_root=[kit.keys.tcb_signer.certificate])
    with pytest.raises(SignatureError, match="signer of TCB info is revoked"):
        kit.verify(endorsements=signer)


def pki_now(kit: Any) -> datetime:
    moment: datetime = kit.keys.root.certificate.not_valid_before_utc + pki.CLOCK_SLACK
    return moment


def sgx_extension() -> x509.UnrecognizedExtension:
    content = pki._pck_extension(bytes(16), bytes.fromhex(pki.FMSPC))  # noqa: SLF001
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.840.113741.1.13.1"), content)


# --- collateral ----------------------------------------------------------------------------------------------


def test_collateral_when_none_for_the_platform_then_names_the_fmspc(kit: Any, now: Any) -> None:
    from securetf.verifier.tdx import authenticate  # noqa: PLC0415

    asked: list[str] = []
    with pytest.raises(EndorsementError, match=f"no collateral for .* {pki.FMSPC}"):
        authenticate(
            kit.quote(),
            anchors=kit.anchors,
            endorsements_for=asked.append,  # type: ignore[arg-type] # returns None
            expected_report_data=bytes(64),
            minimum_tcb_evaluation=0,
            now=now,
        )
    assert asked == [pki.FMSPC]


@pytest.mark.parametrize(
    ("name", "reason"), [("tcb_info", "signature of TCB info"), ("qe_identity", "signature of QE identity")]
)
def test_documents_when_changed_or_signature_changed_then_refused(kit: Any, name: str, reason: str) -> None:
    text = getattr(kit.endorsements, name).replace('"UpToDate"', '"OutOfDate"')
    with pytest.raises(EndorsementError, match=reason):
        kit.verify(endorsements=replace(kit.endorsements, **{name: text}))
    signature = flip(getattr(kit.endorsements, f"{name}_signature"), 40)
    with pytest.raises(EndorsementError, match=reason):
        kit.verify(endorsements=replace(kit.endorsements, **{f"{name}_signature": signature}))
    with pytest.raises(EndorsementError, match=reason):
        kit.verify(endorsements=replace(kit.endorsements, **{f"{name}_signature": bytes(64)}))


def test_documents_when_swapped_or_for_sgx_then_refused(kit: Any) -> None:
    good = kit.endorsements
    swapped = replace(good, tcb_info=good.qe_identity, tcb_info_signature=good.qe_identity_signature)
    with pytest.raises(EndorsementError, match="TCB info is for 'TD_QE', expected 'TDX'"):
        kit.verify(endorsements=swapped)
    with pytest.raises(EndorsementError, match="TCB info is for 'SGX', expected 'TDX'"):
        kit.verify(endorsements=kit.endorse(tcb={"id": "SGX"}))
    with pytest.raises(EndorsementError, match="QE identity is for 'QE', expected 'TD_QE'"):
        kit.verify(endorsements=kit.endorse(qe={"id": "QE"}))


def test_tcb_info_when_for_another_platform_then_names_both(kit: Any) -> None:
    with pytest.raises(EndorsementError, match="FMSPC 00906EA10000, the platform has 00000053494D"):
        kit.verify(endorsements=kit.endorse(tcb={"fmspc": "00906EA10000"}))
    with pytest.raises(EndorsementError, match="for PCE 0001, the platform has 0000"):
        kit.verify(endorsements=kit.endorse(tcb={"pceId": "0001"}))


def stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(("part", "name"), [("tcb", "TCB info"), ("qe", "QE identity")])
def test_documents_when_expired_or_from_the_future_then_names_the_time(
    kit: Any, now: Any, part: str, name: str
) -> None:
    with pytest.raises(EndorsementError, match=f"{name} expired at"):
        kit.verify(endorsements=kit.endorse(**{part: {"nextUpdate": stamp(now - timedelta(seconds=1))}}))
    with pytest.raises(EndorsementError, match=f"{name} is issued in the future"):
        kit.verify(endorsements=kit.endorse(**{part: {"issueDate": stamp(now + timedelta(seconds=1))}}))


@pytest.mark.parametrize(
    ("name", "issuer", "reason"), [("root_ca_crl", "root", "root CRL"), ("pck_crl", "pck_ca", "PCK CRL")]
)
def test_crl_when_missing_stale_early_or_of_another_issuer_then_refused(
    kit: Any, now: Any, make_kit: Callable[[], Any], name: str, issuer: str, reason: str
) -> None:
    own, foreign = getattr(kit.keys, issuer), getattr(make_kit().keys, issuer)
    for crl, words in (
        (b"", "missing or damaged"),
        (pki.crl(own, [], now - timedelta(days=31)), "expired at"),
        (pki.crl(foreign, [], now), "not signed by the issuer"),
        (flip(pki.crl(own, [], now), 60), "not signed by the issuer|missing or damaged"),
    ):
        with pytest.raises(EndorsementError, match=f"{reason}.*({words})"):
            kit.verify(endorsements=replace(kit.endorsements, **{name: crl}))


def test_crls_when_exchanged_then_refused(kit: Any) -> None:
    good = kit.endorsements
    with pytest.raises(EndorsementError, match="root CRL is not signed by the issuer"):
        kit.verify(endorsements=replace(good, root_ca_crl=good.pck_crl, pck_crl=good.root_ca_crl))


def test_collateral_when_below_the_floor_then_names_both_numbers(kit: Any) -> None:
    assert kit.verify(floor=18).tcb_evaluation_number == 18
    with pytest.raises(EndorsementError, match="tcbEvaluationDataNumber 18, expected at least 19"):
        kit.verify(floor=19)


def test_collateral_when_of_two_recoveries_then_refused(kit: Any) -> None:
    with pytest.raises(EndorsementError, match="TCB info has evaluation number 17, QE identity 18"):
        kit.verify(endorsements=kit.endorse(tcb={"tcbEvaluationDataNumber": 17}))


def test_tcb_info_when_signed_by_a_pck_then_refused(kit: Any) -> None:
    """dcap-qvl takes any leaf under the root as signer; a stolen PCK must not write TCB info."""
    text = kit.endorsements.tcb_info
    forged = replace(
        kit.endorsements,
        tcb_info_signature=pki.sign(kit.keys.pck.key, text.encode()),
        tcb_info_issuer_chain=pki.pem_chain(kit.keys.pck, kit.keys.pck_ca, kit.keys.root),
    )
    with pytest.raises(EndorsementError, match="issuer chain of TCB info is not two PEM"):
        kit.verify(endorsements=forged)
    direct = pki._issue("PCK Certificate", kit.keys.root, pki_now(kit), extension=sgx_extension())  # noqa: SLF001
    forged = replace(
        forged,
        tcb_info_signature=pki.sign(direct.key, text.encode()),
        tcb_info_issuer_chain=pki.pem_chain(direct, kit.keys.root),
    )
    with pytest.raises(EndorsementError, match="not a TCB signer right under the root"):
        kit.verify(endorsements=forged)


def test_signer_chain_when_of_another_root_then_refused(kit: Any, make_kit: Callable[[], Any]) -> None:
    foreign = make_kit().endorsements
    for name in ("tcb_info", "qe_identity"):
        changed = {
            f"{name}{part}": getattr(foreign, f"{name}{part}") for part in ("", "_signature", "_issuer_chain")
        }
        with pytest.raises(EndorsementError, match="not a trust anchor"):
            kit.verify(endorsements=replace(kit.endorsements, **changed))


def test_documents_when_signed_but_unusable_then_refused(kit: Any) -> None:
    for text in ("", "[]", "{}", '{"id":"TDX"}', "{" * 5000, json.dumps({"id": "TDX", "issueDate": 5})):
        changed = replace(
            kit.endorsements,
            tcb_info=text,
            tcb_info_signature=pki.sign(kit.keys.tcb_signer.key, text.encode()),
        )
        with pytest.raises(EndorsementError, match="TCB info"):
            kit.verify(endorsements=changed)


# --- TDX module and quoting enclave --------------------------------------------------------------------------


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
    foreign = pki.QuotingEnclave(kit.keys, mr_signer=bytes(32))
    with pytest.raises(EndorsementError, match="quoting enclave has MRSIGNER 0000"):
        kit.verify(foreign.quote(kit.body()))
    old = pki.QuotingEnclave(kit.keys, isv_svn=3)
    with pytest.raises(TcbError, match="quoting enclave ISVSVN 3 is older"):
        kit.verify(old.quote(kit.body()))
    with pytest.raises(EndorsementError, match="ISVPRODID 0200, expected 0100"):
        kit.verify(endorsements=kit.endorse(qe={"isvprodid": 1}))


# --- TCB -----------------------------------------------------------------------------------------------------


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
    with pytest.raises(TcbError, match="no TCB level .* TEE_TCB_SVN 0000"):
        kit.verify(raw)


# --- configuration -------------------------------------------------------------------------------------------


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


# --- binding -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expected", [bytes(64), bytes(range(63)), b"", bytes(range(64)) + b"\0"])
def test_report_data_when_not_the_expected_digest_then_refused(kit: Any, expected: bytes) -> None:
    with pytest.raises(BindingError, match="not the digest of this nonce"):
        kit.verify(report_data=expected)


def test_collateral_when_of_the_right_platform_but_damaged_text_then_our_error(kit: Any) -> None:
    damaged: list[dict[str, Any]] = [
        {"tcb_info_issuer_chain": "nonsense"},
        {"qe_identity_issuer_chain": ""},
        {"tcb_info": "\0"},
        {"pck_crl": b"\x30\x80"},
    ]
    for change in damaged:
        endorsements: Endorsements = replace(kit.endorsements, **change)
        with pytest.raises(EndorsementError):
            kit.verify(endorsements=endorsements)
