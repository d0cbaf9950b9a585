"""Verifier of AWS Nitro attestation documents, offline, under the pinned root.

Source: AWS, "Nitro Enclaves Attestation Process", section 3.2 (docs/platforms.md, "AWS Nitro Enclaves", same
numbers). AWS publishes no revocation that a verifier could use: it says that CRLs must be off; a leaf lives
for 3 hours instead.
"""

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements import TrustAnchors
from securetf.errors import (
    BindingError,
    ConfigurationError,
    SignatureError,
    SimulationRefusedError,
    UnsupportedPlatformError,
)
from securetf.evidence import nitro
from securetf.verifier import certificate_path
from securetf.verifier.certificate_path import KnownPaths
from securetf.verifier.steps import step

STEPS = (
    "framing: strict COSE_Sign1 and CBOR",
    "certificate chain: order, roles, time, pinned root",
    "signature of the document by the leaf",
    "time of the document",
    "configuration: no debug mode",
    "binding: user_data",
)
CLOCK_SKEW = timedelta(minutes=1)
TCB_STATUS = "NotReported"  # AWS certifies no version of its hypervisor and firmware
IMAGE_PCRS = (0, 1, 2)  # image, kernel and boot, application; all zero in debug mode
_CHAIN = "the Nitro certificate chain"
_AGAIN = "attest again with a new challenge"


class NitroVerifier:
    """Verifies documents whose `user_data` is the report data (64 bytes)."""

    def __init__(self, anchors: TrustAnchors) -> None:
        """Configure the verifier. anchors: `TrustAnchors.aws_nitro()`.

        Raises:
            SimulationRefusedError: the anchors are development roots.
        """
        if anchors.development:
            raise SimulationRefusedError(
                "the verifier of AWS Nitro was given a development root", "use TrustAnchors.aws_nitro()"
            )
        self._anchors, self._known = anchors, KnownPaths()

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        """As `Verifier.verify`."""
        if evidence.platform is not Platform.NITRO:
            raise UnsupportedPlatformError(
                f"{evidence.platform.value} Evidence was given to the verifier of nitro",
                "configure a verifier for that platform",
            )
        return authenticate(
            evidence.raw,
            anchors=self._anchors,
            expected={"user_data": expected_report_data},
            now=now,
            known=self._known,
        )


def authenticate(
    raw: bytes,
    *,
    anchors: TrustAnchors,
    expected: Mapping[str, bytes],
    now: datetime,
    known: KnownPaths | None = None,
) -> VerifiedClaims:
    """Verify one document.

    expected: what the document must carry, by the names `user_data`, `nonce` and `public_key`; at least one,
    none empty. known: what the caller keeps from one document to the next; it changes only the time this
    takes.

    Raises:
        EvidenceError: the exact subclass names the leg that failed.
    """
    known = known or KnownPaths()
    with step(1):  # Framing and syntactical validation (3.2.2.1).
        document = nitro.parse(raw)
    with step(2):  # Certificate chain at `now` (3.2.3): AWS gives it root first.
        path = [known.load("the Nitro leaf certificate", document.certificate)]
        path += [known.load("a Nitro certificate", der) for der in reversed(document.cabundle)]
        valid_until = certificate_path.check(_CHAIN, path, anchors=anchors, now=now, known=known)
    with step(3):  # COSE signature by the leaf (3.2.2.3): ES384.
        _check_signature(document, path[0].public_key())
    with step(4):  # The document's own time.
        _check_time(document, path[0], now)
    with step(5):  # Configuration.
        _check_configuration(document)
    with step(6):  # Binding.
        _check_binding(document, expected)
    return VerifiedClaims(
        platform=Platform.NITRO,
        registers={f"pcr{index}": value for index, value in document.pcrs.items()},
        report_data=document.user_data,
        tcb_status=TCB_STATUS,
        advisories=(),
        tcb_evaluation_number=0,
        platform_id=document.module_id.partition("-enc")[0].encode(),
        valid_until=valid_until,
        simulated=False,
    )


def _check_time(document: nitro.NitroDocument, leaf: x509.Certificate, now: datetime) -> None:
    """Refuse a document that is not of its leaf's time, or of the future."""
    made = datetime.fromtimestamp(document.timestamp_ms / 1000, UTC)
    if made > now + CLOCK_SKEW:
        raise BindingError(
            f"the document is of {made:%F %T}, now {now:%F %T}: of the future", "check the clocks"
        )
    if not leaf.not_valid_before_utc <= made <= leaf.not_valid_after_utc + CLOCK_SKEW:
        raise SignatureError(f"the document is of {made:%F %T}, outside its certificate's validity", _AGAIN)


def _check_configuration(document: nitro.NitroDocument) -> None:
    """Refuse debug mode, in which the host reads the enclave's console and the image PCRs are zero."""
    for index in IMAGE_PCRS:
        if not any(document.pcrs.get(index, b"")):
            raise ConfigurationError(
                f"PCR{index} is zero: the enclave runs in debug mode",
                "start the enclave without --debug-mode",
            )


def _check_signature(document: nitro.NitroDocument, key: object) -> None:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise SignatureError("the Nitro leaf certificate has no P-384 key", _AGAIN)
    half = nitro.SIGNATURE_SIZE // 2
    r = int.from_bytes(document.signature[:half], "big")
    s = int.from_bytes(document.signature[half:], "big")
    try:
        key.verify(encode_dss_signature(r, s), nitro.signed_bytes(document.payload), ec.ECDSA(SHA384()))
    except (InvalidSignature, ValueError):
        raise SignatureError("the document's COSE signature does not hold", _AGAIN) from None


def _check_binding(document: nitro.NitroDocument, expected: Mapping[str, bytes]) -> None:
    if not expected or not all(expected.values()):
        raise BindingError("no value was given that the document must carry", "give nonce or report data")
    carried = {"user_data": document.user_data, "nonce": document.nonce, "public_key": document.public_key}
    for name, value in expected.items():
        if not hmac.compare_digest(carried[name], value):
            raise BindingError(
                f"the document's {name} is not the one expected",
                "attest again with a new challenge; if it persists, something relays between you and the CAS",
            )
