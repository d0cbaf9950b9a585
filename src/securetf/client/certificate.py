"""The certificate of a service: issued by its session's authority, for this SPIFFE ID, with this Manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from securetf.identity import MEMBER_OID
from securetf.service_errors import StatementError

_MEMBER = ObjectIdentifier(MEMBER_OID)
_HEAD = bytes([0x04, 40])  # OCTET STRING of 40 bytes: Manifest hash (32), generation (8)
_MALFORMED = (
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)
_FIX = "ask the service's owner: its CAS issues such certificates, and nobody else should"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A checked certificate. spki: DER. manifest_hash: 32 bytes. not_after: timezone-aware UTC."""

    spki: bytes
    spiffe_id: str
    manifest_hash: bytes
    generation: int
    not_after: datetime


def check_chain(chain: Sequence[bytes], trust_root: bytes, *, trust_domain: str, now: datetime) -> Leaf:
    """Check a member's certificate (docs/formats/x509-svid.md); all DER.

    trust_domain: SHA-256 of the CAS's key in hex, which the authority's certificate names.

    Raises:
        StatementError: not one certificate of that authority, outside its validity, or of another form.
    """
    if len(chain) != 1:
        raise StatementError(f"the chain has {len(chain)} certificates, expected the leaf alone", _FIX)
    try:
        leaf, root = (x509.load_der_x509_certificate(one) for one in (chain[0], trust_root))
        leaf.verify_directly_issued_by(root)
        root.verify_directly_issued_by(root)
        authority, usage = _uris(root), root.extensions.get_extension_for_class(x509.KeyUsage).value
        constraints = (
            root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca,
            leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca,
        )
        server = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        names, member = _uris(leaf), leaf.extensions.get_extension_for_oid(_MEMBER).value.public_bytes()
    except InvalidSignature:
        raise StatementError("the certificate is not signed by the session's authority", _FIX) from None
    except (ValueError, TypeError, *_MALFORMED) as error:
        raise StatementError(f"the certificate is not a member's: {error}", _FIX) from None
    if constraints != (True, False) or not usage.key_cert_sign:
        raise StatementError("the certificate or its authority is used against its basicConstraints", _FIX)
    if ExtendedKeyUsageOID.SERVER_AUTH not in server:
        raise StatementError("the certificate is not one for a server", _FIX)
    if authority != [f"spiffe://{trust_domain}"]:
        raise StatementError(f"the authority is of {authority}, expected spiffe://{trust_domain}", _FIX)
    if len(names) != 1 or len(member) != 42 or member[:2] != _HEAD:
        raise StatementError(f"the certificate names {names} and no Manifest", _FIX)
    for one in (root, leaf):
        if not one.not_valid_before_utc <= now < one.not_valid_after_utc:
            window = f"{one.not_valid_before_utc:%F %T} until {one.not_valid_after_utc:%F %T}"
            raise StatementError(f"the certificate is valid from {window}, it is {now:%F %T}", _FIX)
    return Leaf(
        spki=spki,
        spiffe_id=names[0],
        manifest_hash=member[2:34],
        generation=int.from_bytes(member[34:], "big"),
        not_after=min(root.not_valid_after_utc, leaf.not_valid_after_utc),
    )


def _uris(certificate: x509.Certificate) -> list[str]:
    """Return the subject's alternative names, which must all be URIs."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(found) != len(names):
        raise ValueError("a subjectAltName that is no URI")
    return found
