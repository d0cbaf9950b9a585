"""What the TDX verifier must refuse (EVIDENCE.md): signatures and certificates, on synthetic chains."""

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.attester import development_pki as pki
from securetf.errors import (
    EvidenceError,
    MalformedEvidenceError,
    SignatureError,
)
from securetf.evidence import tdx

NOW = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
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


# --- crypto: every signed part, other keys, degenerate signatures ---


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


# --- crypto: certificates ---


def with_chain(kit: Any, *certificates: x509.Certificate) -> bytes:
    quote = tdx.parse(kit.quote())
    pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    return tdx.encode(replace(quote, pck_chain=pem))


def test_chain_when_out_of_order_then_refused(kit: Any) -> None:
    leaf, ca, root = (entry.certificate for entry in (kit.keys.pck, kit.keys.pck_ca, kit.keys.root))
    with pytest.raises(EvidenceError, match=r"not signed by its issuer|cannot be read"):
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
    ca_pck = kit.issue("PCK Certificate", kit.keys.pck_ca, NOW, ca=0, extension=kit.sgx_extension())
    keys = replace(kit.keys, pck=ca_pck)
    with pytest.raises(SignatureError, match="another role"):
        kit.verify(keys.quoting_enclave().quote(kit.body()))


def test_chain_when_leaf_has_no_sgx_extension_then_malformed(kit: Any) -> None:
    keys = replace(kit.keys, pck=kit.issue("PCK Certificate", kit.keys.pck_ca, NOW))
    with pytest.raises(MalformedEvidenceError, match="SGX extension cannot be read"):
        kit.verify(keys.quoting_enclave().quote(kit.body()))


def test_chain_when_a_certificate_cannot_be_read_then_malformed(kit: Any) -> None:
    """Found by fuzzing: `cryptography` has a class of its own for an unknown X.509 version."""
    quote = tdx.parse(kit.quote())
    for old, new in (
        (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x06"),
        (b"\x55\x04\x03\x0c", b"\x55\x04\x03\x1e"),
    ):
        der = kit.keys.pck.certificate.public_bytes(Encoding.DER).replace(old, new, 1)
        assert der != kit.keys.pck.certificate.public_bytes(Encoding.DER)
        leaf = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
        rest = pki.pem_chain(kit.keys.pck_ca, kit.keys.root).encode()
        with pytest.raises(EvidenceError):
            kit.verify(tdx.encode(replace(quote, pck_chain=leaf + rest)))


def test_certificates_when_expired_or_not_yet_valid_then_refused_with_the_window(kit: Any, now: Any) -> None:
    late, early = now + timedelta(days=3651), now - timedelta(days=1)
    with pytest.raises(SignatureError, match="root of the quote is good from"):
        kit.verify(endorsements=pki.endorse(kit.keys, late), now=late)
    with pytest.raises(SignatureError, match="root of the quote is good from"):
        kit.verify(endorsements=pki.endorse(kit.keys, early), now=early)


def test_pck_when_expired_then_refused_with_the_window(kit: Any, now: Any) -> None:
    old = now - pki.CERTIFICATE_LIFETIME - timedelta(days=1)
    expired = kit.issue("PCK Certificate", kit.keys.pck_ca, old, extension=kit.sgx_extension())
    keys = replace(kit.keys, pck=expired)
    with pytest.raises(SignatureError, match="PCK certificate of the quote is good from"):
        kit.verify(keys.quoting_enclave().quote(kit.body()))


def test_leaf_and_intermediate_when_revoked_then_refused(kit: Any, now: Any) -> None:
    leaf = pki.endorse(kit.keys, now, revoked_by_ca=[kit.keys.pck.certificate])
    with pytest.raises(SignatureError, match="PCK certificate is revoked"):
        kit.verify(endorsements=leaf)
    root = pki.endorse(kit.keys, now, revoked_by_root=[kit.keys.root.certificate])
    with pytest.raises(SignatureError, match="root is revoked"):
        kit.verify(endorsements=root)
    intermediate = pki.endorse(kit.keys, now, revoked_by_root=[kit.keys.pck_ca.certificate])
    with pytest.raises(SignatureError, match="PCK CA is revoked"):
        kit.verify(endorsements=intermediate)
    signer = pki.endorse(kit.keys, now, revoked_by_root=[kit.keys.tcb_signer.certificate])
    with pytest.raises(SignatureError, match="signer of TCB info is revoked"):
        kit.verify(endorsements=signer)
