"""Certificates as issuers give them out: one in DER, or several in PEM or PKCS #7.

RFC 5280, 4.2.2.1; RFC 5652, "certs-only", which nobody signs: nothing here authenticates anything.
"""

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import pkcs7

from securetf.endorsements.trust import UNREADABLE

LIMIT = 32  # certificates
_SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")  # OBJECT IDENTIFIER 1.2.840.113549.1.7.2


def read(content: bytes) -> list[x509.Certificate]:
    """Return the certificates, at least one.

    Raises:
        ValueError and others of `UNREADABLE`: there is none, more than the limit, or one cannot be read.
    """
    start = content.lstrip()[:32]
    if start.startswith(b"-----BEGIN PKCS"):
        found = pkcs7.load_pem_pkcs7_certificates(content)
    elif start.startswith(b"-----"):
        found = x509.load_pem_x509_certificates(content)
    elif _SIGNED_DATA in content[:32]:
        found = pkcs7.load_der_pkcs7_certificates(content)
    else:
        found = [x509.load_der_x509_certificate(content)]
    if not 0 < len(found) <= LIMIT:
        raise ValueError(f"{len(found)} certificates, expected 1 to {LIMIT}")
    return found


def issuer(of: x509.Certificate, among: list[x509.Certificate]) -> x509.Certificate:
    """Return the certificate that issued `of`: the only one, or of several the one by name and signature.

    Raises:
        ValueError: none of several is.
    """
    if len(among) == 1:
        return among[0]
    for one in among:
        try:
            of.verify_directly_issued_by(one)
        except (*UNREADABLE, InvalidSignature):
            continue
        return one
    raise ValueError(f"none of {len(among)} certificates issued {of.subject.rfc4514_string()!r}")
