"""Verifier of TPM 2.0 quotes whose attestation key is certified or enrolled.

Sources: TPM 2.0 Library, Parts 1 to 3; TCG "TPM 2.0 Keys for Device Identity and Attestation". A TPM is no
TEE: it shows what was booted, and protects no memory (docs/platforms.md, "TPM 2.0", same numbers).
"""

import hashlib
from collections.abc import Callable
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ObjectIdentifier

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements import TrustAnchors
from securetf.endorsements.tpm import KnownAk
from securetf.errors import SignatureError, SimulationRefusedError, UnsupportedPlatformError
from securetf.evidence import tpm2, tpm2_public
from securetf.evidence.tpm2 import Tpm2Evidence
from securetf.verifier import certificate_path, tpm2_quote

TCB_STATUS = "NotReported"  # a TPM reports no TCB level

EnrolmentOf = Callable[[bytes], KnownAk | None]  # name of an AK to its enrolment
_CHAIN = "the TPM certificate chain"
_ENROL = "enrol this TPM's attestation key, or use one whose certificate chain ends in a pinned root"
# TCG EK Credential Profile: tcg-kp-EKCertificate, which Google's AKs have too, and tcg-kp-AIKCertificate.
_PURPOSES = {ObjectIdentifier("2.23.133.8.1"), ObjectIdentifier("2.23.133.8.3")}


class Tpm2Verifier:
    """Verifies `Platform.TPM2` Evidence."""

    def __init__(
        self,
        anchors: TrustAnchors,
        enrolment_of: EnrolmentOf,
        *,
        event_log_required: bool,
        revoked: frozenset[bytes] = frozenset(),
    ) -> None:
        """Configure the verifier.

        anchors: roots whose AK certificates count, such as `TrustAnchors.google_tpm()`; may be empty.
        enrolment_of: what is known of an AK without certificate. event_log_required: refuse Evidence without
        a log. revoked: SHA-256 of the SubjectPublicKeyInfo of keys that no longer count.

        Raises:
            SimulationRefusedError: the anchors are development roots.
        """
        if anchors.development:
            raise SimulationRefusedError(
                "the verifier of TPMs was given a development root",
                "pin the roots of your TPMs' manufacturers",
            )
        self._anchors, self._enrolment_of = anchors, enrolment_of
        self._event_log_required, self._revoked = event_log_required, revoked

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        """As `Verifier.verify`; the quote's extra data is `qualifying_data(expected_report_data)`."""
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
        # 1. Framing: exact bytes.
        evidence = tpm2.parse(raw)
        # 2. Attestation key: restricted to what its TPM generates.
        tpm2_quote.check_ak(evidence.ak)
        key = tpm2_quote.public_key(evidence.ak)
        # 3. Who vouches for the key: a certificate chain, or an enrolment.
        machine, valid_until = self._origin(evidence, key, now)
        # 4. Signature. 5. PCR values. 6. Event log.
        tpm2_quote.check_signature(evidence.quote, evidence.signature, key)
        tpm2_quote.check_pcrs(evidence.quote, evidence.signature, evidence.pcrs)
        if evidence.event_log:
            tpm2_quote.check_event_log(evidence.event_log, evidence.quote, evidence.pcrs)
        elif self._event_log_required:
            raise SignatureError(
                "the Evidence has no event log", "send the firmware's event log with the quote"
            )
        # 7. Binding.
        tpm2_quote.check_extra_data(evidence.quote, expected_extra_data)
        return VerifiedClaims(
            platform=Platform.TPM2,
            registers={f"pcr{index}": value for index, value in evidence.pcrs.items()},
            report_data=report_data,
            tcb_status=TCB_STATUS,
            advisories=(),
            tcb_evaluation_number=0,
            platform_id=machine,
            valid_until=valid_until,
            simulated=False,
        )

    def _origin(
        self, evidence: Tpm2Evidence, key: tpm2_quote.PublicKey, now: datetime
    ) -> tuple[bytes, datetime]:
        """Return the machine's identity and until when it is vouched for."""
        digest = spki_sha256(key)
        if evidence.certificates:
            path = [certificate_path.load("a TPM certificate", der) for der in evidence.certificates]
            end = certificate_path.check(_CHAIN, path, anchors=self._anchors, now=now, revoked=self._revoked)
            _check_ak_certificate(path[0], digest)
            return digest, end
        known = self._enrolment_of(tpm2_public.name(evidence.ak))
        if known is None or known.name != tpm2_public.name(evidence.ak):
            raise SignatureError("the attestation key is neither certified nor enrolled", _ENROL)
        if now > known.valid_until:
            raise SignatureError(
                f"the enrolment of the attestation key ended at {known.valid_until:%F %T}", _ENROL
            )
        if digest in self._revoked or known.ek_sha256 in self._revoked:
            raise SignatureError("the TPM's key is revoked", "do not use this machine")
        return known.ek_sha256, known.valid_until


def spki_sha256(key: tpm2_quote.PublicKey) -> bytes:
    """Return SHA-256 over a key's DER SubjectPublicKeyInfo."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _check_ak_certificate(leaf: x509.Certificate, digest: bytes) -> None:
    if (
        hashlib.sha256(
            leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).digest()
        != digest
    ):
        raise SignatureError("the certificate is of another key than the attestation key", _ENROL)
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        raise SignatureError(
            "the certificate does not say that it is of a TPM's attestation key", _ENROL
        ) from None
    if not usage.digital_signature or not purposes & _PURPOSES:
        raise SignatureError("the certificate is not of a TPM's attestation key", _ENROL)
