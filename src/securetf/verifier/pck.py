"""Certificate chains of DCAP: shape, root and roles (Intel SGX PCK Certificate and CRL profile 1.5)."""

import re
from dataclasses import dataclass

import dcap_qvl
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.endorsements import TrustAnchors
from securetf.endorsements.trust import UNREADABLE, check_signature_form
from securetf.errors import EndorsementError, EvidenceError, MalformedEvidenceError, SignatureError

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\r?\n[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----\r?\n?")
_AS_GIVEN = "pass the quote exactly as the platform gave it"
_FETCH = "fetch the collateral of this platform again"
_SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The PCK chain of a quote: the root has a pinned key and signed itself; the rest is not authenticated
    yet.

    fmspc: 12 hex digits, upper case; names the platform's collateral. root_der: the root, for dcap-qvl.
    """

    leaf: x509.Certificate
    ca: x509.Certificate
    root: x509.Certificate
    root_der: bytes
    fmspc: str


def parse_chain(pem: bytes, anchors: TrustAnchors) -> Chain:
    """Read the PCK chain of a quote and find its root among the anchors.

    Raises:
        MalformedEvidenceError: not three certificates, or no SGX extension in the leaf.
        SignatureError: the root is not a trust anchor.
    """
    certificates = load_pem(pem.removesuffix(b"\0").decode("latin-1"))
    if len(certificates) != 3:
        raise MalformedEvidenceError(
            "the quote's PCK chain is not exactly three PEM certificates",
            _AS_GIVEN,
        )
    leaf, ca, root = certificates
    _check_pin("the quote's certificate chain", root, anchors, SignatureError)
    try:
        root.verify_directly_issued_by(root)
    except (*UNREADABLE, InvalidSignature):
        raise SignatureError(
            "the quote's certificate chain ends in a root whose own signature does not hold", _AS_GIVEN
        ) from None
    return Chain(leaf=leaf, ca=ca, root=root, root_der=root.public_bytes(Encoding.DER), fmspc=fmspc(pem))


def fmspc(pem: bytes) -> str:
    """Return the FMSPC in the SGX extension of a chain's leaf: 12 hex digits, upper case; not authenticated.

    Raises:
        MalformedEvidenceError: there is no such extension, or it cannot be read.
    """
    try:
        return bytes(dcap_qvl.parse_pck_extension_from_pem(pem.removesuffix(b"\0")).fmspc).hex().upper()
    except ValueError as error:
        raise MalformedEvidenceError(
            f"the PCK certificate's SGX extension cannot be read: {error}", _AS_GIVEN
        ) from None


def check_signer_chain(what: str, pem: str, anchors: TrustAnchors) -> None:
    """Check that collateral names a TCB signer: a leaf right under a pinned root that is no PCK.

    dcap-qvl verifies the chain, and takes any leaf under the root: a stolen PCK could sign TCB info for
    itself.

    Raises:
        EndorsementError: another shape, root or role.
    """
    certificates = load_pem(pem)
    if len(certificates) != 2:
        raise EndorsementError(f"the issuer chain of {what} is not two PEM certificates", _FETCH)
    leaf, root = certificates
    _check_pin(f"the issuer chain of {what}", root, anchors, EndorsementError)
    if not _right_under(root, leaf):
        raise EndorsementError(f"the signer of {what} is not a TCB signer right under the root", _FETCH)


def load_pem(pem: str) -> list[x509.Certificate]:
    """Return the certificates of a PEM text that has nothing else in it; empty if it is not one."""
    blocks = _BLOCK.findall(pem)
    if "".join(blocks) != pem:
        return []
    try:
        return [_readable(x509.load_pem_x509_certificate(block.encode())) for block in blocks]
    except UNREADABLE:
        return []


def _readable(certificate: x509.Certificate) -> x509.Certificate:
    """Read the parts that `cryptography` reads only when asked, so that it raises here if it must."""
    _ = certificate.subject, certificate.issuer
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    check_signature_form(certificate)
    return certificate


def _check_pin(what: str, root: x509.Certificate, anchors: TrustAnchors, error: type[EvidenceError]) -> None:
    try:
        trusted = anchors.find(root)
    except UNREADABLE:
        trusted = False
    if not trusted:
        raise error(
            f"{what} ends in {root.subject.rfc4514_string()!r}, which is not a trust anchor",
            "use a platform whose vendor's root is pinned; development roots count only in a simulation",
        )


def _right_under(root: x509.Certificate, leaf: x509.Certificate) -> bool:
    """Return whether `leaf` names `root` as its issuer and is no PCK; False if it cannot be read."""
    try:
        leaf.extensions.get_extension_for_oid(_SGX_EXTENSION)
    except x509.ExtensionNotFound:
        return leaf.issuer == root.subject
    except UNREADABLE:
        return False
    return False
