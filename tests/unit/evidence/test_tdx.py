"""The strict parser of TDX quotes: framing, byte by byte."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from securetf.attester import development_pki as pki
from securetf.attester.simulated_enclave import simulated_report
from securetf.errors import MalformedEvidenceError
from securetf.evidence import dcap, tdx

SIGNATURE_DATA_SIZE = slice(632, 636)
OUTER_TYPE, OUTER_SIZE = slice(764, 766), slice(766, 770)
QE_REPORT = 770
QE_AUTH_SIZE = slice(770 + 448, 770 + 450)
INNER_TYPE, INNER_SIZE = slice(770 + 482, 770 + 484), slice(770 + 484, 770 + 488)


@pytest.fixture(scope="module")
def quote() -> bytes:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    body = simulated_report(bytes(range(64)), mr_td=b"\1" * 48, rtmr3=b"\3" * 48)
    return pki.create(now, platform_id=bytes(16)).quoting_enclave().quote(body)


def put(raw: bytes, where: slice, value: int) -> bytes:
    size = where.stop - where.start
    return raw[: where.start] + value.to_bytes(size, "little") + raw[where.stop :]


def size_at(raw: bytes, where: slice) -> int:
    return int.from_bytes(raw[where], "little")


def test_parse_when_v4_then_fields_are_at_intels_offsets(quote: bytes) -> None:
    parsed = tdx.parse(quote)
    assert (parsed.version, parsed.body.body_type) == (4, tdx.BODY_TD10)
    assert parsed.body.mr_td == quote[48 + 136 : 48 + 184] == b"\1" * 48
    assert parsed.body.rtmr3 == quote[48 + 472 : 48 + 520] == b"\3" * 48
    assert parsed.body.report_data == quote[48 + 520 : 48 + 584]
    assert tdx.signed_bytes(parsed) == quote[:632]
    assert tdx.encode(parsed) == quote


def test_parse_when_zero_padding_follows_then_canonical_bytes_are_the_same(quote: bytes) -> None:
    for padding in (1, 70, 307, 3065):
        assert tdx.encode(tdx.parse(quote + bytes(padding))) == quote


def test_parse_when_anything_but_zero_follows_then_refused(quote: bytes) -> None:
    for trailing in (b"\1", bytes(70) + b"\1", b"\1" + bytes(70)):
        with pytest.raises(MalformedEvidenceError, match="other than zero follow"):
            tdx.parse(quote + trailing)


def test_parse_when_truncated_anywhere_then_refused_with_the_part(quote: bytes) -> None:
    for size in range(len(quote)):
        with pytest.raises(MalformedEvidenceError, match=r"ends inside its|bytes follow"):
            tdx.parse(quote[:size])


def test_parse_when_empty_or_huge_then_refused() -> None:
    with pytest.raises(MalformedEvidenceError, match="ends inside its header: 0 bytes of 48"):
        tdx.parse(b"")
    with pytest.raises(MalformedEvidenceError, match="at most 32768 are read"):
        tdx.parse(bytes(dcap.QUOTE_SIZE_LIMIT + 1))


@pytest.mark.parametrize(
    ("where", "value", "reason"),
    [
        (slice(0, 2), 3, "version is 3"),
        (slice(0, 2), 6, "version is 6"),
        (slice(2, 4), 3, "attestation key type is 3"),
        (slice(4, 8), 0, "TEE type is 0x0"),
        (slice(8, 10), 1, "reserved bytes of the quote header"),
        (slice(10, 12), 1, "reserved bytes of the quote header"),
        (slice(12, 13), 0, "QE vendor"),
        (OUTER_TYPE, 5, "certification data of type 5, expected 6"),
        (INNER_TYPE, 3, "certification data of type 3, expected 5"),
        (QE_AUTH_SIZE, 31, "authentication data has 31 bytes"),
        (QE_AUTH_SIZE, 0xFFFF, "authentication data has 65535 bytes"),
        (slice(QE_REPORT + 20, QE_REPORT + 21), 1, "reserved bytes of the QE report"),
        (slice(QE_REPORT + 383, QE_REPORT + 384), 1, "reserved bytes of the QE report"),
    ],
)
def test_parse_when_a_field_is_not_as_specified_then_names_it(
    quote: bytes, where: slice, value: int, reason: str
) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        tdx.parse(put(quote, where, value))


@pytest.mark.parametrize("where", [SIGNATURE_DATA_SIZE, OUTER_SIZE, INNER_SIZE])
@pytest.mark.parametrize("change", [-1, 1, 2**31])
def test_parse_when_a_declared_size_is_wrong_then_refused(quote: bytes, where: slice, change: int) -> None:
    with pytest.raises(MalformedEvidenceError, match=r"ends inside|bytes follow|other than zero"):
        tdx.parse(put(quote, where, size_at(quote, where) + change))


def test_parse_when_padding_is_moved_into_a_declared_part_then_refused(quote: bytes) -> None:
    """dcap-qvl takes such quotes; the bytes of one quote would not be one value."""
    padded = put(quote, SIGNATURE_DATA_SIZE, size_at(quote, SIGNATURE_DATA_SIZE) + 10) + bytes(10)
    with pytest.raises(MalformedEvidenceError, match="10 bytes follow the end of the signature data"):
        tdx.parse(padded)
    padded = put(padded, OUTER_SIZE, size_at(quote, OUTER_SIZE) + 10)
    with pytest.raises(MalformedEvidenceError, match="10 bytes follow the end of the QE certification data"):
        tdx.parse(padded)


def test_parse_when_pck_chain_is_empty_or_too_long_then_refused(quote: bytes) -> None:
    for chain in (b"", b"x" * (dcap.PCK_CHAIN_SIZE_LIMIT + 1)):
        with pytest.raises(MalformedEvidenceError, match="PCK chain has"):
            tdx.parse(tdx.encode(replace(tdx.parse(quote), pck_chain=chain)))


def test_parse_when_v5_then_body_type_and_size_must_agree(quote: bytes) -> None:
    parsed = tdx.parse(quote)
    body = replace(parsed.body, tee_tcb_svn2=b"\5" * 16, mr_service_td=b"\6" * 48)
    for version5 in (replace(parsed, version=5), replace(parsed, version=5, body=body)):
        raw = tdx.encode(version5)
        assert tdx.parse(raw) == version5
        for kind, size in ((1, 384), (2, 648), (3, 584), (4, 648), (0, 0)):
            changed = put(put(raw, slice(48, 50), kind), slice(50, 54), size)
            with pytest.raises(MalformedEvidenceError, match=f"type {kind} and {size} bytes"):
                tdx.parse(changed)
