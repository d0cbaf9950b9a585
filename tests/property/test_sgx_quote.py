"""For every SGX quote: parse and encode agree, no truncation or bit flip passes, only our errors leave."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from securetf.errors import EvidenceError, MalformedEvidenceError
from securetf.evidence import sgx
from support.sgx_platform import SgxPlatform

MACHINE = SgxPlatform.make()
COLLATERAL = MACHINE.endorse()
QUOTE = MACHINE.quote()
START = 48 + 384 + 4  # of the signature data
SIGNED = [*range(START - 4), *range(START, START + 128 + 448), *range(START + 128 + 450, START + 128 + 482)]
FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SIZES = {"cpu_svn": 16, "misc_select": 4, "isv_ext_prod_id": 16, "attributes": 16, "mr_enclave": 32}
SIZES |= {"mr_signer": 32, "config_id": 64, "isv_family_id": 16, "report_data": 64}


def sized(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


@st.composite
def quotes(draw: st.DrawFn) -> sgx.SgxQuote:
    short = st.integers(0, 65535)
    body: dict[str, Any] = {name: draw(sized(size)) for name, size in SIZES.items()}
    body |= {name: draw(short) for name in ("isv_prod_id", "isv_svn", "config_svn")}
    report = bytearray(draw(sized(384)))
    for start, end in ((20, 48), (96, 128), (160, 256), (260, 320), (352, 384)):
        report[start:end] = bytes(end - start)
    return sgx.SgxQuote(
        qe_svn=draw(short),
        pce_svn=draw(short),
        user_data=draw(sized(20)),
        body=sgx.SgxReport(**body),
        signature=draw(sized(64)),
        attestation_key=draw(sized(64)),
        qe_report=bytes(report),
        qe_report_signature=draw(sized(64)),
        qe_auth_data=draw(sized(32)),
        pck_chain=draw(st.binary(min_size=1, max_size=300)),
    )


@given(quotes(), st.integers(0, 100))
@FEW
def test_parse_of_encode_is_the_same_quote(quote: sgx.SgxQuote, padding: int) -> None:
    assert sgx.parse(sgx.encode(quote) + bytes(padding)) == quote


@given(quotes(), st.data())
@FEW
def test_truncated_quote_is_refused(quote: sgx.SgxQuote, data: st.DataObject) -> None:
    raw = sgx.encode(quote)
    with pytest.raises(MalformedEvidenceError):
        sgx.parse(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(st.binary(max_size=6000))
@FEW
def test_parse_of_anything_raises_only_our_error(raw: bytes) -> None:
    for candidate in (raw, QUOTE[:28] + raw, QUOTE[:START] + raw):
        try:
            sgx.parse(candidate)
        except MalformedEvidenceError:
            continue


@given(st.sampled_from(SIGNED), st.integers(0, 7))
@settings(max_examples=400, deadline=None)
def test_flipped_bit_of_signed_bytes_is_refused(offset: int, bit: int) -> None:
    changed = bytearray(QUOTE)
    changed[offset] ^= 1 << bit
    with pytest.raises(EvidenceError):
        MACHINE.verify(bytes(changed), endorsements=COLLATERAL)


@given(st.lists(st.tuples(st.integers(0, len(QUOTE) - 1), st.integers(0, 255)), min_size=1, max_size=20))
@FEW
def test_verify_of_a_mutated_quote_raises_only_our_errors(changes: list[tuple[int, int]]) -> None:
    changed = bytearray(QUOTE)
    for offset, value in changes:
        changed[offset] = value
    try:
        MACHINE.verify(bytes(changed), endorsements=COLLATERAL)
    except EvidenceError:
        return


JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.integers(), max_size=3)


@given(st.sampled_from(["id", "version", "fmspc", "pceId", "tcbEvaluationDataNumber", "nextUpdate"]), JSON)
@FEW
def test_verify_with_signed_but_odd_collateral_raises_only_our_errors(name: str, value: Any) -> None:
    for changes in ({"tcb": {name: value}}, {"qe": {name: value}}):
        try:
            MACHINE.verify(QUOTE, endorsements=MACHINE.endorse(**changes))
        except EvidenceError:
            continue


def test_each_flipped_byte_of_the_whole_quote_is_refused_or_means_the_same() -> None:
    """Outside the signed parts stand sizes, types and the PCK chain's PEM, whose line breaks are free."""
    for offset in range(0, len(QUOTE), 7):
        changed = bytearray(QUOTE)
        changed[offset] ^= 1
        try:
            MACHINE.verify(bytes(changed), endorsements=COLLATERAL)
        except EvidenceError:
            continue
        found = sgx.parse(bytes(changed))
        assert found == replace(sgx.parse(QUOTE), pck_chain=found.pck_chain)
