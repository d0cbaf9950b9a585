"""Which endorsements a piece of Evidence needs: keys of a look-up, read before anything is authenticated."""

from cryptography import x509
from cryptography.x509.oid import NameOID

from securetf.claims import Evidence, Platform
from securetf.endorsements.needs import DcapNeed, IssuersNeed, Need, PckCa, SnpNeed, Tee
from securetf.endorsements.trust import UNREADABLE
from securetf.errors import MalformedEvidenceError
from securetf.evidence import azure_vtpm as azure
from securetf.evidence import gcp_vtpm, sev_snp_certificates, sgx, tdx, tpm2
from securetf.evidence.sev_snp import SnpKey, SnpProduct
from securetf.evidence.sev_snp_certificates import SnpEvidence
from securetf.verifier import azure_vtpm, pck

_AS_GIVEN = "pass the quote exactly as the platform gave it"
_TURIN_CHIP_ID_SIZE = 8  # bytes; AMD 57230, "hwID"


def needs_of(evidence: Evidence) -> tuple[Need, ...]:  # noqa: PLR0911  (one for each platform)
    """Return what the verifier of this Evidence must be given. Nothing for Nitro and for a simulation, whose
    collateral is configured; nothing for a TPM key without certificates, which must be enrolled.

    Raises:
        MalformedEvidenceError: it cannot be read.
    """
    match evidence.platform:
        case Platform.TDX:
            return (_dcap(Tee.TDX, tdx.parse(evidence.raw).pck_chain),)
        case Platform.SGX:
            return (_dcap(Tee.SGX, sgx.parse(evidence.raw).pck_chain),)
        case Platform.SEV_SNP:
            return (_snp(sev_snp_certificates.parse(evidence.raw)),)
        case Platform.AZURE_VTPM:
            found = azure.parse(evidence.raw)
            snp = found.hcl.report_type == azure.SNP
            return needs_of(azure_vtpm.snp_evidence(found) if snp else azure_vtpm.tdx_evidence(found))
        case Platform.TPM2:
            return _issuers(tpm2.parse(evidence.raw).certificates)
        case Platform.GCP_VTPM:
            return _issuers(gcp_vtpm.parse(evidence.raw).certificates)
    return ()


def _dcap(tee: Tee, pck_chain: bytes) -> DcapNeed:
    certificates = pck.load_pem(pck_chain.removesuffix(b"\0").decode("latin-1"))
    if not certificates:
        raise MalformedEvidenceError("the quote's PCK chain is not PEM certificates", _AS_GIVEN)
    issuer = certificates[0].issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    words = str(issuer[0].value).lower().split() if issuer else []
    found = [ca for ca in PckCa if ca in words]  # "Intel SGX PCK Platform CA", "… Processor CA"
    if len(found) != 1:
        raise MalformedEvidenceError(f"the PCK's issuer {' '.join(words)!r} is not one of Intel's", _AS_GIVEN)
    return DcapNeed(tee=tee, fmspc=pck.fmspc(pck_chain), ca=found[0])


def _snp(evidence: SnpEvidence) -> SnpNeed:
    report = evidence.report
    vlek = report.signing_key is SnpKey.VLEK
    carried = vlek or "vcek" in evidence.certificates or not any(report.chip_id)
    chip_id = b"" if carried else report.chip_id
    if report.product is SnpProduct.TURIN:
        chip_id = chip_id[:_TURIN_CHIP_ID_SIZE]
    product = report.product or _product_of(evidence)
    return SnpNeed(product=product, key=report.signing_key, chip_id=chip_id, tcb=report.reported_tcb)


def _issuers(certificates: tuple[bytes, ...]) -> tuple[Need, ...]:
    return (IssuersNeed(chain=tuple(certificates)),) if certificates else ()


def _product_of(evidence: SnpEvidence) -> SnpProduct | None:
    """Return the product line in the issuer's name of the VCEK or VLEK that came along, if one did."""
    raw = evidence.certificates.get("vcek") or evidence.certificates.get("vlek")
    if raw is None:
        return None
    try:
        issuer = x509.load_der_x509_certificate(raw).issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    except UNREADABLE:
        return None
    words = str(issuer[0].value).split("-") if issuer else []  # "SEV-Milan", "SEV-VLEK-Milan"
    return next((line for line in SnpProduct if line in words), None)
