"""Evidence of every platform, cut at every length: refused, and for its form (EVIDENCE.md, framing)."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from securetf.attester import development_pki as pki
from securetf.attester.simulated_enclave import simulated_report
from securetf.errors import MalformedEvidenceError
from securetf.evidence import (
    azure_vtpm,
    nitro,
    sev_snp,
    sev_snp_certificates,
    sgx,
    tcg_event_log,
    tdx,
    tdx_event_log,
    tpm2,
)
from securetf.evidence.sev_snp_certificates import SnpEvidence
from support import azure, snp_platform
from support.nitro import make_module
from support.sgx_platform import SgxPlatform
from support.tpm2 import LOG, make_tpm

NOW = datetime(2026, 11, 22, tzinfo=UTC)
Parse = Callable[[bytes], Any]


def td_quote() -> bytes:
    body = simulated_report(bytes(range(64)), mr_td=b"\1" * 48, rtmr3=b"\3" * 48)
    return pki.create(NOW, platform_id=bytes(16)).quoting_enclave().quote(body)


def snp_with_table() -> bytes:
    report = snp_platform.Platform().report()
    return sev_snp_certificates.encode(SnpEvidence(report=report, certificates={"vcek": b"VCEK"}))


def azure_envelope() -> bytes:
    return json.dumps(azure.Machine(rsa.generate_private_key(65537, 2048)).envelope()).encode()


def event(**changes: Any) -> dict[str, Any]:
    return {"imr": 0, "event_type": 1, "digest": "01" * 48, "event": "", "event_payload": ""} | changes


CASES: dict[str, tuple[Callable[[], bytes], Parse, str]] = {
    "TDX": (td_quote, tdx.parse, "ends inside its"),
    "SGX": (lambda: SgxPlatform.make().quote(), sgx.parse, "ends inside its"),
    "SEV-SNP": (
        lambda: sev_snp.encode(snp_platform.Platform().report()),
        sev_snp_certificates.parse,
        "expected 1184",
    ),
    "Nitro": (lambda: make_module().document(), nitro.parse, "CBOR: "),
    "TPM 2.0": (lambda: make_tpm().evidence(), tpm2.parse, "ends inside its"),
    "Azure": (azure_envelope, azure_vtpm.parse, "not strict JSON"),
    "event log of a TD": (
        lambda: json.dumps([event(), event(imr=3)]).encode(),
        tdx_event_log.parse,
        "not strict JSON",
    ),
}


@pytest.mark.parametrize("platform", CASES)
def test_evidence_when_cut_anywhere_then_refused_for_its_form(platform: str) -> None:
    make, parse, reason = CASES[platform]
    raw = make()
    parse(raw)
    for size in range(len(raw)):
        with pytest.raises(MalformedEvidenceError, match=reason):
            parse(raw[:size])


def test_table_of_an_snp_host_when_cut_anywhere_then_refused_and_never_a_shorter_certificate() -> None:
    raw = snp_with_table()
    sev_snp_certificates.parse(raw)
    for size in range(sev_snp.REPORT_SIZE + 1, len(raw)):
        with pytest.raises(MalformedEvidenceError, match=r"closing entry|outside"):
            sev_snp_certificates.parse(raw[:size])


def test_event_log_when_cut_inside_an_event_then_refused_and_at_its_end_the_replay_tells() -> None:
    """A cut log of whole events is well formed; `does not replay to the quoted PCRs` is what refuses it."""
    raw = tcg_event_log.encode(LOG)
    whole = {len(tcg_event_log.encode(LOG.__class__(**fields(count)))) for count in range(len(LOG.events))}
    for size in range(1, len(raw)):
        if size in whole:
            assert len(tcg_event_log.parse(raw[:size]).events) < len(LOG.events)
            continue
        with pytest.raises(MalformedEvidenceError, match="ends inside an entry"):
            tcg_event_log.parse(raw[:size])


def fields(count: int) -> dict[str, Any]:
    return {"header": LOG.header, "algorithms": LOG.algorithms, "events": LOG.events[:count]}
