"""For every quote: parse and encode agree, no truncation or bit flip passes, and only our errors leave."""

import json
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from securetf.attester import development_pki as pki
from securetf.attester.simulated_enclave import simulated_report
from securetf.endorsements import Endorsements, TrustAnchors
from securetf.endorsements.trust import spki_digest
from securetf.errors import EndorsementError, EvidenceError, MalformedEvidenceError
from securetf.evidence import tdx
from securetf.verifier.tdx import authenticate

NOW = datetime(2026, 11, 22, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
KEYS = pki.create(NOW, platform_id=bytes(16))
ENDORSEMENTS = pki.endorse(KEYS, NOW)
ANCHORS = TrustAnchors(spki_sha256=frozenset({spki_digest(KEYS.root.certificate)}), development=True)
QUOTE = KEYS.quoting_enclave().quote(simulated_report(REPORT_DATA, mr_td=b"\1" * 48, rtmr3=bytes(48)))
# Signed, or bound by a signature: header and body; signature, key, QE report, its signature; QE auth data.
SIGNED = [*range(632), *range(636, 764), *range(770, 770 + 448), *range(770 + 450, 770 + 482)]
FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def verify(raw: bytes, endorsements: Endorsements = ENDORSEMENTS) -> None:
    authenticate(
        raw,
        anchors=ANCHORS,
        endorsements_for=lambda _: endorsements,
        expected_report_data=REPORT_DATA,
        minimum_tcb_evaluation=0,
        now=NOW,
    )


def sized(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


@st.composite
def quotes(draw: st.DrawFn) -> tdx.TdxQuote:
    version = draw(st.sampled_from([4, 5]))
    extended = version == 5 and draw(st.booleans())
    body: dict[str, Any] = {
        entry.name: draw(sized(entry.metadata["size"]))
        for entry in fields(tdx.TdReport)
        if extended or entry.name not in {"tee_tcb_svn2", "mr_service_td"}
    }
    report = bytearray(draw(sized(384)))
    for reserved in ((20, 48), (96, 128), (160, 256), (260, 320), (352, 384)):
        report[slice(*reserved)] = bytes(reserved[1] - reserved[0])
    return tdx.TdxQuote(
        version=version,
        user_data=draw(sized(20)),
        body=tdx.TdReport(**body),
        signature=draw(sized(64)),
        attestation_key=draw(sized(64)),
        qe_report=bytes(report),
        qe_report_signature=draw(sized(64)),
        qe_auth_data=draw(sized(32)),
        pck_chain=draw(st.binary(min_size=1, max_size=300)),
    )


@given(quotes(), st.integers(0, 100))
@FEW
def test_parse_of_encode_is_the_same_quote(quote: tdx.TdxQuote, padding: int) -> None:
    assert tdx.parse(tdx.encode(quote) + bytes(padding)) == quote


@given(quotes(), st.data())
@FEW
def test_truncated_quote_is_refused(quote: tdx.TdxQuote, data: st.DataObject) -> None:
    raw = tdx.encode(quote)
    size = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(MalformedEvidenceError):
        tdx.parse(raw[:size])


@given(st.binary(max_size=6000))
@FEW
def test_parse_of_anything_raises_only_our_error(raw: bytes) -> None:
    try:
        tdx.parse(raw)
    except MalformedEvidenceError:
        return


@given(st.sampled_from(SIGNED), st.integers(0, 7))
@settings(max_examples=400, deadline=None)
def test_flipped_bit_of_signed_bytes_is_refused(offset: int, bit: int) -> None:
    changed = bytearray(QUOTE)
    changed[offset] ^= 1 << bit
    with pytest.raises(EvidenceError):
        verify(bytes(changed))


def test_each_single_flipped_byte_of_the_whole_quote_is_refused_or_means_the_same() -> None:
    """Outside the signed parts stand sizes, types and the PCK chain's PEM, whose line breaks are free."""
    for offset in range(0, len(QUOTE), 7):
        changed = bytearray(QUOTE)
        changed[offset] ^= 1
        try:
            verify(bytes(changed))
        except EvidenceError:
            continue
        assert tdx.parse(bytes(changed)) == replace(
            tdx.parse(QUOTE), pck_chain=tdx.parse(bytes(changed)).pck_chain
        )


@given(st.lists(st.tuples(st.integers(0, len(QUOTE) - 1), st.integers(0, 255)), min_size=1, max_size=20))
@FEW
def test_verify_of_a_mutated_quote_raises_only_our_errors(changes: list[tuple[int, int]]) -> None:
    changed = bytearray(QUOTE)
    for offset, value in changes:
        changed[offset] = value
    try:
        verify(bytes(changed))
    except EvidenceError:
        return


NAMES = [entry.name for entry in fields(Endorsements)]


@given(st.sampled_from(NAMES), st.data())
@FEW
def test_verify_with_mutated_collateral_raises_only_our_errors(name: str, data: st.DataObject) -> None:
    value = getattr(ENDORSEMENTS, name)
    offset = data.draw(st.integers(0, len(value) - 1))
    insert: Any = data.draw(st.binary(max_size=5) if isinstance(value, bytes) else st.text(max_size=5))
    mutated = replace(ENDORSEMENTS, **{name: value[:offset] + insert + value[offset + 1 :]})
    try:
        verify(QUOTE, mutated)
    except EvidenceError:
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(pki.tcb_info(NOW))), JSON)
@FEW
def test_verify_with_signed_but_odd_tcb_info_raises_only_our_errors(name: str, value: Any) -> None:
    odd = pki.endorse(KEYS, NOW, tcb=pki.tcb_info(NOW) | {name: value})
    try:
        verify(QUOTE, odd)
    except EvidenceError:
        return


@given(st.sampled_from(sorted(pki.qe_identity(NOW))), JSON)
@FEW
def test_verify_with_signed_but_odd_qe_identity_raises_only_our_errors(name: str, value: Any) -> None:
    odd = pki.endorse(KEYS, NOW, qe=pki.qe_identity(NOW) | {name: value})
    try:
        verify(QUOTE, odd)
    except EvidenceError:
        return


@given(JSON)
@FEW
def test_endorsements_of_any_json_raise_only_our_error(value: Any) -> None:
    with pytest.raises(EndorsementError):
        Endorsements.from_json(json.dumps(value))
