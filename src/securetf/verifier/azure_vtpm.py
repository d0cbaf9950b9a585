"""Verifier of Azure confidential VMs: the hardware report binds the vTPM's key, the key binds the nonce.

The hardware report alone is not fresh: Azure makes it at boot, and anew only when a guest asks. Source:
Microsoft, "Guest attestation for confidential VMs" (docs/platforms.md, "Azure vTPM", same numbers).
"""

from collections.abc import Callable, Mapping
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements.trust import UNREADABLE
from securetf.errors import (
    BindingError,
    EvidenceError,
    MalformedEvidenceError,
    UnsupportedPlatformError,
)
from securetf.evidence import azure_vtpm, sev_snp, sev_snp_certificates, tpm2
from securetf.evidence.azure_vtpm import AzureEvidence
from securetf.verifier import Verifier, tpm2_quote
from securetf.verifier.steps import step

STEPS = (
    "framing: JSON, HCL report, quote",
    "hardware report: genuine, and binds the vTPM's key",
    "signature of the quote",
    "PCR values: those quoted, no sha1",
    "binding: extra data",
)
# How the hardware part becomes Evidence of its own platform, for that platform's verifier.
HardwareEvidence = Callable[[AzureEvidence], Evidence]


def tdx_evidence(evidence: AzureEvidence) -> Evidence:
    """Return the TD quote of an Azure TDX machine."""
    return Evidence(Platform.TDX, evidence.td_quote)


def snp_evidence(evidence: AzureEvidence) -> Evidence:
    """Return the SNP report of an Azure SNP machine, with the VCEK that came with it.

    Raises:
        MalformedEvidenceError: the report or the VCEK cannot be read.
    """
    try:
        load = x509.load_der_x509_certificate if evidence.form else x509.load_pem_x509_certificate
        vcek = load(evidence.vcek).public_bytes(Encoding.DER)
    except UNREADABLE as error:
        raise MalformedEvidenceError(
            f"the VCEK in Azure Evidence cannot be read: {error}",
            "pass it as Azure's THIM gives it: PEM in form 0, base64url of its DER in forms 1 and 2",
        ) from None
    report = sev_snp.parse(evidence.hcl.hardware_report)
    with_vcek = sev_snp_certificates.SnpEvidence(report=report, certificates={"vcek": vcek})
    return Evidence(Platform.SEV_SNP, sev_snp_certificates.encode(with_vcek))


class AzureVtpmVerifier:
    """Verifies `Platform.AZURE_VTPM` Evidence with the verifiers of its hardware."""

    def __init__(self, hardware: Mapping[int, tuple[HardwareEvidence, Verifier]]) -> None:
        """hardware: type of hardware report (`azure_vtpm.TDX`, `SNP`) to its Evidence and verifier."""
        self._hardware = dict(hardware)

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        """As `Verifier.verify`; the quote's extra data is `tpm2.qualifying_data(expected_report_data)`."""
        if evidence.platform is not Platform.AZURE_VTPM:
            raise UnsupportedPlatformError(
                f"{evidence.platform.value} Evidence was given to the verifier of azure_vtpm",
                "configure a verifier for that platform",
            )
        return self.authenticate(
            evidence.raw,
            expected_extra_data=tpm2.qualifying_data(expected_report_data) if expected_report_data else b"",
            report_data=expected_report_data,
            now=now,
        )

    def authenticate(
        self, raw: bytes, *, expected_extra_data: bytes, report_data: bytes, now: datetime
    ) -> VerifiedClaims:
        """Verify one envelope. report_data: what `expected_extra_data` stands for, for the claims.

        Raises:
            EvidenceError: the exact subclass names the leg that failed.
        """
        with step(1):  # Framing of envelope, HCL report and quote.
            found = azure_vtpm.parse(raw)
            key = tpm2_quote.public_key(azure_vtpm.public_area(found.hcl))
        # 2. Hardware: genuine, and its report data is the hash of the runtime data, which has the vTPM's key.
        hardware = self._verify_hardware(found, now)
        with step(3):
            tpm2_quote.check_signature(found.quote, found.signature, key)
        with step(4):
            tpm2_quote.check_pcrs(found.quote, found.signature, found.pcrs)
        with step(5):
            tpm2_quote.check_extra_data(found.quote, expected_extra_data)
            _check_user_data(found)
        return VerifiedClaims(
            platform=Platform.AZURE_VTPM,
            registers={**hardware.registers, **tpm2_quote.registers(found.pcrs)},
            report_data=report_data,
            tcb_status=hardware.tcb_status,
            advisories=hardware.advisories,
            tcb_evaluation_number=hardware.tcb_evaluation_number,
            platform_id=hardware.platform_id,
            valid_until=hardware.valid_until,
            simulated=hardware.simulated,
            properties={
                **hardware.properties,
                **tpm2_quote.properties(found.quote),
                "hardware": hardware.platform.value,
            },
        )

    def _verify_hardware(self, found: AzureEvidence, now: datetime) -> VerifiedClaims:
        if found.hcl.report_type not in self._hardware:
            raise UnsupportedPlatformError(
                f"no verifier for the hardware report of type {found.hcl.report_type} in Azure Evidence",
                "configure the verifier of that TEE, or reject the workload",
            )
        make_evidence, verifier = self._hardware[found.hcl.report_type]
        try:
            part = make_evidence(found)
            return verifier.verify(part, expected_report_data=found.hcl.runtime_hash, now=now)
        except EvidenceError as error:
            error.step = 2  # its own steps are of the hardware's verifier
            raise


def _check_user_data(found: AzureEvidence) -> None:
    """Check what form 2 promises: the hardware report was made for this challenge, not once at boot."""
    expected = found.quote.extra_data.ljust(azure_vtpm.USER_DATA_SIZE, b"\0")
    if found.form == 2 and found.hcl.user_data != expected:
        raise BindingError(
            "Azure Evidence of form 2 has other user data in its runtime data than the quote's extra data",
            "make it anew: write the challenge to the vTPM before its hardware report is read",
        )
