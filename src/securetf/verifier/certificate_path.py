"""Certificate paths whose every certificate comes with the Evidence (RFC 5280 section 6), at a given time.

Stricter than RFC 5280 where the vendors' certificates allow it: exact order, no cross paths, no certificate
twice, no SHA-1, no unknown critical extension. `pck` does the same for Intel's chains through dcap-qvl.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import NoReturn, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.x509.oid import ExtensionOID

from securetf.endorsements import TrustAnchors
from securetf.endorsements.trust import UNREADABLE, check_signature_form, spki_digest
from securetf.errors import MalformedEvidenceError, SignatureError

_T = TypeVar("_T", bound=x509.ExtensionType)

PATH_LIMIT = 8  # certificates, leaf and root included
_KNOWN = 512  # certificates kept by `KnownPaths`, and links between two
RSA_BITS = range(2048, 8193)

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_HASHES = (SHA256, SHA384, SHA512)
_KNOWN_CRITICAL = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,  # TPM EK certificates with an empty subject
    }
)
_AS_GIVEN = "pass the Evidence with its certificates exactly as the platform gave them"
_ROOT = "use a platform whose root is pinned, or pin its root after checking where it comes from"


def load(what: str, der: bytes) -> x509.Certificate:
    """Read one DER certificate, and the parts that `cryptography` reads only when asked.

    Raises:
        MalformedEvidenceError: it cannot be read, or does not encode itself again.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key()
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        _ = certificate.signature_hash_algorithm
        check_signature_form(certificate)
    except UNREADABLE as error:
        raise MalformedEvidenceError(f"{what} cannot be read: {error}", _AS_GIVEN) from None
    return certificate


def check(
    what: str,
    path: Sequence[x509.Certificate],
    *,
    anchors: TrustAnchors,
    now: datetime,
    revoked: frozenset[bytes] = frozenset(),
    known: "KnownPaths | None" = None,
) -> datetime:
    """Check a path, leaf first, root last; return when its first certificate expires.

    what: names the path in errors. revoked: SHA-256 of the SubjectPublicKeyInfo of keys that no longer count.
    known: what the caller keeps from one path to the next; it changes the time this takes and nothing else.

    Raises:
        SignatureError: naming the first certificate and the reason.
    """
    if not 2 <= len(path) <= PATH_LIMIT:
        raise SignatureError(f"{what} has {len(path)} certificates, expected 2 to {PATH_LIMIT}", _AS_GIVEN)
    known = known or KnownPaths()
    # 1. The root is pinned; a path that ends elsewhere is not looked at any further.
    if known.digest(path[-1]) not in anchors.spki_sha256:
        raise SignatureError(f"{what} ends in {_name(path[-1])}, which is not a trust anchor", _ROOT)
    # 2. Each certificate alone: time, algorithms, extensions, not revoked, not there twice.
    digests = [known.digest(certificate) for certificate in path]
    if len(set(digests)) != len(digests):
        raise SignatureError(f"{what} has one key in two certificates", _AS_GIVEN)
    for certificate, digest in zip(path, digests, strict=True):
        _check_window(what, certificate, now)
        known.check_form(what, certificate)
        if digest in revoked:
            raise SignatureError(f"{what}: {_name(certificate)} is revoked", "do not use this machine")
    # 3. Roles: all but the leaf are authorities, and each may have that many below it.
    for below, certificate in enumerate(path):
        known.check_role(what, certificate, below)
    # 4. Names and signatures, from the root down; the root signed itself.
    for issuer, certificate in zip([path[-1], *path[:0:-1]], reversed(path), strict=True):
        known.check_issued(what, certificate, issuer)
    return min(certificate.not_valid_after_utc for certificate in path)


def _check_window(what: str, certificate: x509.Certificate, now: datetime) -> None:
    if now < certificate.not_valid_before_utc:
        _refuse(what, certificate, f"is valid from {certificate.not_valid_before_utc:%F %T}, now {now:%F %T}")
    if now > certificate.not_valid_after_utc:
        _refuse(what, certificate, f"expired at {certificate.not_valid_after_utc:%F %T}, now {now:%F %T}")


def _check_form(what: str, certificate: x509.Certificate) -> None:
    _check_algorithms(what, certificate)
    _check_extensions(what, certificate)


def _check_issued(what: str, certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except InvalidSignature:
        _refuse(what, certificate, f"is not signed by {_name(issuer)}")
    except UNREADABLE as error:
        _refuse(what, certificate, f"is not issued by {_name(issuer)}: {error}")


def _check_algorithms(what: str, certificate: x509.Certificate) -> None:
    key = certificate.public_key()
    strong = (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)) or (
        isinstance(key, rsa.RSAPublicKey) and key.key_size in RSA_BITS
    )
    if not strong:
        _refuse(
            what, certificate, "has a key that is neither ECDSA P-256 to P-521 nor RSA of 2048 bits or more"
        )
    if not isinstance(certificate.signature_hash_algorithm, _HASHES):
        _refuse(what, certificate, "is signed over a digest other than SHA-256, SHA-384 or SHA-512")


def _check_extensions(what: str, certificate: x509.Certificate) -> None:
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _KNOWN_CRITICAL:
            _refuse(what, certificate, f"has the unknown critical extension {extension.oid.dotted_string}")


def _check_role(what: str, certificate: x509.Certificate, below: int) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    authority = constraints is not None and constraints.ca
    if below == 0:
        if authority or (usage is not None and usage.key_cert_sign):
            _refuse(what, certificate, "is an authority and stands where the leaf should be")
        return
    if not authority or (usage is None or not usage.key_cert_sign):
        _refuse(what, certificate, "is not an authority and stands above another certificate")
    if (
        constraints is not None
        and constraints.path_length is not None
        and below - 1 > constraints.path_length
    ):
        _refuse(what, certificate, f"allows {constraints.path_length} authorities below it, not {below - 1}")


def _extension(certificate: x509.Certificate, kind: type[_T]) -> _T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _refuse(what: str, certificate: x509.Certificate, problem: str) -> NoReturn:
    raise SignatureError(f"{what}: {_name(certificate)} {problem}", _AS_GIVEN)


def _name(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string() or "a certificate without a subject")


@dataclass(frozen=True, slots=True)
class KnownPaths:
    """Parts of `load` and `check` that depend on the certificates' bytes alone, each with a bounded memory.

    Thread-safe. No time, anchor or revocation is in them, refusals are not kept, and forgetting all of it
    changes no answer: a path is still walked from the pinned root down, and held against time, each time.
    """

    load: Callable[[str, bytes], x509.Certificate] = field(default_factory=lambda: lru_cache(_KNOWN)(load))
    digest: Callable[[x509.Certificate], bytes] = field(
        default_factory=lambda: lru_cache(_KNOWN)(spki_digest)
    )
    check_form: Callable[[str, x509.Certificate], None] = field(
        default_factory=lambda: lru_cache(_KNOWN)(_check_form)
    )
    check_role: Callable[[str, x509.Certificate, int], None] = field(
        default_factory=lambda: lru_cache(_KNOWN)(_check_role)
    )
    check_issued: Callable[[str, x509.Certificate, x509.Certificate], None] = field(
        default_factory=lambda: lru_cache(_KNOWN)(_check_issued)
    )
