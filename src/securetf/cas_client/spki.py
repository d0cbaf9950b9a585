"""The SubjectPublicKeyInfo inside a certificate: a strict walk over DER (X.690, RFC 5280 section 4.1).

Only the outermost structure is read, so that pinning needs no X.509 library at the launcher's start.
"""

from securetf.errors import CasIdentityError

_SEQUENCE, _VERSION = 0x30, 0xA0
_BEFORE_SPKI = 5  # serialNumber, signature, issuer, validity, subject


def subject_public_key_info(certificate: bytes) -> bytes:
    """Return the DER of the SubjectPublicKeyInfo.

    Raises:
        CasIdentityError: not one DER certificate.
    """
    start, end = _element(certificate, 0, len(certificate), _SEQUENCE)  # Certificate
    position, end = _element(certificate, start, end, _SEQUENCE)  # TBSCertificate
    if position < end and certificate[position] == _VERSION:
        position = _element(certificate, position, end, _VERSION)[1]
    for _ in range(_BEFORE_SPKI):
        position = _element(certificate, position, end, None)[1]
    return certificate[position : _element(certificate, position, end, _SEQUENCE)[1]]


def _element(der: bytes, position: int, limit: int, tag: int | None) -> tuple[int, int]:
    """Return where the content of the element at `position` starts and ends."""
    if position + 2 > limit or (tag is not None and der[position] != tag):
        raise _malformed()
    length, start = der[position + 1], position + 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4 or start + size > limit:
            raise _malformed()
        length, start = int.from_bytes(der[start : start + size], "big"), start + size
    if start + length > limit:
        raise _malformed()
    return start, start + length


def _malformed() -> CasIdentityError:
    return CasIdentityError(
        "the certificate is not one DER certificate", "check the address; this is not a securetf CAS"
    )
