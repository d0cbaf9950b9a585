"""Genuine interoperable RA-TLS certificates against the shared vectors' manifest.

The vectors are third-party data and not in this repository: SECURETF_SHARED or ../shared beside the checkout.
"""

import json
import os
import ssl
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from securetf.claims import Evidence, Platform
from securetf.endorsements import Endorsements, TrustAnchors
from securetf.errors import BindingError, ConfigurationError, EvidenceError, MalformedEvidenceError
from securetf.evidence import cbor, ra_tls, sgx
from securetf.verifier.sgx import SgxVerifier

SHARED = Path(os.environ.get("SECURETF_SHARED", Path(__file__).parents[3] / "shared"))
VECTORS = SHARED / "vectors"
pytestmark = pytest.mark.skipif(
    not (VECTORS / "manifest.json").exists(),
    reason=f"no shared vectors at {VECTORS}: set SECURETF_SHARED to the folder that holds vectors/",
)


def entries() -> list[Any]:
    if not (VECTORS / "manifest.json").exists():
        return []
    found: list[dict[str, Any]] = json.loads((VECTORS / "manifest.json").read_text())
    return [pytest.param(one, id=one["file"]) for one in found if one["file"].startswith("ratls/")]


def der_of(entry: dict[str, Any]) -> bytes:
    text = (VECTORS / entry["file"]).read_text()
    return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE") :])


@pytest.mark.parametrize("entry", entries())
def test_genuine_certificate_when_parsed_then_claims_are_those_of_the_manifest(entry: dict[str, Any]) -> None:
    certificate, expected = ra_tls.parse(der_of(entry)), entry["parse"]
    assert certificate.hash_algorithm == expected["pubkey_hash_alg"]
    assert certificate.pubkey_hash.hex() == expected["pubkey_hash"]
    claims = cbor.decode(certificate.claims)
    assert isinstance(claims, dict)
    assert {name: value.hex() for name, value in claims.items() if isinstance(value, bytes)} == expected[
        "claims"
    ]
    quote = sgx.parse(certificate.evidence)
    assert quote.body.mr_enclave.hex() == expected["quote"]["mr_enclave"]
    report_data = ra_tls.expected_report_data_of_any_age(certificate)
    assert report_data == quote.body.report_data
    assert report_data[:32].hex() == expected["claims_sha256"]


@pytest.mark.parametrize("entry", entries())
def test_genuine_certificate_when_verified_then_the_key_is_bound_and_the_debug_enclave_refused(
    entry: dict[str, Any],
) -> None:
    (verdict,) = entry["verdicts"]
    assert verdict["result"] == "key binding VALID; REJECT: debug enclave"
    certificate = ra_tls.parse(der_of(entry))
    collateral = Endorsements.from_json((VECTORS / "collateral/sgx-00606A000000-2025-08.json").read_text())
    verifier = SgxVerifier(TrustAnchors.intel(), lambda _: collateral, minimum_tcb_evaluation=0)
    with pytest.raises(ConfigurationError, match="debug mode"):
        verifier.verify(
            Evidence(Platform.SGX, certificate.evidence),
            expected_report_data=ra_tls.expected_report_data_of_any_age(certificate),
            now=datetime.fromisoformat("2025-08-20T00:00:00Z"),
        )


@pytest.mark.parametrize("entry", entries())
def test_genuine_certificate_when_a_nonce_is_demanded_then_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(BindingError, match="has no nonce: it may be old"):
        ra_tls.expected_report_data(ra_tls.parse(der_of(entry)), nonce=bytes(32))


@pytest.mark.parametrize("entry", entries())
def test_genuine_certificate_when_truncated_or_its_key_is_changed_then_refused(entry: dict[str, Any]) -> None:
    raw = der_of(entry)
    for size in range(0, len(raw), 3):
        with pytest.raises(MalformedEvidenceError):
            ra_tls.parse(raw[:size])
    spki = ra_tls.parse(raw).spki
    start = raw.index(spki)
    for offset in range(start, start + len(spki)):
        changed = bytearray(raw)
        changed[offset] ^= 1
        with pytest.raises(EvidenceError):
            ra_tls.expected_report_data_of_any_age(ra_tls.parse(bytes(changed)))
