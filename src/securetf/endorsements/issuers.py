"""Issuers and revocation lists of a TPM's certificate, by the addresses that the certificates name.

RFC 5280, 4.2.2.1 (authority information access, caIssuers) and 4.2.1.13 (CRL distribution points).
"""

from collections.abc import Callable
from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from securetf.endorsements import bundles, names
from securetf.endorsements.cache import Artefact
from securetf.endorsements.needs import IssuersNeed
from securetf.endorsements.sources import Fetched, Sources
from securetf.endorsements.tpm import Issuers
from securetf.endorsements.trust import UNREADABLE
from securetf.errors import EndorsementError

PATH_LIMIT = 8  # certificates
_FIX = "give the issuers' certificates and revocation lists as files"

Get = Callable[[str, Callable[[], Fetched]], Artefact]


def issuers(need: IssuersNeed, get: Get, sources: Sources) -> Issuers:
    """Return the issuers above `need.chain` up to a root or to one that names none, and all lists.

    Raises:
        EndorsementError: a certificate cannot be read, or what it names is not to be had.
    """
    if not need.chain:
        return Issuers()
    path = [_read(der) for der in need.chain]
    above: list[bytes] = []
    while path[-1].issuer != path[-1].subject and len(path) < PATH_LIMIT:
        url = issuer_url(path[-1])
        if url is None:
            break
        found = get(names.certificate(url), partial(sources.tpm_certificate, url))
        path.append(_read(found.content, below=path[-1]))
        above.append(path[-1].public_bytes(Encoding.DER))
    urls = dict.fromkeys(url for one in path if (url := crl_url(one)) is not None)
    lists = [get(names.crl(url), partial(sources.tpm_crl, url)).content for url in urls]
    return Issuers(certificates=tuple(above), crls=tuple(lists))


def issuer_url(certificate: x509.Certificate) -> str | None:
    """Return where a certificate says that its issuer's certificate is; None: it does not say."""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return None
    for one in access:
        if one.access_method == AuthorityInformationAccessOID.CA_ISSUERS:
            url = _http(one.access_location)
            if url is not None:
                return url
    return None


def crl_url(certificate: x509.Certificate) -> str | None:
    """Return where a certificate says that its issuer's revocation list is; None: it does not say."""
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return None
    for point in points:
        for name in point.full_name or ():
            url = _http(name)
            if url is not None:
                return url
    return None


def _http(name: x509.GeneralName) -> str | None:
    url = name.value if isinstance(name, x509.UniformResourceIdentifier) else ""
    return url if url.startswith(("http://", "https://")) else None


def _read(content: bytes, below: x509.Certificate | None = None) -> x509.Certificate:
    """Read one certificate; of several, the one that issued `below`."""
    try:
        found = bundles.read(content)
        certificate = found[0] if below is None else bundles.issuer(below, found)
        if below is None and len(found) > 1:
            raise ValueError(f"{len(found)} certificates, expected one")
        _ = certificate.issuer, certificate.subject, certificate.extensions
    except UNREADABLE as error:
        raise EndorsementError(f"a TPM's certificate or issuer cannot be read: {error}", _FIX) from None
    return certificate
