"""Verifier of Google Cloud vTPM attestations as go-tpm-tools writes them.

The steps are those of TPM 2.0 (docs/platforms.md). A message has a quote for each PCR bank: the SHA-256 one
counts, or the SHA-384 one where there is none; SHA-1 never does.
"""

from datetime import datetime

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.errors import ConfigurationError, SignatureError, UnsupportedPlatformError
from securetf.evidence import gcp_vtpm, tpm2
from securetf.evidence.gcp_vtpm import BankQuote, GcpEvidence
from securetf.evidence.tpm2_quote import SHA256, SHA384
from securetf.verifier import tpm2_quote
from securetf.verifier.steps import step
from securetf.verifier.tpm2_origin import KeyOrigins
from securetf.verifier.tpm2_quote import KnownTpms

TCB_STATUS = "NotReported"  # a TPM reports no TCB level


class GcpVtpmVerifier:
    """Verifies `Platform.GCP_VTPM` Evidence."""

    def __init__(self, origins: KeyOrigins, known: KnownTpms | None = None) -> None:
        """origins: whose keys count; Google's root is `TrustAnchors.google_tpm()`. known: as for
        `Tpm2Verifier`.
        """
        self._origins, self._known = origins, known or KnownTpms()

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        """As `Verifier.verify`; the quote's extra data is `tpm2.qualifying_data(expected_report_data)`."""
        if evidence.platform is not Platform.GCP_VTPM:
            raise UnsupportedPlatformError(
                f"{evidence.platform.value} Evidence was given to the verifier of gcp_vtpm",
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
        """Verify one message. report_data: what `expected_extra_data` stands for, for the claims.

        Raises:
            EvidenceError: the exact subclass names the leg that failed.
        """
        with step(1):
            evidence = gcp_vtpm.parse(raw)
        with step(2):
            tpm2_quote.check_ak(evidence.ak)
            key = self._known.public_key(evidence.ak)
        with step(3):
            machine, valid_until = self._origins.check(evidence.ak, key, evidence.certificates, now)
        with step(4):
            chosen = _strongest(evidence)
            tpm2_quote.check_signature(chosen.quote, chosen.signature, key)
        with step(5):
            tpm2_quote.check_pcrs(chosen.quote, chosen.signature, chosen.pcrs)
        with step(6):
            _check_event_log(evidence, chosen, self._known)
        with step(7):
            tpm2_quote.check_extra_data(chosen.quote, expected_extra_data)
        return VerifiedClaims(
            platform=Platform.GCP_VTPM,
            registers=tpm2_quote.registers(chosen.pcrs),
            report_data=report_data,
            tcb_status=TCB_STATUS,
            advisories=(),
            tcb_evaluation_number=0,
            platform_id=machine,
            valid_until=valid_until,
            simulated=False,
            properties=tpm2_quote.properties(chosen.quote),
        )


def _check_event_log(evidence: GcpEvidence, chosen: BankQuote, known: KnownTpms) -> None:
    """Check the log, which Google's machines always have."""
    if not evidence.event_log:
        raise SignatureError(
            "the attestation has no event log", "send the firmware's event log with the quote"
        )
    tpm2_quote.check_event_log(evidence.event_log, chosen.quote, chosen.pcrs, known)


def _strongest(evidence: GcpEvidence) -> BankQuote:
    banks = {one.quote.bank: one for one in evidence.quotes}
    for bank in (SHA256, SHA384):
        if bank in banks:
            return banks[bank]
    raise ConfigurationError(
        "the attestation has no quote over the sha256 or sha384 bank", "quote the sha256 bank"
    )
