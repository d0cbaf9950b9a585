"""What the TDX verifier must refuse (EVIDENCE.md): collateral, on synthetic chains."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from securetf.attester import development_pki as pki
from securetf.endorsements import Endorsements
from securetf.errors import (
    EndorsementError,
)

NOW = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)


def flip(raw: bytes, offset: int, bit: int = 0) -> bytes:
    changed = bytearray(raw)
    changed[offset] ^= 1 << bit
    return bytes(changed)


# --- collateral ---


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
        (pki.crl(own, [], now + timedelta(days=1)), "issued in the future"),
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
    with pytest.raises(EndorsementError, match="TCB info has evaluation number 18, QE identity 17"):
        kit.verify(endorsements=kit.endorse(qe={"tcbEvaluationDataNumber": 17}))


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
    direct = kit.issue("PCK Certificate", kit.keys.root, NOW, extension=kit.sgx_extension())
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


def test_tcb_info_when_a_name_stands_twice_then_refused(kit: Any) -> None:
    text = kit.endorsements.tcb_info
    for name in ('"fmspc":"00906EA10000",', '"nobody reads this":1,"nobody reads this":2,'):
        doubled = text.replace("{", "{" + name, 1)
        signature = pki.sign(kit.keys.tcb_signer.key, doubled.encode())
        with pytest.raises(EndorsementError, match="stands twice"):
            kit.verify(endorsements=replace(kit.endorsements, tcb_info=doubled, tcb_info_signature=signature))


@pytest.mark.usefixtures("uncollected")
def test_documents_when_signed_but_unusable_then_refused(kit: Any) -> None:
    for text in ("", "[]", "{}", '{"id":"TDX"}', "{" * 5000, json.dumps({"id": "TDX", "issueDate": 5})):
        changed = replace(
            kit.endorsements,
            tcb_info=text,
            tcb_info_signature=pki.sign(kit.keys.tcb_signer.key, text.encode()),
        )
        with pytest.raises(EndorsementError, match="TCB info"):
            kit.verify(endorsements=changed)


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
