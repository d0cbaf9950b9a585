"""Verifier of AMD SEV-SNP attestation reports, offline, under pinned roots.

The steps have the numbers of docs/platforms.md, "AMD SEV-SNP", and follow AMD 58217 ("SEV-SNP Platform
Attestation Using VirTEE/SEV", chapter 5), AMD 57230 (certificates) and AMD 56860 (report).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements.sev_snp import SnpAnchors, SnpEndorsements
from securetf.errors import (
    ConfigurationError,
    EndorsementError,
    SignatureError,
    SimulationRefusedError,
    UnsupportedPlatformError,
)
from securetf.evidence import sev_snp
from securetf.evidence.sev_snp import SnpKey, SnpProduct, SnpReport
from securetf.evidence.sev_snp_certificates import SnpEvidence
from securetf.evidence.sev_snp_certificates import parse as parse_evidence
from securetf.verifier import sev_snp_chain
from securetf.verifier.sev_snp_chain import KnownSnp, SnpChain
from securetf.verifier.steps import check_report_data, step

# The report is only the key of a look-up here; nothing in it is authenticated yet.
EndorsementsFor = Callable[[SnpReport], SnpEndorsements | None]

_REGISTERS = (
    "measurement",
    "host_data",
    "id_key_digest",
    "author_key_digest",
    "family_id",
    "image_id",
    "report_id",
)
STEPS = (
    "framing: exact bytes, known version, algorithm and processor",
    "certificates: the caller's, then those in the Evidence",
    "ARK: pinned key, own signature, product line of the report",
    "ASK or ASVK: signed by the ARK, in its role",
    "VCEK or VLEK: signed by the ASK or ASVK, extensions",
    "revocation list of the ARK",
    "signature of the report",
    "certificate is of this chip and this firmware",
    "configuration of the guest",
    "binding: report data",
)
_PLATFORM_INFO_KNOWN = 0xFF  # bits 0 to 7; genuine firmware 1.55.65 sets bit 6, which revision 1.58 reserves
_OTHER_VEK = "fetch the VCEK for the chip id and the reported TCB of this report"


class SnpVerifier:
    """Verifies hardware SEV-SNP; never accepts a simulation's root."""

    def __init__(self, anchors: SnpAnchors, endorsements_for: EndorsementsFor) -> None:
        """Configure the verifier.

        anchors: `SnpAnchors.amd()`. endorsements_for: report, not authenticated, to ARK, ASK, ASVK,
        revocation list and, unless it comes with the Evidence, VCEK or VLEK; None when there are none.

        Raises:
            SimulationRefusedError: the anchors are development roots.
        """
        if anchors.development:
            raise SimulationRefusedError(
                "the verifier of hardware SEV-SNP was given a development root", "use SnpAnchors.amd()"
            )
        self._anchors, self._endorsements_for = anchors, endorsements_for
        self._known = KnownSnp()

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        """As `Verifier.verify`."""
        if evidence.platform is not Platform.SEV_SNP:
            raise UnsupportedPlatformError(
                f"{evidence.platform.value} Evidence was given to the verifier of sev_snp",
                "configure a verifier for that platform",
            )
        return authenticate(
            evidence.raw,
            anchors=self._anchors,
            endorsements_for=self._endorsements_for,
            expected_report_data=expected_report_data,
            now=now,
            known=self._known,
        )


def authenticate(
    raw: bytes,
    *,
    anchors: SnpAnchors,
    endorsements_for: EndorsementsFor,
    expected_report_data: bytes,
    now: datetime,
    known: KnownSnp | None = None,
) -> VerifiedClaims:
    """Verify one report. The claims say `simulated` exactly when `anchors` are development roots.

    known: what the caller keeps from one report to the next; it changes the time this takes and nothing else.

    Raises:
        EvidenceError: the exact subclass names the leg that failed.
    """
    known = known or KnownSnp()
    proof = _prove(raw, anchors, endorsements_for, now, known)
    with step(6):  # Neither ARK nor ASK is revoked. All VCEKs have serial number 0: their TCB revokes them.
        until = sev_snp_chain.verify_revocation(proof.crl, proof.root, proof.intermediate, now, known)
    chain = replace(proof.chain, valid_until=min(until, proof.chain.valid_until))
    return _finish(proof.report, chain, expected_report_data, simulated=anchors.development)


def authenticate_without_revocation(
    raw: bytes,
    *,
    anchors: SnpAnchors,
    endorsements_for: EndorsementsFor,
    expected_report_data: bytes,
    now: datetime,
    known: KnownSnp | None = None,
) -> VerifiedClaims:
    """As `authenticate`, and does not look whether AMD has revoked the ASK: for recorded Evidence, and where
    the list cannot be had.

    Raises:
        EvidenceError: as `authenticate`.
    """
    proof = _prove(raw, anchors, endorsements_for, now, known or KnownSnp())
    return _finish(proof.report, proof.chain, expected_report_data, simulated=anchors.development)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proof:
    """A report and the chain that its signature is to be checked under, after steps 1 to 5."""

    report: SnpReport
    chain: SnpChain
    root: x509.Certificate
    intermediate: x509.Certificate
    crl: bytes | None


def _prove(
    raw: bytes, anchors: SnpAnchors, endorsements_for: EndorsementsFor, now: datetime, known: KnownSnp
) -> _Proof:
    with step(1):  # Framing: exact bytes.
        evidence = parse_evidence(raw)
    report, kind = evidence.report, evidence.report.signing_key
    with step(2):  # Certificates: those of the caller first; what is missing may come with the Evidence.
        endorsements = _merged(endorsements_for(report) or SnpEndorsements(), evidence)
    with step(3):  # ARK: pinned key, its own signature; of the product line that the report names.
        root, product = sev_snp_chain.verify_root(endorsements, anchors, now, known)
        _check_product(report, product)
    with step(4):  # ASK or ASVK under the ARK, in its role.
        intermediate = sev_snp_chain.verify_intermediate(kind, endorsements, root, product, now, known)
    with step(5):  # VCEK or VLEK under it.
        leaf = sev_snp_chain.verify_leaf(kind, endorsements.vek, intermediate, product, now, known)
    until = min(leaf.valid_until, intermediate.not_valid_after_utc, root.not_valid_after_utc)
    return _Proof(
        report=report,
        chain=replace(leaf, valid_until=until),
        root=root,
        intermediate=intermediate,
        crl=endorsements.crl,
    )


def _finish(
    report: SnpReport, chain: SnpChain, expected_report_data: bytes, *, simulated: bool
) -> VerifiedClaims:
    with step(7):  # The report's signature: ECDSA P-384 with SHA-384.
        _check_signature(report, chain)
    with step(8):  # The certificate is that of this firmware and of this chip.
        _check_certified(report, chain)
    with step(9):  # Configuration of the guest.
        _check_configuration(report)
    with step(10):  # Binding: nonce, keys, CAS and Manifest, in one digest.
        check_report_data(report.report_data, expected_report_data)
    return _claims(report, chain, simulated=simulated)


def _check_product(report: SnpReport, product: SnpProduct) -> None:
    possible = {report.product} if report.product else {SnpProduct.MILAN, SnpProduct.GENOA}
    if product not in possible:
        raise SignatureError(
            f"the report is of {' or '.join(sorted(possible))}, the certificates are of {product}", _OTHER_VEK
        )


def _check_signature(report: SnpReport, chain: SnpChain) -> None:
    try:
        signature = encode_dss_signature(report.signature_r, report.signature_s)
        chain.key.verify(signature, sev_snp.signed_bytes(report), ec.ECDSA(SHA384()))
    except (InvalidSignature, ValueError):
        raise SignatureError(f"the report is not signed by this {report.signing_key}", _OTHER_VEK) from None


def _merged(endorsements: SnpEndorsements, evidence: SnpEvidence) -> SnpEndorsements:
    """Fill what the caller left out from the host's table; not the CRL, which a host could keep old."""
    vlek = evidence.report.signing_key is SnpKey.VLEK
    carried = evidence.certificates
    names = {"root": "ark", "vek": "vlek" if vlek else "vcek", "asvk" if vlek else "ask": "ask"}
    given = {name: carried.get(entry) for name, entry in names.items() if getattr(endorsements, name) is None}
    return replace(endorsements, **given)


def _check_certified(report: SnpReport, chain: SnpChain) -> None:
    kind = report.signing_key
    if chain.tcb != report.reported_tcb:
        raise EndorsementError(
            f"the {kind} is for TCB ({chain.tcb}), the report has reported TCB ({report.reported_tcb})",
            _OTHER_VEK,
        )
    if kind is SnpKey.VLEK:
        return
    if not any(report.chip_id):
        raise ConfigurationError(
            "the report's chip id is masked: nothing ties it to the chip of its VCEK",
            "turn MASK_CHIP_ID off on this host, or have it sign with a VLEK",
        )
    if report.chip_id != chain.hw_id.ljust(len(report.chip_id), b"\0"):
        raise SignatureError(
            f"the VCEK is for chip {chain.hw_id.hex()}, the report is from {report.chip_id.hex()}", _OTHER_VEK
        )


def _check_configuration(report: SnpReport) -> None:
    if report.debug:
        raise ConfigurationError(
            "the guest policy allows debug: the host reads the guest's memory",
            "launch the guest without DEBUG",
        )
    if report.migration_agent_allowed or report.report_id_ma != sev_snp.NO_MIGRATION_AGENT:
        raise ConfigurationError(
            "the guest may have a migration agent, which can read it", "launch the guest without MIGRATE_MA"
        )
    if report.vmpl == sev_snp.VMPL_OF_HOST:
        raise ConfigurationError(
            "the host asked for this report, not the guest", "attest from inside the guest"
        )
    if report.chip_key_masked:
        raise ConfigurationError("the chip's key is masked", "turn MASK_CHIP_KEY off on this host")
    if report.platform_info & ~_PLATFORM_INFO_KNOWN:
        raise ConfigurationError(
            f"platform info {report.platform_info:#x} has bits that this release does not know",
            "use a release of securetf that knows this firmware",
        )


def _claims(report: SnpReport, chain: SnpChain, *, simulated: bool) -> VerifiedClaims:
    committed = (report.committed_tcb, report.committed_version)
    provisional = (report.current_tcb, report.current_version) != committed
    chip_id = chain.hw_id or report.chip_id
    tcbs = {
        f"{name}_tcb_{part}": value
        for name in ("reported", "committed", "launch", "current")
        for part in ("bootloader", "tee", "snp", "microcode", "fmc")
        if (value := getattr(getattr(report, f"{name}_tcb"), part)) is not None
    }
    return VerifiedClaims(
        platform=Platform.SEV_SNP,
        registers={name: getattr(report, name) for name in _REGISTERS},
        report_data=report.report_data,
        tcb_status="Provisional" if provisional else "Committed",
        advisories=(),
        tcb_evaluation_number=0,
        platform_id=chip_id if any(chip_id) else b"",
        valid_until=chain.valid_until,
        simulated=simulated,
        properties={
            "product": chain.product.value,
            "signing_key": report.signing_key.value,
            "csp_id": chain.csp_id,
            "report_version": report.version,
            "guest_svn": report.guest_svn,
            "guest_policy": report.policy,
            "smt_allowed": int(report.smt_allowed),
            "vmpl": report.vmpl,
            "platform_info": report.platform_info,
            **tcbs,
        },
    )
