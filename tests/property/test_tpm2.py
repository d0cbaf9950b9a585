"""For TPM Evidence: parse and encode agree, no cut or bit flip passes, and only our errors leave."""

import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from securetf.errors import EvidenceError, MalformedEvidenceError
from securetf.evidence import azure_vtpm, gcp_vtpm, tcg_event_log, tpm2, tpm2_public, tpm2_quote
from securetf.evidence.tcg_event_log import Event, EventLog
from securetf.evidence.tpm2_public import Public
from securetf.evidence.tpm2_quote import DIGEST_SIZES, Quote, Signature
from support.authority import Authority
from support.azure import Machine
from support.tpm2 import LOG, make_tpm

TPM = make_tpm()
RAW = TPM.evidence()
ATTRIBUTES = range(16, 20)  # of the attestation key, big-endian
# stClear, userWithAuth, adminWithPolicy, noDA, encryptedDuplication: who may use the key and when it is lost.
# A certificate vouches for the key alone (an enrolled one is known by its Name, which covers these, too).
FREE_ATTRIBUTES = {(19, 2), (19, 6), (19, 7), (18, 2), (18, 3)}
LOG_START = len(RAW) - len(tcg_event_log.encode(LOG))
AZURE = json.dumps(Machine(rsa.generate_private_key(65537, 2048)).envelope()).encode()
FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
BANKS = st.sampled_from(sorted(DIGEST_SIZES))
NUMBER = st.integers(0, 2**32 - 1)


def sized(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


QUOTES = st.builds(
    Quote,
    qualified_signer=st.binary(max_size=66),
    extra_data=st.binary(max_size=66),
    clock=st.integers(0, 2**64 - 1),
    reset_count=NUMBER,
    restart_count=NUMBER,
    safe=st.booleans(),
    firmware=st.integers(0, 2**64 - 1),
    bank=BANKS,
    selection=st.sets(st.integers(0, 23)).map(sorted).map(tuple),
    pcr_digest=st.binary(max_size=64),
)
SIGNATURES = st.builds(
    Signature,
    scheme=st.sampled_from([tpm2_quote.RSASSA, tpm2_quote.RSAPSS]),
    hash=BANKS,
    parts=st.tuples(st.binary(max_size=512)),
) | st.builds(
    Signature,
    scheme=st.just(tpm2_quote.ECDSA),
    hash=BANKS,
    parts=st.tuples(st.binary(max_size=66), st.binary(max_size=66)),
)


@st.composite
def publics(draw: st.DrawFn) -> Public:
    rsa_key, signing = draw(st.booleans()), draw(st.booleans())
    name_hash = draw(BANKS)
    size = draw(st.sampled_from([128, 256, 512]))
    curve = draw(st.sampled_from(sorted(tpm2_public.CURVE_SIZES)))
    width = tpm2_public.CURVE_SIZES[curve]
    scheme = draw(st.sampled_from([tpm2_quote.RSASSA, tpm2_quote.RSAPSS, tpm2_quote.ECDSA]))
    return Public(
        kind=tpm2_public.RSA if rsa_key else tpm2_public.ECC,
        name_hash=name_hash,
        attributes=draw(NUMBER) & tpm2_public.KNOWN_ATTRIBUTES,
        auth_policy=draw(st.just(b"") | sized(DIGEST_SIZES[name_hash])),
        aes_bits=draw(st.sampled_from([0, 128, 192, 256])),
        scheme=scheme if signing else tpm2_public.NULL,
        scheme_hash=draw(BANKS) if signing else 0,
        bits=size * 8 if rsa_key else 0,
        exponent=draw(NUMBER) if rsa_key else 0,
        curve=0 if rsa_key else curve,
        unique=(draw(sized(size)),) if rsa_key else (draw(sized(width)), draw(sized(width))),
    )


@st.composite
def logs(draw: st.DrawFn) -> EventLog:
    banks = tuple(draw(st.lists(BANKS, min_size=1, max_size=4, unique=True)))
    pairs = b"".join(bank.to_bytes(2, "little") + DIGEST_SIZES[bank].to_bytes(2, "little") for bank in banks)
    vendor = draw(st.binary(max_size=20))
    header = b"Spec ID Event03\0" + draw(sized(8)) + len(banks).to_bytes(4, "little") + pairs
    events = draw(
        st.lists(
            st.builds(
                Event,
                pcr=st.integers(0, 23),
                kind=NUMBER,
                digests=st.tuples(*(st.tuples(st.just(bank), sized(DIGEST_SIZES[bank])) for bank in banks)),
                data=st.binary(max_size=60),
            ),
            max_size=8,
        )
    )
    return EventLog(header=header + bytes([len(vendor)]) + vendor, algorithms=banks, events=tuple(events))


@given(QUOTES, SIGNATURES, publics())
@FEW
def test_parse_of_encode_is_the_same_structure(quote: Quote, signature: Signature, public: Public) -> None:
    assert tpm2_quote.parse_quote(tpm2_quote.encode_quote(quote)) == quote
    assert tpm2_quote.parse_signature(tpm2_quote.encode_signature(signature)) == signature
    assert tpm2_public.parse(tpm2_public.encode(public)) == public


@given(
    QUOTES,
    SIGNATURES,
    publics(),
    st.lists(st.binary(max_size=100), max_size=8),
    st.binary(max_size=200),
    st.data(),
)
@FEW
def test_parse_of_encode_is_the_same_envelope(
    quote: Quote, signature: Signature, public: Public, chain: list[bytes], log: bytes, data: st.DataObject
) -> None:
    values = {index: data.draw(sized(DIGEST_SIZES[quote.bank])) for index in quote.selection}
    evidence = tpm2.Tpm2Evidence(
        ak=public, quote=quote, signature=signature, pcrs=values, certificates=tuple(chain), event_log=log
    )
    raw = tpm2.encode(evidence)
    assert tpm2.parse(raw) == evidence
    with pytest.raises(MalformedEvidenceError):
        tpm2.parse(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(logs(), st.data())
@FEW
def test_parse_of_encode_is_the_same_log_and_replays_or_is_refused(
    log: EventLog, data: st.DataObject
) -> None:
    raw = tcg_event_log.encode(log)
    assert tcg_event_log.parse(raw) == log
    try:
        replayed = tcg_event_log.replay(log, log.algorithms[0])
    except MalformedEvidenceError:
        return
    assert {len(value) for value in replayed.values()} == {DIGEST_SIZES[log.algorithms[0]]}
    size = data.draw(st.integers(0, len(raw) - 1))
    try:
        cut = tcg_event_log.parse(raw[:size])
    except MalformedEvidenceError:
        return
    assert cut.events == log.events[: len(cut.events)]  # a log may end after any whole event


PARSERS: list[Any] = [
    tpm2_quote.parse_quote,
    tpm2_quote.parse_signature,
    tpm2_public.parse,
    tpm2.parse,
    tcg_event_log.parse,
    azure_vtpm.parse,
    azure_vtpm.parse_hcl,
    gcp_vtpm.parse,
]


@given(st.sampled_from(PARSERS), st.binary(max_size=3000))
@settings(max_examples=600, deadline=None)
def test_parse_of_anything_raises_only_our_error(parse: Any, raw: bytes) -> None:
    try:
        parse(raw)
    except MalformedEvidenceError:
        return


def accepted(offset: int, bit: int) -> bool:
    changed = bytearray(RAW)
    changed[offset] ^= 1 << bit
    try:
        claims = TPM.verify(bytes(changed))
    except EvidenceError:
        return False
    assert dict(claims.registers) == {f"pcr{index}": value for index, value in TPM.pcrs.items()}
    return True


@given(st.integers(0, len(RAW) - 1).filter(lambda offset: offset not in ATTRIBUTES), st.integers(0, 7))
@settings(max_examples=400, deadline=None)
def test_flipped_bit_is_refused_or_is_free_text_of_the_event_log(offset: int, bit: int) -> None:
    assert not accepted(offset, bit) or offset >= LOG_START


def test_attributes_that_mean_something_to_a_verifier_may_not_change() -> None:
    assert {(at, bit) for at in ATTRIBUTES for bit in range(8) if accepted(at, bit)} == FREE_ATTRIBUTES


@pytest.mark.parametrize("authority", [TPM.certificate, TPM.root], ids=["leaf", "root"])
def test_certificate_whose_signature_is_no_whole_number_of_bytes_is_refused(authority: Authority) -> None:
    signature = x509.load_der_x509_certificate(authority.der).signature
    unused_bits = RAW.index(authority.der) + len(authority.der) - len(signature) - 1
    assert not any(accepted(unused_bits, bit) for bit in range(8))


@given(st.lists(st.tuples(st.integers(0, len(AZURE) - 1), st.integers(32, 126)), min_size=1, max_size=8))
@FEW
def test_mutated_azure_envelope_raises_only_our_error(changes: list[tuple[int, int]]) -> None:
    changed = bytearray(AZURE)
    for offset, value in changes:
        changed[offset] = value
    try:
        azure_vtpm.parse(bytes(changed))
    except MalformedEvidenceError:
        return


NAMES = ["version", "tpm_quote", "quote", "hcl_report", "report", "td_quote", "vcek"]
NAMES += ["signature", "message", "pcrs"]
JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
@example({"version": []})
@FEW
def test_azure_parse_of_any_json_raises_only_our_error(value: Any) -> None:
    with pytest.raises(MalformedEvidenceError):
        azure_vtpm.parse(json.dumps(value).encode())
