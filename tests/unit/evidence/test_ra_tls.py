"""The interoperable RA-TLS certificate: form, key, nonce; each refusal and why."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from securetf.errors import BindingError, MalformedEvidenceError
from securetf.evidence import cbor, ra_tls

NOW = datetime(2026, 11, 22, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
NONCE = bytes(range(32))
OID = "2.23.133.5.4.9"
EVIDENCE = b"a quote"


def claims(algorithm: int = 1, digest: bytes | None = None, **more: Any) -> bytes:
    found = hashlib.sha256(SPKI).digest() if digest is None else digest
    return cbor.encode({"pubkey-hash": cbor.encode((algorithm, found)), **more})


def extension(claims_: bytes, *, tag: int = 60000) -> bytes:
    return cbor.encode(cbor.Tagged(tag, (EVIDENCE, claims_)))


def certificate(*contents: bytes, oid: str = OID) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    for content in contents:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), content)
        builder = builder.add_extension(unknown, critical=False)
    return builder.sign(KEY, SHA256()).public_bytes(Encoding.DER)


GOOD = certificate(extension(claims(nonce=NONCE)))


def test_certificate_when_it_names_key_and_nonce_then_the_report_data_is_known() -> None:
    found = ra_tls.parse(GOOD)
    assert (found.spki, found.evidence, found.nonce) == (SPKI, EVIDENCE, NONCE)
    expected = hashlib.sha256(claims(nonce=NONCE)).digest() + bytes(32)
    assert ra_tls.expected_report_data(found, nonce=NONCE) == expected
    assert ra_tls.expected_report_data_of_any_age(found) == expected


@pytest.mark.parametrize("algorithm", [7, 8])
def test_certificate_when_the_key_is_hashed_otherwise_then_accepted(algorithm: int) -> None:
    digest = {7: hashlib.sha384, 8: hashlib.sha512}[algorithm](SPKI).digest()
    raw = certificate(extension(claims(algorithm, digest)))
    assert ra_tls.expected_report_data_of_any_age(ra_tls.parse(raw))


def test_certificate_when_the_evidence_is_for_another_key_then_refused() -> None:
    raw = certificate(extension(claims(digest=bytes(32), nonce=NONCE)))
    with pytest.raises(BindingError, match="Evidence in the certificate is for another key"):
        ra_tls.expected_report_data(ra_tls.parse(raw), nonce=NONCE)


def test_certificate_when_the_nonce_is_missing_empty_or_another_then_refused() -> None:
    without = ra_tls.parse(certificate(extension(claims())))
    with pytest.raises(BindingError, match="has no nonce: it may be old"):
        ra_tls.expected_report_data(without, nonce=NONCE)
    for nonce in (bytes(32), b"", NONCE + b"\0"):
        with pytest.raises(BindingError, match="has another nonce"):
            ra_tls.expected_report_data(ra_tls.parse(GOOD), nonce=nonce)
    empty = ra_tls.parse(certificate(extension(claims(nonce=b""))))
    with pytest.raises(BindingError, match="has another nonce"):
        ra_tls.expected_report_data(empty, nonce=b"")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "length or tag"),
        (b"\x30", "length or tag"),
        (b"\x30\x80", "length or tag"),
        (b"\x30\x81\x01\x00", "length or tag"),
        (b"\x30\x84\xff\xff\xff\xff", "not exactly one DER sequence"),
        (b"\x31\x00", "not exactly one DER sequence"),
        (b"\x30\x00", "has not three parts"),
        (GOOD + b"\0", "not exactly one DER sequence"),
        (bytes(64 * 1024 + 1), "at most 65536 are read"),
        (certificate(), "has 0 extensions 2.23.133.5.4.9"),
        (certificate(extension(claims()), oid="2.23.133.5.4.10"), "has 0 extensions"),
        (certificate(extension(claims(), tag=60001)), "not tag 60000"),
        (certificate(cbor.encode((EVIDENCE, claims()))), "not tag 60000"),
        (certificate(extension(claims()) + b"\0"), "CBOR: "),
        (certificate(extension(cbor.encode({}))), "no pubkey-hash"),
        (certificate(extension(cbor.encode({"pubkey-hash": 1}))), "no pubkey-hash"),
        (certificate(extension(claims(nonce="text"))), "nonce among the claims is not a byte string"),
        (certificate(extension(claims(2))), "not a known hash algorithm"),
        (certificate(extension(claims(8))), "not a known hash algorithm and a digest of its size"),
        (certificate(extension(b"\xa2\x61a\x01\x61a\x02")), "stands twice"),
    ],
)
def test_certificate_when_its_form_is_wrong_then_says_how(raw: bytes, reason: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        ra_tls.parse(raw)


def test_certificate_when_cut_anywhere_then_refused_for_its_form() -> None:
    for size in range(len(GOOD)):
        with pytest.raises(MalformedEvidenceError, match=r"length or tag|not exactly one DER sequence"):
            ra_tls.parse(GOOD[:size])


@given(st.binary(max_size=300), st.integers(0, len(GOOD) - 1), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_parse_of_anything_raises_only_our_error(raw: bytes, offset: int, value: int) -> None:
    changed = GOOD[:offset] + bytes([value]) + GOOD[offset + 1 :]
    for candidate in (raw, changed, GOOD[:offset], GOOD[:offset] + raw):
        try:
            ra_tls.parse(candidate)
        except MalformedEvidenceError:
            continue
