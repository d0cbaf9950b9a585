"""Genuine TDX quotes against the verdicts of the shared vectors' manifest, at the times it names.

The vectors are third-party data and not in this repository: SECURETF_SHARED or ../shared beside the checkout.
"""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements import Endorsements, TrustAnchors
from securetf.errors import (
    BindingError,
    ConfigurationError,
    EndorsementError,
    EvidenceError,
    MalformedEvidenceError,
    SignatureError,
    TcbError,
)
from securetf.evidence import tdx
from securetf.verifier.tdx import TdxVerifier

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
    "Fmspc mismatch": (EndorsementError, "TCB info is for FMSPC"),
    "No matching TCB level found": (TcbError, "no TCB level of the TCB info is reached"),
    "Debug mode is enabled": (ConfigurationError, "debug mode"),
    "SEPT_VE_DISABLE is not enabled": (ConfigurationError, "SEPT_VE_DISABLE is clear"),
    "Invalid MR service TD": (ConfigurationError, "MR_SERVICETD"),
}
NON_ZERO_PADDING = {"tdx/gotdx_spr_e4_v4.bin"}  # refused for its framing before anything else


def entries() -> list[dict[str, Any]]:
    if not (VECTORS / "manifest.json").exists():
        return []
    found: list[dict[str, Any]] = json.loads((VECTORS / "manifest.json").read_text())
    return [entry for entry in found if entry["file"].startswith("tdx/") and entry["file"].endswith(".bin")]


def named(entry: dict[str, Any]) -> str:
    return str(entry["file"])


def verify(
    raw: bytes, entry: dict[str, Any], verdict: dict[str, Any], floor: int = 0, **changes: Any
) -> VerifiedClaims:
    collateral = Endorsements.from_json((VECTORS / verdict["collateral"]).read_text())
    arguments: dict[str, Any] = {
        "expected_report_data": bytes.fromhex(entry["parse"]["report_data"]),
        "now": datetime.fromisoformat(verdict["at"]),
    }
    verifier = TdxVerifier(TrustAnchors.intel(), lambda _: collateral, minimum_tcb_evaluation=floor)
    return verifier.verify(Evidence(Platform.TDX, raw), **arguments | changes)


def cases() -> list[Any]:
    return [
        pytest.param(entry, verdict, id=f"{entry['file']}@{verdict['at'][:10]}")
        for entry in entries()
        for verdict in entry["verdicts"]
    ]


def test_vectors_when_present_then_there_are_ten_quotes() -> None:
    assert len(entries()) >= 10


@pytest.mark.parametrize("entry", entries(), ids=named)
def test_genuine_quote_when_parsed_then_fields_are_those_of_the_manifest(entry: dict[str, Any]) -> None:
    raw, expected = (VECTORS / entry["file"]).read_bytes(), entry["parse"]
    if entry["file"] in NON_ZERO_PADDING:
        with pytest.raises(MalformedEvidenceError, match="other than zero follow"):
            tdx.parse(raw)
        raw = raw[: expected["declared_end"]]
    quote = tdx.parse(raw)
    assert quote.version == expected["version"]
    assert len(tdx.encode(quote)) == expected["declared_end"]
    assert raw.startswith(tdx.encode(quote))
    for name in (
        "report_data",
        "mr_td",
        "rtmr0",
        "rtmr1",
        "rtmr2",
        "rtmr3",
        "mr_seam",
        "td_attributes",
        "xfam",
        "tee_tcb_svn",
        "mr_config_id",
    ):
        assert getattr(quote.body, name).hex() == expected[name], name


@pytest.mark.parametrize(("entry", "verdict"), cases())
def test_genuine_quote_when_verified_then_verdict_is_that_of_the_manifest(
    entry: dict[str, Any], verdict: dict[str, Any]
) -> None:
    raw = (VECTORS / entry["file"]).read_bytes()[: entry["parse"]["declared_end"] + 4096]
    if entry["file"] in NON_ZERO_PADDING:
        raw = raw[: entry["parse"]["declared_end"]]
    if verdict["result"] == "REJECT":
        (words,) = verdict["detail"]
        error, reason = REASONS[words]
        with pytest.raises(error, match=reason):
            verify(raw, entry, verdict)
        return
    claims = verify(raw, entry, verdict)
    assert claims.tcb_status == verdict["result"]
    assert list(claims.advisories) == verdict["detail"]
    assert not claims.simulated
    assert claims.platform is Platform.TDX
    assert len(claims.platform_id) == 16
    collateral = next(
        item
        for item in json.loads((VECTORS / "manifest.json").read_text())
        if item["file"] == verdict["collateral"]
    )
    window_end = collateral["parse"]["valid_window"][1]
    assert claims.valid_until == datetime.fromisoformat(window_end)


def accepted() -> list[Any]:
    return [case for case in cases() if case.values[1]["result"] != "REJECT"]


@pytest.mark.parametrize(("entry", "verdict"), accepted())
def test_genuine_quote_when_altered_relayed_or_under_a_floor_then_refused(
    entry: dict[str, Any], verdict: dict[str, Any]
) -> None:
    raw = (VECTORS / entry["file"]).read_bytes()
    with pytest.raises(BindingError, match="report data"):
        verify(raw, entry, verdict, expected_report_data=bytes(range(64)))
    changed = bytearray(raw)
    changed[48 + 136] ^= 1
    with pytest.raises(SignatureError, match="quote's signature does not hold"):
        verify(bytes(changed), entry, verdict)
    with pytest.raises(EndorsementError, match="tcbEvaluationDataNumber"):
        verify(raw, entry, verdict, floor=19)


def test_intel_root_when_compared_with_the_pin_then_equal() -> None:
    der = (VECTORS / "roots/intel_sgx_root_ca.der").read_bytes()
    assert TrustAnchors.intel().find(x509.load_der_x509_certificate(der))


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "verdict"), accepted())
def test_genuine_quote_when_truncated_anywhere_or_a_bit_of_signed_bytes_is_flipped_then_refused(
    entry: dict[str, Any], verdict: dict[str, Any]
) -> None:
    raw = (VECTORS / entry["file"]).read_bytes()[: entry["parse"]["declared_end"]]
    for size in range(len(raw)):
        with pytest.raises(MalformedEvidenceError):
            tdx.parse(raw[:size])
    start = raw.index(tdx.parse(raw).signature)
    qe = raw.index(tdx.parse(raw).qe_report)
    unsigned = {*range(start - 4, start), *range(start + 128, qe), *range(qe + 448, qe + 450)}  # sizes, types
    for offset in sorted({*range(qe + 482)} - unsigned):
        changed = bytearray(raw)
        changed[offset] ^= 1 << offset % 8
        with pytest.raises(EvidenceError):
            verify(bytes(changed), entry, verdict)
