"""dcap-qvl behind our wrapper, and a second check of the signatures by plain integers, agree."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securetf.attester import development_pki as pki
from securetf.attester.simulated_enclave import simulated_report
from securetf.errors import EvidenceError, SignatureError
from securetf.verifier.tdx import authenticate
from support.dcap_oracle import holds
from support.sgx_platform import NOW, REPORT_DATA, SgxPlatform

SHARED = Path(os.environ.get("SECURETF_SHARED", Path(__file__).parents[3] / "shared"))
VECTORS = SHARED / "vectors"
INTEL = bytes.fromhex("a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e")

MACHINE = SgxPlatform.make()
(PIN,) = MACHINE.anchors.spki_sha256
COLLATERAL = MACHINE.endorse()
SGX_QUOTE = MACHINE.quote()
TDX_COLLATERAL = pki.endorse(MACHINE.keys, NOW)
ENCLAVE = MACHINE.keys.quoting_enclave()
TD = simulated_report(REPORT_DATA, mr_td=b"\1" * 48, rtmr3=bytes(48))
TDX_QUOTES = {4: ENCLAVE.quote(TD), 5: ENCLAVE.quote(TD, version=5)}
FEW = settings(max_examples=60, deadline=None)


def tdx_verify(raw: bytes) -> None:
    authenticate(
        raw,
        anchors=MACHINE.anchors,
        endorsements_for=lambda _: TDX_COLLATERAL,
        expected_report_data=REPORT_DATA,
        minimum_tcb_evaluation=0,
        now=NOW,
    )


def test_quote_when_genuine_in_form_then_both_accept() -> None:
    assert holds(SGX_QUOTE, PIN)
    MACHINE.verify(SGX_QUOTE, endorsements=COLLATERAL)
    for raw in TDX_QUOTES.values():
        assert holds(raw, PIN)
        tdx_verify(raw)


@given(st.sampled_from([3, 4, 5]), st.data())
@FEW
def test_quote_when_one_byte_differs_then_what_ours_accepts_the_other_accepts(
    version: int, data: st.DataObject
) -> None:
    raw = bytearray(SGX_QUOTE if version == 3 else TDX_QUOTES[version])
    offset = data.draw(st.integers(0, len(raw) - 1))
    raw[offset] ^= 1 << data.draw(st.integers(0, 7))
    try:
        if version == 3:
            MACHINE.verify(bytes(raw), endorsements=COLLATERAL)
        else:
            tdx_verify(bytes(raw))
    except SignatureError:
        # Names and the outer algorithm of a certificate are not the other's business.
        chain = (SGX_QUOTE if version == 3 else TDX_QUOTES[version]).index(b"-----BEGIN")
        assert offset >= chain or not holds(bytes(raw), PIN)
    except EvidenceError:
        return  # refused for its form, collateral, TCB or configuration, at which the other does not look
    else:
        assert holds(bytes(raw), PIN)


def entries() -> list[Any]:
    if not (VECTORS / "manifest.json").exists():
        return []
    found = json.loads((VECTORS / "manifest.json").read_text())
    return [
        pytest.param(entry, id=entry["file"])
        for entry in found
        if entry["file"].startswith(("tdx/", "sgx/")) and entry["file"].endswith(".bin")
    ]


@pytest.mark.skipif(not entries(), reason=f"no shared vectors at {VECTORS}: set SECURETF_SHARED")
@pytest.mark.parametrize("entry", entries())
def test_genuine_quote_when_checked_by_the_other_then_as_the_manifest_says(entry: dict[str, Any]) -> None:
    raw = (VECTORS / entry["file"]).read_bytes()
    checked = entry["checked"]
    good = all(f"{name}=True" in checked for name in ("quote_sig", "ak_hash", "qe_sig", "chain"))
    assert holds(raw, INTEL) == good
    changed = bytearray(raw)
    changed[60] ^= 1
    assert not holds(bytes(changed), INTEL)
