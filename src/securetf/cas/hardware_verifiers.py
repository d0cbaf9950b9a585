"""The verifiers of hardware, each with endorsements from one library."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements import Endorsements, TrustAnchors
from securetf.endorsements.library import Library
from securetf.endorsements.needs import DcapNeed, IssuersNeed, SnpNeed
from securetf.endorsements.sev_snp import SnpAnchors
from securetf.endorsements.tpm import Issuers, KnownAk
from securetf.endorsements.trust import UNREADABLE
from securetf.errors import EndorsementError, MalformedEvidenceError
from securetf.evidence import azure_vtpm as azure
from securetf.verifier import Verifier, azure_vtpm, sev_snp, sgx, tdx
from securetf.verifier.certificate_path import PATH_LIMIT
from securetf.verifier.gcp_vtpm import GcpVtpmVerifier
from securetf.verifier.known import Known
from securetf.verifier.needs import needs_of
from securetf.verifier.nitro import NitroVerifier
from securetf.verifier.sev_snp_chain import KnownSnp
from securetf.verifier.tpm2 import Tpm2Verifier
from securetf.verifier.tpm2_origin import KeyOrigins, KnownOrigins
from securetf.verifier.tpm2_quote import KnownTpms

MINIMUM_TCB_EVALUATION = 18  # Intel's tcbEvaluationDataNumber; older sets call known holes up to date
_AS_GIVEN = "send it as the platform gave it"
EnrolmentOf = Callable[[bytes], KnownAk | None]


@dataclass(frozen=True, slots=True)
class TpmRoots:
    """Manufacturers of trusted TPMs. certificates: DER, which complete a chain that came without its end."""

    anchors: TrustAnchors
    certificates: tuple[bytes, ...]

    @staticmethod
    def of(pem: bytes) -> "TpmRoots":
        """Read PEM certificates: those that issued themselves are trusted, the others only complete chains.

        Raises:
            EndorsementError: unreadable, or a development root.
        """
        TrustAnchors.chosen(pem)
        loaded = x509.load_pem_x509_certificates(pem)
        roots = [one.public_bytes(Encoding.PEM) for one in loaded if one.issuer == one.subject]
        if not roots:
            raise EndorsementError("there is no root among the certificates", "add the manufacturer's root")
        certificates = tuple(one.public_bytes(Encoding.DER) for one in loaded)
        return TpmRoots(TrustAnchors.chosen(b"".join(roots)), certificates)

    def completed(self, library: Library, chain: Sequence[bytes], now: datetime) -> Issuers:
        """Return the issuers of a TPM's certificate that did not come along, and all revocation lists.

        Raises:
            EndorsementError: what they name is not to be had. MalformedEvidenceError: they cannot be read.
        """
        if not chain:  # nothing to complete; the verifier says what is missing
            return Issuers()
        path = self._extended(chain)
        found = library.obtain(IssuersNeed(chain=tuple(path)), now=now)
        path = self._extended([*path, *found.certificates])
        return Issuers(certificates=tuple(path[len(chain) :]), crls=found.crls)

    def _extended(self, chain: Sequence[bytes]) -> list[bytes]:
        """Return the chain with what our own certificates put above it."""
        path = list(chain)
        try:
            issuers = {x509.load_der_x509_certificate(der).subject: der for der in self.certificates}
            top = x509.load_der_x509_certificate(path[-1])
            while top.issuer != top.subject and top.issuer in issuers and len(path) < PATH_LIMIT:
                path.append(issuers[top.issuer])
                top = x509.load_der_x509_certificate(path[-1])
        except UNREADABLE as error:
            raise MalformedEvidenceError(f"a TPM's certificate cannot be read: {error}", _AS_GIVEN) from None
        return path


def hardware_verifiers(
    library: Library,
    *,
    minimum_tcb_evaluation: int = MINIMUM_TCB_EVALUATION,
    tpm_roots: TpmRoots | None = None,
) -> dict[Platform, Verifier]:
    """Return the verifier of each hardware platform.

    library: where collateral, certificates and revocation lists are had. tpm_roots: of certified attestation
    keys beside Google's, None: only those.
    """
    intel = _IntelVerifier(library, minimum_tcb_evaluation)
    amd = _SnpVerifier(library)
    hardware: dict[int, tuple[azure_vtpm.HardwareEvidence, Verifier]] = {
        azure.SNP: (azure_vtpm.snp_evidence, amd),
        azure.TDX: (azure_vtpm.tdx_evidence, intel),
    }
    return {
        Platform.TDX: intel,
        Platform.SGX: intel,
        Platform.SEV_SNP: amd,
        Platform.NITRO: NitroVerifier(TrustAnchors.aws_nitro()),
        Platform.TPM2: tpm_verifier(library, tpm_roots=tpm_roots),
        Platform.GCP_VTPM: _TpmVerifier(
            library, TpmRoots(TrustAnchors.google_tpm(), ()), _nobody, GcpVtpmVerifier
        ),
        Platform.AZURE_VTPM: azure_vtpm.AzureVtpmVerifier(hardware),
    }


def tpm_verifier(
    library: Library, *, tpm_roots: TpmRoots | None = None, enrolment_of: EnrolmentOf | None = None
) -> Verifier:
    """Return the verifier of TPM 2.0 Evidence. enrolment_of: what is known of a key by its TPM name."""
    google = TrustAnchors.google_tpm().spki_sha256
    pins = google | (tpm_roots.anchors.spki_sha256 if tpm_roots else frozenset())
    roots = TpmRoots(
        TrustAnchors(spki_sha256=pins, development=False), tpm_roots.certificates if tpm_roots else ()
    )

    def make(origins: KeyOrigins, known: KnownTpms) -> Verifier:
        return Tpm2Verifier(origins, event_log_required=False, known=known)

    return _TpmVerifier(library, roots, enrolment_of or _nobody, make)


def _nobody(_: bytes) -> KnownAk | None:
    return None


class _IntelVerifier:
    """TDX and SGX: the collateral of the one platform that the quote names."""

    def __init__(self, library: Library, minimum_tcb_evaluation: int) -> None:
        self._library, self._minimum, self._known = library, minimum_tcb_evaluation, Known()

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        (need,) = needs_of(evidence)
        if not isinstance(need, DcapNeed):
            raise MalformedEvidenceError(
                "the Evidence is not a DCAP quote", "send it as the platform gave it"
            )

        def collateral(_: str) -> Endorsements:
            return self._library.obtain(need, now=now)

        authenticate = tdx.authenticate if evidence.platform is Platform.TDX else sgx.authenticate
        return authenticate(
            evidence.raw,
            anchors=TrustAnchors.intel(),
            endorsements_for=collateral,
            expected_report_data=expected_report_data,
            minimum_tcb_evaluation=self._minimum,
            now=now,
            known=self._known,
        )


class _SnpVerifier:
    """SEV-SNP: AMD's certificates for the report's chip and firmware."""

    def __init__(self, library: Library) -> None:
        self._library, self._known = library, KnownSnp()

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        (need,) = needs_of(evidence)
        if not isinstance(need, SnpNeed):
            raise MalformedEvidenceError(
                "the Evidence is not an SNP report", "send it as the platform gave it"
            )
        return sev_snp.authenticate(
            evidence.raw,
            anchors=SnpAnchors.amd(),
            endorsements_for=lambda _: self._library.obtain(need, now=now),
            expected_report_data=expected_report_data,
            now=now,
            known=self._known,
        )


class _TpmVerifier:
    """TPMs: issuers that a certificate names and that did not come along."""

    def __init__(
        self,
        library: Library,
        roots: TpmRoots,
        enrolment_of: EnrolmentOf,
        make: Callable[[KeyOrigins, KnownTpms], Verifier],
    ) -> None:
        self._library, self._roots, self._enrolment_of, self._make = library, roots, enrolment_of, make
        self._known, self._machines = KnownOrigins(), KnownTpms()

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        issuers = Issuers()
        for need in needs_of(evidence):
            if isinstance(need, IssuersNeed):
                issuers = self._roots.completed(self._library, need.chain, now)
        origins = KeyOrigins(
            self._roots.anchors,
            self._enrolment_of,
            issuers_for=lambda _: issuers,
            known=self._known,
        )
        verifier = self._make(origins, self._machines)
        return verifier.verify(evidence, expected_report_data=expected_report_data, now=now)
