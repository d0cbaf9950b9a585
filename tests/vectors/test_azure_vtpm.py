"""Genuine Evidence of Azure confidential VMs against the shared vectors' manifest."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements import Endorsements, TrustAnchors
from securetf.endorsements.sev_snp import SnpAnchors, SnpEndorsements
from securetf.errors import (
    BindingError,
    ConfigurationError,
    SignatureError,
)
from securetf.evidence import azure_vtpm, tdx
from securetf.verifier import sev_snp
from securetf.verifier.azure_vtpm import AzureVtpmVerifier, snp_evidence, tdx_evidence
from securetf.verifier.tdx import TdxVerifier
from support.shared_vectors import NEEDED, VECTORS
from support.tpm_vectors import ENTRIES, FOLDER, same

pytestmark = [NEEDED, pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")]
AZURE = [name for name in sorted(ENTRIES) if name.startswith("azure_")]
NOW = datetime(2026, 1, 15, tzinfo=UTC)  # every VCEK is valid then


class WithoutRevocation:
    """AMD's list at the time of the recording cannot be had any more."""

    def __init__(self, line: str) -> None:
        chain = (VECTORS / f"roots/amd_{line}_ask_ark_asvk.pem").read_bytes()
        self.endorsements = SnpEndorsements.of([chain])

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        assert evidence.platform is Platform.SEV_SNP
        return sev_snp.authenticate_without_revocation(
            evidence.raw,
            anchors=SnpAnchors.amd(),
            endorsements_for=lambda _: self.endorsements,
            expected_report_data=expected_report_data,
            now=now,
        )


class BindingOnly:
    """Stands for a TDX verifier that overlooks everything but the binding of the vTPM's key."""

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        quote = tdx.parse(evidence.raw)
        if quote.body.report_data != expected_report_data:
            raise BindingError("the quote's report data is not the hash of the runtime data", "")
        return VerifiedClaims(
            platform=Platform.TDX,
            registers={"mr_td": quote.body.mr_td},
            report_data=quote.body.report_data,
            tcb_status="UpToDate",
            advisories=(),
            tcb_evaluation_number=0,
            platform_id=b"",
            valid_until=now,
            simulated=False,
        )


def azure(name: str) -> AzureVtpmVerifier:
    line = "milan" if "milan" in name else "genoa"
    return AzureVtpmVerifier(
        {
            azure_vtpm.SNP: (snp_evidence, WithoutRevocation(line)),
            azure_vtpm.TDX: (tdx_evidence, BindingOnly()),
        }
    )


def verify_azure(name: str, raw: bytes, **changes: Any) -> VerifiedClaims:
    arguments: dict[str, Any] = {
        "expected_extra_data": bytes.fromhex(ENTRIES[name]["parse"]["extraData"]),
        "report_data": b"",
        "now": NOW,
    }
    return azure(name).authenticate(raw, **arguments | changes)


@pytest.mark.parametrize("name", AZURE)
def test_azure_evidence_when_parsed_then_fields_are_those_of_the_manifest(name: str) -> None:
    found, expected = azure_vtpm.parse((FOLDER / name).read_bytes()), ENTRIES[name]["parse"]
    same(found.quote, expected)
    assert found.hcl.report_type == expected["hcl_report_type"]
    assert found.hcl.runtime_hash.hex() == expected["hw_report_data"]
    assert found.hcl.runtime_hash[:32].hex() == expected["runtime_claims_hash"]
    assert dict(found.hcl.vm_configuration) == expected["vm_configuration"]


@pytest.mark.parametrize("name", AZURE)
def test_azure_evidence_when_verified_then_valid_as_the_manifest_says(name: str) -> None:
    raw, expected = (FOLDER / name).read_bytes(), ENTRIES[name]["parse"]
    claims = verify_azure(name, raw)
    assert claims.platform is Platform.AZURE_VTPM
    assert claims.properties["reset_count"] == expected["resetCount"]
    assert len([register for register in claims.registers if register.startswith("pcr")]) == 24
    if "snp" in expected:
        assert claims.registers["measurement"].hex() == expected["snp"]["measurement"]
        assert claims.platform_id.hex() == expected["snp"]["chip_id"]


@pytest.mark.parametrize("name", AZURE)
def test_azure_evidence_when_one_part_is_changed_then_refused_for_that_part(name: str) -> None:
    raw = (FOLDER / name).read_bytes()
    with pytest.raises(BindingError, match="extra data is not the one expected"):
        verify_azure(name, raw, expected_extra_data=b"another challenge")
    with pytest.raises(BindingError, match="no value was given"):
        verify_azure(name, raw, expected_extra_data=b"")
    found = json.loads(raw)
    quote = found["quote" if "quote" in found else "tpm_quote"]
    quote["pcrs"][3], quote["pcrs"][4] = quote["pcrs"][4], quote["pcrs"][3]
    with pytest.raises(SignatureError, match="not the ones that the TPM quoted"):
        verify_azure(name, json.dumps(found).encode())
    quote["signature"] = "00" * 256 if isinstance(quote["signature"], str) else [0] * 256
    with pytest.raises(SignatureError, match="TPM quote's signature does not hold"):
        verify_azure(name, json.dumps(found).encode())


@pytest.mark.parametrize("name", AZURE)
def test_azure_runtime_data_when_its_key_is_another_then_refused_for_the_hardware_report(name: str) -> None:
    raw = (FOLDER / name).read_bytes()
    found = json.loads(raw)
    if "report" in found:
        report = bytearray(found["report"])
    else:
        text = found["hcl_report"]
        report = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    place = report.index(b"vmUniqueId") + 14
    report[place] = ord("0") if report[place] != ord("0") else ord("1")
    if "report" in found:
        found["report"] = list(report)
    else:
        found["hcl_report"] = base64.urlsafe_b64encode(report).decode().rstrip("=")
    with pytest.raises(BindingError, match="report data"):
        verify_azure(name, json.dumps(found).encode())


def test_azure_evidence_of_two_machines_when_mixed_then_refused() -> None:
    one, other = (json.loads((FOLDER / name).read_text()) for name in AZURE if "snp" in name)
    mixed = json.dumps(one | {"quote": other["quote"]}).encode()
    with pytest.raises((SignatureError, BindingError), match=r"signature does not hold|extra data"):
        verify_azure("azure_snp_genoa_evidence.json", mixed)


def test_azure_tdx_evidence_when_the_production_verifier_looks_then_its_configuration_is_refused() -> None:
    (name,) = (one for one in AZURE if "tdx" in one)
    collateral = Endorsements.from_json((VECTORS / "collateral/tdx-00806F050000-2025-07.json").read_text())
    hardware = TdxVerifier(TrustAnchors.intel(), lambda _: collateral, minimum_tcb_evaluation=0)
    verifier = AzureVtpmVerifier({azure_vtpm.TDX: (tdx_evidence, hardware)})
    with pytest.raises(ConfigurationError, match="SEPT_VE_DISABLE is clear"):
        verifier.authenticate(
            (FOLDER / name).read_bytes(),
            expected_extra_data=b"challenge",
            report_data=b"",
            now=datetime(2025, 7, 8, tzinfo=UTC),
        )
