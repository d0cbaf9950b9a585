"""Genuine TPM quotes with their companions against the shared vectors' manifest."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from securetf.errors import (
    BindingError,
    ConfigurationError,
    EvidenceError,
    SignatureError,
)
from securetf.evidence import tpm2_public, tpm2_quote
from securetf.evidence.tpm2_quote import Quote
from securetf.verifier import tpm2_quote as steps
from support.shared_vectors import NEEDED
from support.tpm_vectors import ENTRIES, FOLDER, same

pytestmark = NEEDED


def test_vectors_when_present_then_there_are_twelve_files() -> None:
    assert len(ENTRIES) >= 12


# --- keylime: a quote with its companions -----------------------------------------------------------------


def keylime() -> tuple[Quote, tpm2_quote.Signature, tpm2_public.Public]:
    sized = (FOLDER / "keylime_ak.pub").read_bytes()
    return (
        tpm2_quote.parse_quote((FOLDER / "keylime_quote.msg").read_bytes()),
        tpm2_quote.parse_signature((FOLDER / "keylime_quotesig.out").read_bytes()),
        tpm2_public.parse(sized[2:]),
    )


def test_keylime_quote_when_read_and_written_then_the_bytes_and_fields_of_the_manifest() -> None:
    quote, _, _ = keylime()
    assert tpm2_quote.encode_quote(quote) == (FOLDER / "keylime_quote.msg").read_bytes()
    same(quote, ENTRIES["keylime_quote.msg"]["parse"])


def test_keylime_signature_when_read_and_written_then_the_same_bytes() -> None:
    raw = (FOLDER / "keylime_quotesig.out").read_bytes()
    assert tpm2_quote.encode_signature(tpm2_quote.parse_signature(raw)) == raw


@pytest.mark.parametrize("name", ["keylime_ak.pub", "keylime_ek.pub"])
def test_keylime_public_area_when_read_and_written_then_the_same_bytes(name: str) -> None:
    raw = (FOLDER / name).read_bytes()
    assert int.from_bytes(raw[:2], "big") == len(raw) - 2
    assert tpm2_public.encode(tpm2_public.parse(raw[2:])) == raw[2:]


def test_keylime_endorsement_key_when_taken_for_an_attestation_key_then_refused() -> None:
    ek = tpm2_public.parse((FOLDER / "keylime_ek.pub").read_bytes()[2:])
    with pytest.raises(ConfigurationError, match="is not a signing key"):
        steps.check_ak(ek)


def test_keylime_ak_name_when_computed_then_equal() -> None:
    _, _, ak = keylime()
    assert tpm2_public.name(ak) == (FOLDER / "keylime_ak.name").read_bytes()


def test_keylime_ak_when_compared_with_its_pem_then_the_same_key() -> None:
    _, _, ak = keylime()
    pem = load_pem_public_key((FOLDER / "keylime_akpub.pem").read_bytes())
    assert isinstance(pem, rsa.RSAPublicKey)
    assert steps.public_key(ak).public_numbers() == pem.public_numbers()


def test_keylime_pcr_file_when_read_then_its_values_are_the_quoted_ones() -> None:
    """tpm2-tools' file: bit maps in bytes 0 to 131, then counts and digests, each padded to 64 bytes."""
    quote, signature, ak = keylime()
    raw = (FOLDER / "keylime_quotepcr.out").read_bytes()
    count = int.from_bytes(raw[136:140], "little")
    digests = [raw[142 + 66 * index : 142 + 66 * index + 32] for index in range(count)]
    pcrs = dict(zip(quote.selection, digests, strict=True))
    steps.check_ak(ak)
    steps.check_signature(quote, signature, steps.public_key(ak))
    steps.check_pcrs(quote, signature, pcrs)
    steps.check_extra_data(quote, bytes.fromhex(ENTRIES["keylime_quote.msg"]["parse"]["extraData"]))
    with pytest.raises(SignatureError, match="not the ones that the TPM quoted"):
        steps.check_pcrs(quote, signature, pcrs | {16: bytes(31) + b"\1"})


def test_keylime_signature_when_any_byte_of_the_quote_changes_then_refused() -> None:
    quote, signature, ak = keylime()
    raw, key = tpm2_quote.encode_quote(quote), steps.public_key(ak)
    for offset in range(len(raw)):
        changed = bytearray(raw)
        changed[offset] ^= 1 << offset % 8
        with pytest.raises(EvidenceError):
            steps.check_signature(tpm2_quote.parse_quote(bytes(changed)), signature, key)


# --- trustee: a quote in JSON, AK as SPKI -----------------------------------------------------------------


def test_trustee_evidence_when_verified_then_signature_and_pcrs_hold_as_the_manifest_says() -> None:
    found = json.loads((FOLDER / "trustee_tpm_evidence.json").read_text())
    expected = ENTRIES["trustee_tpm_evidence.json"]["parse"]
    quote = tpm2_quote.parse_quote(base64.b64decode(found["tpm_quote"]["message"]))
    signature = tpm2_quote.parse_signature(base64.b64decode(found["tpm_quote"]["signature"]))
    same(quote, expected)
    key = load_der_public_key(base64.b64decode(found["ak_public"]))
    assert isinstance(key, rsa.RSAPublicKey)
    steps.check_signature(quote, signature, key)
    pcrs = {index: bytes.fromhex(value) for index, value in enumerate(found["tpm_quote"]["pcrs"])}
    steps.check_pcrs(quote, signature, pcrs)
    steps.check_extra_data(quote, bytes.fromhex(expected["extraData"]))
    with pytest.raises(BindingError, match="extra data is not the one expected"):
        steps.check_extra_data(quote, bytes(64))
