"""Verifier of TPM 2.0 quotes whose attestation key is certified or enrolled.

Sources: TPM 2.0 Library, Parts 1 to 3. A TPM is no TEE: it shows what was booted, and protects no memory
(docs/platforms.md, "TPM 2.0", same numbers).
"""

from datetime import datetime

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.errors import SignatureError, UnsupportedPlatformError
from securetf.evidence import tpm2
from securetf.evidence.tpm2 import Tpm2Evidence
from securetf.verifier import tpm2_quote
from securetf.verifier.steps import step
from securetf.verifier.tpm2_origin import KeyOrigins
from securetf.verifier.tpm2_quote import KnownTpms

TCB_STATUS = "NotReported"  # a TPM reports no TCB level


class Tpm2Verifier:
    """Verifies `Platform.TPM2` Evidence."""

    def __init__(
        self, origins: KeyOrigins, *, event_log_required: bool, known: KnownTpms | None = None
    ) -> None:
        """origins: whose keys count. event_log_required: refuse Evidence without an event log. known: what
        the caller keeps from one verifier to the next; it changes the time this takes and nothing else.
        """
        self._origins, self._event_log_required = origins, event_log_required
        self._known = known or KnownTpms()

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        """As `Verifier.verify`; the quote's extra data is `tpm2.qualifying_data(expected_report_data)`."""
        if evidence.platform is not Platform.TPM2:
            raise UnsupportedPlatformError(
                f"{evidence.platform.value} Evidence was given to the verifier of tpm2",
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
        with step(1):  # Framing: exact bytes.
            evidence = tpm2.parse(raw)
        with step(2):  # Attestation key: restricted to what its TPM generates.
            tpm2_quote.check_ak(evidence.ak)
            key = self._known.public_key(evidence.ak)
        with step(3):  # Who vouches for the key: a certificate chain, or an enrolment.
            machine, valid_until = self._origins.check(evidence.ak, key, evidence.certificates, now)
        with step(4):
            tpm2_quote.check_signature(evidence.quote, evidence.signature, key)
        with step(5):
            tpm2_quote.check_pcrs(evidence.quote, evidence.signature, evidence.pcrs)
        with step(6):
            self._check_event_log(evidence)
        with step(7):
            tpm2_quote.check_extra_data(evidence.quote, expected_extra_data)
        return VerifiedClaims(
            platform=Platform.TPM2,
            registers=tpm2_quote.registers(evidence.pcrs),
            report_data=report_data,
            tcb_status=TCB_STATUS,
            advisories=(),
            tcb_evaluation_number=0,
            platform_id=machine,
            valid_until=valid_until,
            simulated=False,
            properties=tpm2_quote.properties(evidence.quote),
        )

    def _check_event_log(self, evidence: Tpm2Evidence) -> None:
        if evidence.event_log:
            tpm2_quote.check_event_log(evidence.event_log, evidence.quote, evidence.pcrs, self._known)
        elif self._event_log_required:
            raise SignatureError(
                "the Evidence has no event log", "send the firmware's event log with the quote"
            )
