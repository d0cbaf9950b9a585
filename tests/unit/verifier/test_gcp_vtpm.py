"""Google's messages: framing refusals by their reason, and which bank counts; a synthetic TPM."""

import hashlib
import re
from dataclasses import replace
from typing import Any

import pytest

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.errors import (
    BindingError,
    ConfigurationError,
    EvidenceError,
    MalformedEvidenceError,
    SignatureError,
    UnsupportedPlatformError,
)
from securetf.evidence import gcp_vtpm, tcg_event_log, tpm2_public, tpm2_quote
from securetf.evidence.tpm2_quote import SHA1, SHA256, SHA384
from securetf.verifier.gcp_vtpm import GcpVtpmVerifier
from securetf.verifier.tpm2_origin import KeyOrigins
from support.authority import NOW
from support.tpm2 import (
    AK_ATTRIBUTES,
    LOG,
    REPORT_DATA,
    SELECTION,
    Tpm,
    make_log,
    make_tpm,
    public_of,
    sign,
)


def varint(value: int) -> bytes:
    encoded = b""
    while value > 127:
        encoded += bytes([value & 127 | 128])
        value >>= 7
    return encoded + bytes([value])


def field(tag: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(tag << 3) + varint(value)
    return varint(tag << 3 | 2) + varint(len(value)) + value


@pytest.fixture(scope="module")
def tpm() -> Tpm:
    return make_tpm()


def quoted(tpm: Tpm, bank: int = SHA256, *, extra: bytes = b"", values: Any = (), **changes: Any) -> bytes:
    """Return one `tpm.Quote` over the values of a bank; `extra` is appended to its PCRs."""
    log = make_log(bank)
    pcrs = tcg_event_log.replay(log, bank)
    digest = hashlib.sha256(b"".join(pcrs[index] for index in SELECTION)).digest()
    quote = tpm.quote(bank=bank, pcr_digest=digest, **changes)
    listed = field(1, bank)
    listed += b"".join(
        field(2, field(1, index) + field(2, value)) for index, value in (pcrs | dict(values)).items()
    )
    signature = tpm2_quote.encode_signature(sign(tpm.key, quote))
    return field(1, tpm2_quote.encode_quote(quote)) + field(2, signature) + field(3, listed + extra)


def message(tpm: Tpm, *quotes: bytes, more: bytes = b"", log: bytes | None = None) -> bytes:
    whole = field(1, tpm2_public.encode(tpm.public))
    whole += b"".join(field(2, one) for one in quotes or (quoted(tpm),))
    whole += field(3, tcg_event_log.encode(LOG) if log is None else log)
    return whole + field(6, tpm.certificate.der) + field(7, tpm.root.der) + more


def verify(tpm: Tpm, raw: bytes) -> VerifiedClaims:
    verifier = GcpVtpmVerifier(KeyOrigins(tpm.root.anchors, lambda _: None))
    return verifier.verify(Evidence(Platform.GCP_VTPM, raw), expected_report_data=REPORT_DATA, now=NOW)


def test_message_when_all_holds_then_the_sha256_bank_counts(tpm: Tpm) -> None:
    claims = verify(tpm, message(tpm, quoted(tpm, SHA1), quoted(tpm, SHA256), quoted(tpm, SHA384)))
    assert claims.platform is Platform.GCP_VTPM
    assert claims.registers["pcr1"] == tpm.pcrs[1]
    assert claims.properties["bank"] == "sha256"


def test_message_when_only_sha384_then_it_counts_and_when_only_sha1_then_refused(tpm: Tpm) -> None:
    log = tcg_event_log.encode(make_log(SHA384))
    assert verify(tpm, message(tpm, quoted(tpm, SHA384), log=log)).properties["bank"] == "sha384"
    with pytest.raises(ConfigurationError, match="no quote over the sha256 or sha384 bank"):
        verify(tpm, message(tpm, quoted(tpm, SHA1)))


def test_message_when_it_describes_its_instance_then_verified_without_a_word_of_it(tpm: Tpm) -> None:
    """`gotpm attest --key gceAK` writes zone, project and instance, and no signature covers them."""
    instance = field(1, b"europe-west3-a") + field(3, 2**60) + field(4, b"machine")
    quote = quoted(tpm)
    assert verify(tpm, message(tpm, quote, more=field(4, instance))) == verify(tpm, message(tpm, quote))


def test_message_when_its_key_is_rsa_or_ecc_then_it_is_known_by_its_first_bytes(tpm: Tpm) -> None:
    for kind, size in ((b"\0\x01", 280), (b"\0\x23", 88), (b"\0\x23", 120)):
        assert gcp_vtpm.begins(field(1, kind.ljust(size, b"\0")))
    assert gcp_vtpm.begins(message(tpm))
    for raw in (b"", b"\x0a", field(1, b"\0\x02" * 44), field(2, b"\0\x01" * 44), b"\x0a\x58\x01\x00\x01"):
        assert not gcp_vtpm.begins(raw)


def test_message_when_one_part_is_wrong_then_refused_for_that_part(tpm: Tpm) -> None:
    with pytest.raises(BindingError, match="extra data is not the one expected"):
        verify(tpm, message(tpm, quoted(tpm, extra_data=bytes(32))))
    with pytest.raises(SignatureError, match="quote's signature does not hold"):
        verify(tpm, message(tpm, quoted(replace(tpm, key=make_tpm().key))))
    with pytest.raises(SignatureError, match="has no event log"):
        verify(tpm, message(tpm, log=b""))
    short = tcg_event_log.encode(replace(LOG, events=LOG.events[:-1]))
    with pytest.raises(SignatureError, match=r"does not replay to the quoted PCRs \[1\]"):
        verify(tpm, message(tpm, log=short))
    with pytest.raises(UnsupportedPlatformError, match="given to the verifier of gcp_vtpm"):
        GcpVtpmVerifier(KeyOrigins(tpm.root.anchors, lambda _: None)).verify(
            Evidence(Platform.TPM2, b""), expected_report_data=REPORT_DATA, now=NOW
        )


@pytest.mark.parametrize(
    ("attribute", "reason"), [(16, "not restricted"), (1, "not fixedTPM"), (4, "not fixedParent")]
)
def test_message_when_its_key_signs_anything_or_may_leave_its_tpm_then_refused(
    tpm: Tpm, attribute: int, reason: str
) -> None:
    odd = public_of(tpm.key, attributes=AK_ATTRIBUTES & ~(1 << attribute))
    raw = message(tpm).replace(tpm2_public.encode(tpm.public), tpm2_public.encode(odd))
    with pytest.raises(ConfigurationError, match=f"the attestation key is {reason}"):
        verify(tpm, raw)


def test_chain_when_longer_than_any_real_one_then_refused(tpm: Tpm) -> None:
    raw = message(tpm, more=field(7, tpm.root.der) * 7)
    with pytest.raises(SignatureError, match="TPM certificate chain has 9 certificates, expected 2 to 8"):
        verify(tpm, raw)


def test_message_when_cut_anywhere_then_refused(tpm: Tpm) -> None:
    """A message of protobuf may end after any field; then a part is missing, and that is what refuses it."""
    raw = message(tpm)
    reasons = {
        MalformedEvidenceError: "ends inside|no public area, no quote",
        SignatureError: "no event log|neither certified nor enrolled|has 1 certificates",
    }
    refused = set()
    for size in range(len(raw)):
        with pytest.raises(EvidenceError) as error:
            verify(tpm, raw[:size])
        refused.add(error.type)
        assert re.search(reasons[error.type], error.value.problem), error.value.problem
    assert refused == set(reasons)


def test_message_when_its_form_is_wrong_then_refused(tpm: Tpm) -> None:
    good = message(tpm)
    pcr = field(2, field(1, 3) + field(2, bytes(32)))
    for raw, reason in (
        (message(tpm, more=field(5, b"x")), "has field 5, which this release does not read"),
        (message(tpm, more=field(8, b"x")), "has an SEV-SNP report beside the TPM's quotes"),
        (message(tpm, more=field(9, b"x")), "has a TDX quote beside the TPM's quotes"),
        (message(tpm, more=field(4, b"x") * 2), "has field 4 twice"),
        (message(tpm, more=field(4, 1)), "has field 4, which this release does not read"),
        (message(tpm, more=field(1, b"x")), "has field 1 twice"),
        (message(tpm, more=field(6, 1)), "has field 6, which this release does not read"),
        (message(tpm, more=b"\x09" + bytes(8)), "wire type 1"),
        (message(tpm, more=b"\x92\x00"), "not in its shortest form"),
        (message(tpm, more=b"\xff\xff\xff\xff\xff\x01"), "more than 5 bytes"),
        (message(tpm, more=b"\x80"), "ends inside a number"),
        (good[:-1], "ends inside a field"),
        (message(tpm, quoted(tpm), quoted(tpm)), "two quotes of one bank"),
        (field(2, quoted(tpm)), "no public area"),
        (field(1, tpm2_public.encode(tpm.public)), "no quote"),
        (b"", "no public area"),
        (message(tpm, quoted(tpm) + field(4, b"")), "odd field 4"),
        (message(tpm, quoted(tpm) + field(2, b"")), "odd field 2"),
        (message(tpm, field(1, tpm2_quote.encode_quote(tpm.quote()))), "without one of the fields"),
        (message(tpm, quoted(tpm, extra=pcr)), "PCR twice"),
        (message(tpm, quoted(tpm, extra=field(1, SHA384))), "PCRs of another bank"),
        (message(tpm, quoted(tpm, extra=field(2, field(1, 24) + field(2, bytes(32))))), "PCR twice, or one"),
        (message(tpm, quoted(tpm, extra=field(2, field(1, 4)))), "without index or value"),
        (message(tpm, quoted(tpm, extra=field(2, field(2, b"x") * 2))), "field of a PCR twice"),
        (message(tpm, more=field(7, b"") * 130), "more than 128 fields"),
        (bytes(512 * 1024 + 1), "at most 524288 are read"),
    ):
        with pytest.raises(MalformedEvidenceError, match=reason):
            gcp_vtpm.parse(raw)
    for size in (31, 33):
        with pytest.raises(MalformedEvidenceError, match="value of PCR 5 that is not 32 bytes"):
            gcp_vtpm.parse(message(tpm, quoted(tpm, values={5: bytes(size)})))


def test_message_when_a_bit_is_flipped_then_refused_unless_it_is_free_text_of_the_log(tpm: Tpm) -> None:
    """Every seventh byte; the key's attributes that no certificate covers are those of TPM 2.0's own test."""
    raw, log = message(tpm), tcg_event_log.encode(LOG)
    attributes = range(raw.index(tpm2_public.encode(tpm.public)) + 4, raw.index(log))
    free = range(raw.index(log), raw.index(log) + len(log))
    for offset in range(0, len(raw), 7):
        if offset in attributes[:4] or offset in free:
            continue
        changed = bytearray(raw)
        changed[offset] ^= 1 << offset % 8
        with pytest.raises(EvidenceError):
            verify(tpm, bytes(changed))
