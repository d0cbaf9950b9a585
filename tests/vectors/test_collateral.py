"""Genuine DCAP collateral, Intel's root and a TDX event log against the shared vectors' manifest.

The vectors are third-party data and not in this repository: SECURETF_SHARED or ../shared beside the checkout.
"""

import json
import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from securetf.endorsements import Endorsements, TrustAnchors
from securetf.errors import MalformedEvidenceError
from securetf.evidence import tdx, tdx_event_log
from securetf.verifier.pck import check_signer_chain

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
    return [pytest.param(one, id=one["file"]) for one in found if one["file"].startswith("collateral/")]


def window(document: dict[str, str]) -> list[str]:
    return [document["issueDate"], document["nextUpdate"]]


@pytest.mark.parametrize("entry", entries())
def test_genuine_collateral_when_read_then_it_is_what_the_manifest_says(entry: dict[str, Any]) -> None:
    text, expected = (VECTORS / entry["file"]).read_text(), entry["parse"]
    collateral = Endorsements.from_json(text)
    assert Endorsements.from_json(collateral.to_json()) == collateral
    tcb_info, qe_identity = json.loads(collateral.tcb_info), json.loads(collateral.qe_identity)
    assert (tcb_info["id"], tcb_info["fmspc"]) == (expected["tcb_info_id"], expected["fmspc"])
    assert tcb_info["tcbEvaluationDataNumber"] == expected["tcb_eval_data_number"]
    assert window(tcb_info) == expected["tcb_info_window"]
    assert window(qe_identity) == expected["qe_identity_window"]
    for name, raw in (("pck_crl", collateral.pck_crl), ("root_crl", collateral.root_ca_crl)):
        crl = x509.load_der_x509_crl(raw)
        first, last = (datetime.fromisoformat(moment) for moment in expected[f"{name}_window"])
        assert (crl.last_update_utc, crl.next_update_utc) == (first, last)
    for chain in (collateral.tcb_info_issuer_chain, collateral.qe_identity_issuer_chain):
        check_signer_chain("the document", chain, TrustAnchors.intel())


def test_genuine_event_log_when_replayed_then_the_registers_of_its_quote() -> None:
    quote = tdx.parse((VECTORS / "tdx/dstack_quote_report_v4.bin").read_bytes())
    events = tdx_event_log.parse((VECTORS / "tdx/dstack_quote_report_eventlog.json").read_bytes())
    tdx_event_log.check(events, quote.body)
    for number in range(len(events)):
        for changed in (
            [*events[:number], *events[number + 1 :]],
            [*events[: number + 1], *events[number:]],
        ):
            with pytest.raises(MalformedEvidenceError, match="the event log replays to rtmr"):
                tdx_event_log.check(changed, quote.body)
    with pytest.raises(MalformedEvidenceError, match="replays to rtmr2"):
        tdx_event_log.check(events, replace(quote.body, rtmr2=bytes(48)))
