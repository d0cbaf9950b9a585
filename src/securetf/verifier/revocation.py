"""Revocation lists of the issuers in a certificate path, at a given time (RFC 5280, sections 5 and 6.3).

A certificate that names a distribution point must have a list: who publishes revocations and is not asked
might as well not publish any. One that names none needs none. Indirect and delta lists are refused.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID

from securetf.endorsements.trust import UNREADABLE, check_signature_form
from securetf.errors import EndorsementError, SignatureError

LIST_LIMIT = 32  # lists given for one path
_FETCH = "fetch the revocation lists that the chain names: `securetf endorsements fetch`"


def check(
    what: str, path: Sequence[x509.Certificate], lists: Sequence[bytes], now: datetime
) -> datetime | None:
    """Check that nothing in a path that holds is revoked; return when the first list used expires.

    what: names the path in errors. path: leaf first, root last; signatures and times hold. lists: DER, of any
    issuers, in any order. None: no certificate names a list, and none was given for one.

    Raises:
        EndorsementError: a list that is needed is missing, damaged or out of its window.
        SignatureError: a certificate is revoked.
    """
    if len(lists) > LIST_LIMIT:
        raise EndorsementError(f"{len(lists)} revocation lists for {what}, at most {LIST_LIMIT}", _FETCH)
    loaded = [_load(der) for der in lists]
    ends: list[datetime] = []
    for below, (certificate, issuer) in enumerate(pairwise(path)):
        own = list(_of(issuer, loaded)) if loaded else []
        if not own and not _names_a_list(certificate):
            continue
        name = certificate.subject.rfc4514_string() or "a certificate without a subject"
        usable = [crl for crl in own if _covers(crl, authority=below > 0) and _holds(crl, now)]
        for crl in usable:
            if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
                raise SignatureError(f"{what}: {name!r} is revoked by its issuer", "do not use this machine")
        if not usable:
            raise EndorsementError(f"{what}: {_reason(own, now)} for {name!r}", _FETCH)
        ends.append(max(crl.next_update_utc for crl in usable if crl.next_update_utc is not None))
    return min(ends, default=None)


def _load(der: bytes) -> x509.CertificateRevocationList:
    try:
        crl = x509.load_der_x509_crl(der)
        check_signature_form(crl)
        _ = crl.issuer, crl.last_update_utc, crl.next_update_utc, crl.extensions
    except UNREADABLE as error:
        raise EndorsementError(f"a revocation list cannot be read: {error}", _FETCH) from None
    return crl


def _of(
    issuer: x509.Certificate, lists: Sequence[x509.CertificateRevocationList]
) -> Iterator[x509.CertificateRevocationList]:
    key = issuer.public_key()
    for crl in lists:
        try:
            if (
                crl.issuer == issuer.subject
                and isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
                and crl.is_signature_valid(key)
            ):
                yield crl
        except UNREADABLE:
            continue


def _names_a_list(certificate: x509.Certificate) -> bool:
    return any(extension.oid == ExtensionOID.CRL_DISTRIBUTION_POINTS for extension in certificate.extensions)


def _holds(crl: x509.CertificateRevocationList, now: datetime) -> bool:
    return crl.next_update_utc is not None and crl.last_update_utc <= now <= crl.next_update_utc


def _covers(crl: x509.CertificateRevocationList, *, authority: bool) -> bool:
    """Return whether a list speaks of all such certificates of its issuer (RFC 5280, 5.2.5)."""
    for extension in crl.extensions:
        point = extension.value
        if isinstance(point, x509.IssuingDistributionPoint):
            other = point.only_contains_user_certs if authority else point.only_contains_ca_certs
            partial = point.only_some_reasons or point.indirect_crl or point.only_contains_attribute_certs
            if other or partial:
                return False
        elif extension.critical:  # a delta list, or something unknown
            return False
    return True


def _reason(own: Sequence[x509.CertificateRevocationList], now: datetime) -> str:
    if not own:
        return "no revocation list by its issuer was given"
    for crl in own:
        if crl.next_update_utc is None:
            return "the revocation list does not say when it expires"
        if now < crl.last_update_utc:
            return (
                f"the revocation list is issued in the future ({crl.last_update_utc:%F %T}, now {now:%F %T})"
            )
        if now > crl.next_update_utc:
            return f"the revocation list expired at {crl.next_update_utc:%F %T}, now {now:%F %T},"
    return "the revocation list is of a kind or scope that does not count"
