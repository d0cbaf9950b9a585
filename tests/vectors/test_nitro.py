"""Genuine Nitro documents against the verdicts of the shared vectors' manifest, at the times it names."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.claims import VerifiedClaims
from securetf.endorsements import TrustAnchors
from securetf.endorsements.trust import spki_digest
from securetf.errors import ConfigurationError, EvidenceError, MalformedEvidenceError, SignatureError
from securetf.evidence import nitro
from securetf.verifier.nitro import authenticate
from support.shared_vectors import NEEDED, VECTORS, entries

pytestmark = NEEDED
# The manifest's verdict at the document's own time; ours, and what our message must say.
REASONS: dict[str, tuple[type[EvidenceError], str]] = {
    "signature valid; REJECT: PCR0 all zero (debug enclave)": (ConfigurationError, "PCR0 is zero"),
    "REJECT InvalidSignature ": (SignatureError, "COSE signature does not hold"),
    "REJECT ValueError error parsing asn1 value": (MalformedEvidenceError, "leaf certificate cannot be read"),
}
ENTRIES = entries("nitro")
DOCUMENTS = sorted(name for name in ENTRIES if name.endswith(".bin"))


def made(name: str) -> datetime:
    return datetime.fromisoformat(ENTRIES[name]["parse"]["timestamp"])


def verify(raw: bytes, name: str, **changes: Any) -> VerifiedClaims:
    parse = ENTRIES[name]["parse"]
    expected = {key: parse[key] for key in ("user_data", "nonce", "public_key") if parse[key]}
    arguments: dict[str, Any] = {
        "anchors": TrustAnchors.aws_nitro(),
        "expected": {key: bytes.fromhex(value) for key, value in expected.items()},
        "now": made(name),
    }
    return authenticate(raw, **arguments | changes)


def test_vectors_when_present_then_there_are_six_documents_and_a_root() -> None:
    assert len(DOCUMENTS) >= 6
    assert len(ENTRIES) == len(DOCUMENTS) + 1


@pytest.mark.parametrize("name", DOCUMENTS)
def test_genuine_document_when_parsed_then_fields_are_those_of_the_manifest(name: str) -> None:
    raw, expected = (VECTORS / "nitro" / name).read_bytes(), ENTRIES[name]["parse"]
    document = nitro.parse(raw)
    assert nitro.encode(document) == raw
    assert document.module_id == expected["module_id"]
    assert document.timestamp_ms == expected["timestamp_ms"]
    assert len(document.pcrs) == expected["pcr_count"]
    for index in range(3):
        assert document.pcrs[index].hex() == expected[f"pcr{index}"]
    for field in ("nonce", "user_data", "public_key"):
        assert getattr(document, field).hex() == expected[field]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_genuine_document_when_verified_at_its_time_then_verdict_is_that_of_the_manifest(name: str) -> None:
    raw = (VECTORS / "nitro" / name).read_bytes()
    verdict = ENTRIES[name]["verdicts"][0]
    assert verdict["at"] == "document timestamp"
    if verdict["result"] == "VALID":
        claims = verify(raw, name)
        assert claims.valid_until == datetime.fromisoformat(ENTRIES[name]["parse"]["leaf_not_after"])
        assert claims.registers["pcr0"].hex() == ENTRIES[name]["parse"]["pcr0"]
        return
    ((error, reason),) = [found for words, found in REASONS.items() if verdict["result"].startswith(words)]
    with pytest.raises(error, match=reason):
        verify(raw, name)


@pytest.mark.parametrize(
    "name",
    [name for name in DOCUMENTS if any("expired leaf" in one["result"] for one in ENTRIES[name]["verdicts"])],
)
def test_genuine_document_when_its_leaf_has_expired_then_refused(name: str) -> None:
    raw = (VECTORS / "nitro" / name).read_bytes()
    after = datetime.fromisoformat(ENTRIES[name]["parse"]["leaf_not_after"]) + timedelta(seconds=1)
    with pytest.raises(SignatureError, match="expired at"):
        verify(raw, name, now=after)


def test_unknown_root_when_pinned_then_each_document_is_refused() -> None:
    root = x509.load_der_x509_certificate(_der((VECTORS / "nitro/fortanix_unknown_ca.crt").read_bytes()))
    anchors = TrustAnchors(spki_sha256=frozenset({spki_digest(root)}), development=False)
    for name in DOCUMENTS:
        with pytest.raises(
            (SignatureError, MalformedEvidenceError), match=r"not a trust anchor|cannot be read"
        ):
            verify((VECTORS / "nitro" / name).read_bytes(), name, anchors=anchors)


def _der(raw: bytes) -> bytes:
    if raw.startswith(b"-----"):
        return x509.load_pem_x509_certificate(raw).public_bytes(Encoding.DER)
    return raw


@pytest.mark.parametrize(
    "name", [name for name in DOCUMENTS if ENTRIES[name]["verdicts"][0]["result"] == "VALID"]
)
def test_genuine_document_when_any_eleventh_byte_changes_or_it_is_cut_then_refused(name: str) -> None:
    raw = (VECTORS / "nitro" / name).read_bytes()
    for offset in range(0, len(raw), 11):
        changed = bytearray(raw)
        changed[offset] ^= 1 << offset % 8
        with pytest.raises(EvidenceError):
            verify(bytes(changed), name)
        with pytest.raises(MalformedEvidenceError):
            verify(raw[:offset], name)


def test_aws_root_when_compared_with_the_pin_then_equal() -> None:
    pem = (VECTORS / "roots/aws_nitro_root_g1.pem").read_bytes()
    assert TrustAnchors.aws_nitro().find(x509.load_pem_x509_certificate(pem))
