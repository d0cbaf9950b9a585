"""Genuine SGX quotes v3 against the verdicts of the shared vectors' manifest, at the times it names.

The vectors are third-party data and not in this repository: SECURETF_SHARED or ../shared beside the checkout.
"""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements import Endorsements, TrustAnchors
from securetf.errors import (
    BindingError,
    ConfigurationError,
    EndorsementError,
    EvidenceError,
    MalformedEvidenceError,
    SignatureError,
)
from securetf.evidence import sgx
from securetf.verifier.sgx import SgxVerifier

SHARED = Path(os.environ.get("SECURETF_SHARED", Path(__file__).parents[3] / "shared"))
VECTORS = SHARED / "vectors"
pytestmark = pytest.mark.skipif(
    not (VECTORS / "manifest.json").exists(),
    reason=f"no shared vectors at {VECTORS}: set SECURETF_SHARED to the folder that holds vectors/",
)

# The manifest has dcap-qvl's words; this is our error for each, and what our message must say.
REASONS: dict[str, tuple[type[EvidenceError], str]] = {
    "TCBInfo issue date is in the future": (EndorsementError, "TCB info is issued in the future"),
    "TCBInfo expired": (EndorsementError, "TCB info expired at"),
    "CrlExpired": (EndorsementError, "TCB info expired at"),  # all have expired; the first is named
    "Failed to verify certificate chain": (EndorsementError, "PCK CRL is not signed by the issuer"),
    "Debug mode is enabled": (ConfigurationError, "debug mode"),
    "old debug quote": (EndorsementError, "no collateral for the platform with FMSPC 00906EA10000"),
    "no embedded PCK chain": (MalformedEvidenceError, "certification data of type 3, expected 5"),
    "upstream negative fixture": (SignatureError, "which is not a trust anchor"),
}


def entries() -> list[Any]:
    if not (VECTORS / "manifest.json").exists():
        return []
    found: list[dict[str, Any]] = json.loads((VECTORS / "manifest.json").read_text())
    return [pytest.param(entry, id=entry["file"]) for entry in found if entry["file"].startswith("sgx/")]


def cases() -> list[Any]:
    return [
        pytest.param(entry, verdict, id=f"{entry['file']}@{verdict.get('at', 'any')[:10]}")
        for (entry,) in (case.values for case in entries())
        for verdict in entry["verdicts"]
    ]


def verify(
    raw: bytes, entry: dict[str, Any], verdict: dict[str, Any], floor: int = 0, **changes: Any
) -> VerifiedClaims:
    collateral = None
    if "collateral" in verdict:
        collateral = Endorsements.from_json((VECTORS / verdict["collateral"]).read_text())
    arguments: dict[str, Any] = {
        "expected_report_data": bytes.fromhex(entry["parse"]["report_data"]),
        "now": datetime.fromisoformat(verdict.get("at", "2025-08-20T00:00:00Z")),
    }
    verifier = SgxVerifier(TrustAnchors.intel(), lambda _: collateral, minimum_tcb_evaluation=floor)
    return verifier.verify(Evidence(Platform.SGX, raw), **arguments | changes)


def test_vectors_when_present_then_there_are_five_quotes() -> None:
    assert len(entries()) >= 5


@pytest.mark.parametrize("entry", entries())
def test_genuine_quote_when_parsed_then_fields_are_those_of_the_manifest(entry: dict[str, Any]) -> None:
    raw, expected = (VECTORS / entry["file"]).read_bytes(), entry["parse"]
    if expected["fmspc"] is None:
        with pytest.raises(MalformedEvidenceError, match="certification data of type 3"):
            sgx.parse(raw)
        return
    quote = sgx.parse(raw)
    assert sgx.encode(quote) == raw[: expected["declared_end"]]
    for name in ("report_data", "mr_enclave", "mr_signer", "attributes", "cpu_svn"):
        assert getattr(quote.body, name).hex() == expected[name], name
    assert (quote.body.isv_prod_id, quote.body.isv_svn) == (expected["isv_prod_id"], expected["isv_svn"])


@pytest.mark.parametrize(("entry", "verdict"), cases())
def test_genuine_quote_when_verified_then_verdict_is_that_of_the_manifest(
    entry: dict[str, Any], verdict: dict[str, Any]
) -> None:
    raw = (VECTORS / entry["file"]).read_bytes()
    if verdict["result"] == "REJECT":
        (words,) = verdict["detail"]
        error, reason = next(found for start, found in REASONS.items() if words.startswith(start))
        with pytest.raises(error, match=reason):
            verify(raw, entry, verdict)
        return
    claims = verify(raw, entry, verdict)
    assert (claims.tcb_status, list(claims.advisories)) == (verdict["result"], verdict["detail"])
    assert (claims.platform, claims.simulated) == (Platform.SGX, False)
    assert claims.measurement.hex() == entry["parse"]["mr_enclave"]
    assert claims.registers["mr_signer"].hex() == entry["parse"]["mr_signer"]
    assert claims.properties["isv_svn"] == entry["parse"]["isv_svn"]
    assert len(claims.platform_id) == 16


def test_corrupted_quote_when_collateral_is_there_then_refused_for_a_signature() -> None:
    entry = next(case.values[0] for case in entries() if "corrupted" in case.values[0]["file"])
    verdict = {"collateral": "collateral/sgx-00A067110000-2025-06.json", "at": "2025-06-19T12:00:00Z"}
    with pytest.raises(SignatureError):
        verify((VECTORS / entry["file"]).read_bytes(), entry, verdict)


def test_genuine_quote_when_altered_relayed_or_under_a_floor_then_refused() -> None:
    entry = next(case.values[0] for case in entries() if "dcapqvl" in case.values[0]["file"])
    verdict, raw = entry["verdicts"][0], (VECTORS / entry["file"]).read_bytes()
    with pytest.raises(BindingError, match="report data"):
        verify(raw, entry, verdict, expected_report_data=bytes(range(64)))
    changed = bytearray(raw)
    changed[48 + 64] ^= 1
    with pytest.raises(SignatureError, match="quote's signature does not hold"):
        verify(bytes(changed), entry, verdict)
    with pytest.raises(EndorsementError, match="tcbEvaluationDataNumber"):
        verify(raw, entry, verdict, floor=18)
    with pytest.raises(EndorsementError, match=r"TCB info is for 'TDX', expected 'SGX'|PCK CRL"):
        verify(
            raw,
            entry,
            {
                **verdict,
                "collateral": "collateral/tdx-B0C06F000000-2025-06.json",
                "at": "2025-06-20T00:00:00Z",
            },
        )


def accepted() -> list[Any]:
    return [case for case in cases() if case.values[1]["result"] != "REJECT"]


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "verdict"), accepted())
def test_genuine_quote_when_truncated_anywhere_or_a_bit_of_signed_bytes_is_flipped_then_refused(
    entry: dict[str, Any], verdict: dict[str, Any]
) -> None:
    raw = (VECTORS / entry["file"]).read_bytes()[: entry["parse"]["declared_end"]]
    for size in range(len(raw)):
        with pytest.raises(MalformedEvidenceError):
            sgx.parse(raw[:size])
    start = raw.index(sgx.parse(raw).signature)
    qe = raw.index(sgx.parse(raw).qe_report)
    unsigned = {*range(start - 4, start), *range(start + 128, qe), *range(qe + 448, qe + 450)}  # sizes, types
    for offset in sorted({*range(qe + 482)} - unsigned):
        changed = bytearray(raw)
        changed[offset] ^= 1 << offset % 8
        with pytest.raises(EvidenceError):
            verify(bytes(changed), entry, verdict)
