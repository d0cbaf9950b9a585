"""TPM structures, our envelope and event logs: every refusal of the parsers, by its reason."""

from dataclasses import replace

import pytest

from securetf.errors import MalformedEvidenceError
from securetf.evidence import tcg_event_log, tpm2, tpm2_public, tpm2_quote
from securetf.evidence.tcg_event_log import Event
from securetf.evidence.tpm2_quote import SHA256, SHA384
from support.tpm2 import LOG, Tpm, make_log, make_tpm, public_of


@pytest.fixture(scope="module")
def tpm() -> Tpm:
    return make_tpm()


def patched(raw: bytes, offset: int, value: str) -> bytes:
    replacement = bytes.fromhex(value)
    return raw[:offset] + replacement + raw[offset + len(replacement) :]


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, "00", "has magic 0x00544347, expected 0xff544347: no TPM made it"),
        (4, "8017", "attestation of type 0x8017"),
        (6, "0043", "has a qualified signer of 67 bytes"),
        (42, "0043", "has a extra data of 67 bytes"),
        (92, "02", "safe flag 2"),
        (101, "00000002", "covers 2 PCR banks"),
        (101, "00000000", "covers 0 PCR banks"),
        (105, "0012", "covers bank 0x0012"),
        (107, "04", "PCR selection of 4 bytes"),
        (111, "0041", "PCR digest of 65 bytes"),
        (111, "001f", "has 1 bytes after its end"),
    ],
)
def test_quote_when_one_field_is_wrong_then_refused(tpm: Tpm, offset: int, value: str, reason: str) -> None:
    raw = tpm2_quote.encode_quote(tpm.quote())
    with pytest.raises(MalformedEvidenceError, match=reason):
        tpm2_quote.parse_quote(patched(raw, offset, value))


def test_quote_when_too_long_then_refused() -> None:
    with pytest.raises(MalformedEvidenceError, match="at most 1024 are read"):
        tpm2_quote.parse_quote(bytes(1025))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("0015000b0000", "scheme 0x0015"),
        ("00140012000100", "hash 0x0012"),
        ("0014000b0401", "has a value of 1025 bytes"),
        ("0014000b000100ff", "1 bytes after its end"),
        ("0018000b000100", "ends inside its value size"),
    ],
)
def test_signature_when_one_field_is_wrong_then_refused(raw: str, reason: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        tpm2_quote.parse_signature(bytes.fromhex(raw))


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, "0008", "is of type 0x0008"),
        (2, "0012", "name algorithm 0x0012"),
        (4, "80000000", "reserved bits"),
        (8, "0001", "policy of 1 bytes"),
        (8, "0041", "has a policy of 65 bytes"),
        (10, "0006", "not AES in CFB mode"),
        (12, "0015", "scheme 0x0015"),
        (14, "0012", "scheme hash 0x0012"),
        (16, "0010", "is on curve 0x0010"),
        (18, "0020", "key derivation 0x0020"),
        (20, "0021", "has a x of 33 bytes"),
    ],
)
def test_public_area_when_one_field_is_wrong_then_refused(
    tpm: Tpm, offset: int, value: str, reason: str
) -> None:
    raw = tpm2_public.encode(tpm.public)
    with pytest.raises(MalformedEvidenceError, match=reason):
        tpm2_public.parse(patched(raw, offset, value))


def test_public_area_when_sizes_disagree_or_bytes_follow_then_refused(tpm: Tpm) -> None:
    rsa = replace(
        tpm.public, kind=tpm2_public.RSA, scheme=tpm2_quote.RSASSA, curve=0, bits=2048, unique=(bytes(255),)
    )
    with pytest.raises(MalformedEvidenceError, match="modulus of 255 bytes, expected 2048 bits"):
        tpm2_public.parse(tpm2_public.encode(rsa))
    short = public_of(tpm.key, unique=(bytes(31), bytes(32)))
    with pytest.raises(MalformedEvidenceError, match="coordinates that are not 32 bytes each"):
        tpm2_public.parse(tpm2_public.encode(short))
    with pytest.raises(MalformedEvidenceError, match="1 bytes after its end"):
        tpm2_public.parse(tpm2_public.encode(tpm.public) + b"\0")


def test_envelope_when_its_frame_is_wrong_then_refused(tpm: Tpm) -> None:
    raw = tpm.evidence()
    assert tpm2.encode(tpm2.parse(raw)) == raw
    for changed, reason in (
        (b"STFTPM2\x02" + raw[8:], "does not start with STFTPM2 and version 1"),
        (raw + b"\0", "has 1 bytes after its end"),
        (patched(raw, 8, "00000401"), "public area of 1025 bytes"),
        (tpm.evidence(certificates=(b"x",) * 9), "has 9 certificates, at most 8"),
        (tpm.evidence(certificates=(bytes(8193),)), "certificate of 8193 bytes"),
        (tpm.evidence(event_log=bytes(512 * 1024 + 1)), "event log of 524289 bytes"),
        (raw[:-1], "ends inside its event log"),
        (b"", "ends inside its magic"),
    ):
        with pytest.raises(MalformedEvidenceError, match=reason):
            tpm2.parse(changed)


# --- event log --------------------------------------------------------------------------------------------

RAW = tcg_event_log.encode(LOG)
HEADER = 32  # offset of the header's data
FIRST = HEADER + len(LOG.header)  # offset of the first event


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, "01", "does not start with a Spec ID event"),
        (4, "08", "does not start with a Spec ID event"),
        (8, "01", "does not start with a Spec ID event"),
        (28, "ffffffff", "has an event of 4294967295 bytes"),
        (HEADER, "00", "is not crypto-agile"),
        (HEADER + 24, "05000000", "count of 5 digests"),
        (HEADER + 24, "00000000", "count of 0 digests"),
        (HEADER + 28, "1200", "names algorithm 0x0012"),
        (HEADER + 30, "2100", "with 33 bytes, unknown or twice"),
        (HEADER + 32, "01", "ends inside an entry"),
        (FIRST, "18000000", "has an event of PCR 24"),
        (FIRST + 8, "02000000", "count of 2 digests"),
        (FIRST + 12, "0c00", "digest by 0x000c, which its header does not name"),
        (FIRST + 46, "00001000", "has an event of 1048576 bytes"),
    ],
)
def test_event_log_when_one_field_is_wrong_then_refused(offset: int, value: str, reason: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        tcg_event_log.parse(patched(RAW, offset, value))


def test_event_log_when_cut_or_too_long_then_refused() -> None:
    with pytest.raises(MalformedEvidenceError, match="ends inside an entry"):
        tcg_event_log.parse(RAW[:-1])
    with pytest.raises(MalformedEvidenceError, match="ends inside an entry"):
        tcg_event_log.parse(RAW + b"\0")
    with pytest.raises(MalformedEvidenceError, match="more than 4096 events"):
        tcg_event_log.parse(tcg_event_log.encode(make_log(SHA256, count=4097)))


def test_event_log_when_an_event_lacks_a_bank_then_refused() -> None:
    log = make_log(SHA256, SHA384)
    short = replace(log.events[0], digests=log.events[0].digests[:1])
    doubled = replace(log.events[0], digests=(log.events[0].digests[0],) * 2)
    for event in (short, doubled):
        raw = tcg_event_log.encode(replace(log, events=(event,)))
        with pytest.raises(MalformedEvidenceError, match="without a digest for each bank"):
            tcg_event_log.parse(raw)


def locality(data: bytes, pcr: int = 0) -> Event:
    return Event(
        pcr=pcr,
        kind=tcg_event_log.NO_ACTION,
        digests=((SHA256, bytes(32)),),
        data=b"StartupLocality\0" + data,
    )


def test_replay_when_the_locality_is_set_then_pcr0_starts_with_it_and_no_action_is_not_measured() -> None:
    plain = tcg_event_log.replay(LOG, SHA256)
    other = Event(pcr=0, kind=tcg_event_log.NO_ACTION, digests=((SHA256, b"\1" * 32),), data=b"said")
    same = tcg_event_log.replay(replace(LOG, events=(other, *LOG.events)), SHA256)
    assert same == plain
    moved = tcg_event_log.replay(replace(LOG, events=(locality(b"\3"), *LOG.events)), SHA256)
    assert {index for index in plain if plain[index] != moved[index]} == {0}
    assert plain[17] == b"\xff" * 32
    assert plain[23] == bytes(32)


def test_replay_when_the_locality_is_late_double_or_odd_then_refused() -> None:
    for events in (
        (*LOG.events, locality(b"\3")),
        (locality(b"\3"), locality(b"\4")),
        (locality(b"\3", pcr=1),),
        (locality(b""),),
        (locality(b"\3\3"),),
    ):
        with pytest.raises(MalformedEvidenceError, match="startup locality late or twice"):
            tcg_event_log.replay(replace(LOG, events=events), SHA256)
