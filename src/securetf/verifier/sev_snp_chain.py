"""AMD's certificate chain: ARK, ASK or ASVK, VCEK or VLEK (AMD 57230, chapters 2 and 3)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384

from securetf.endorsements.sev_snp import SnpAnchors, SnpEndorsements, common_name
from securetf.endorsements.trust import UNREADABLE, check_signature_form
from securetf.errors import EndorsementError, SignatureError
from securetf.evidence.sev_snp import SnpKey, SnpProduct, SnpTcb

_FETCH = "fetch ARK, ASK or ASVK, the VCEK or VLEK of this report, and the revocation list from AMD's KDS"
_CHECK = "check this machine's clock; fetch the certificates again"
_BASE = "1.3.6.1.4.1.3704.1"
_STRUCT_VERSION, _PRODUCT_NAME, _HW_ID, _CSP_ID = (f"{_BASE}.{arc}" for arc in (1, 2, 4, 5))
_SPLS = {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8}  # arcs below _BASE.3
_SPL_FMC, _SPLS_RESERVED = 9, (4, 5, 6, 7)
_ROOT_KEY_BITS = 4096
_LISTS = 16  # revocation lists kept: one or two for each product line
_KNOWN = 512  # certificates kept by `KnownSnp`, and links between two


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpChain:
    """A chain whose signatures, windows and roles hold.

    tcb: for which firmware the VCEK or VLEK was derived. hw_id: chip id in a VCEK, 64 bytes, on Turin 8;
    empty in a VLEK. csp_id: the cloud provider of a VLEK; empty in a VCEK. valid_until: when the first of the
    chain and its revocation list expires.
    """

    product: SnpProduct
    key: ec.EllipticCurvePublicKey
    tcb: SnpTcb
    hw_id: bytes
    csp_id: str
    valid_until: datetime


def verify_root(
    endorsements: SnpEndorsements, anchors: SnpAnchors, now: datetime, known: "KnownSnp"
) -> tuple[x509.Certificate, SnpProduct]:
    """Return the ARK (pinned, signed by itself, in its window) and its product line.

    Raises:
        EndorsementError: missing or unreadable. SignatureError: not a trust anchor, or it does not hold.
    """
    root = known.load("ARK", endorsements.root)
    try:
        product = anchors.product(root)
    except UNREADABLE:
        product = None
    if product is None:
        raise SignatureError(
            f"the chain ends in {root.subject.rfc4514_string()!r}, which is not a trust anchor",
            "use a platform whose vendor's root is pinned; development roots count only in a simulation",
        )
    known.check_issued(f"ARK of {product}", root, root)
    _check_window(f"ARK of {product}", root, now)
    return root, product


def verify_intermediate(
    kind: SnpKey,
    endorsements: SnpEndorsements,
    root: x509.Certificate,
    product: SnpProduct,
    now: datetime,
    known: "KnownSnp",
) -> x509.Certificate:
    """Return the ASK for a VCEK or the ASVK for a VLEK: a CA under the ARK, of this product line and role.

    Raises:
        EndorsementError: missing or unreadable. SignatureError: it does not hold.
    """
    what, raw = ("ASK", endorsements.ask) if kind is SnpKey.VCEK else ("ASVK", endorsements.asvk)
    certificate = known.load(what, raw)
    expected = f"SEV-{product}" if kind is SnpKey.VCEK else f"SEV-VLEK-{product}"
    if common_name(certificate) != expected:
        raise SignatureError(
            f"the {what} is {common_name(certificate)!r}, expected {expected!r}: another line or role",
            _FETCH,
        )
    known.check_issued(what, certificate, root)
    _check_window(what, certificate, now)
    if not _is_ca(certificate):
        raise SignatureError(f"the {what} is not a CA", _FETCH)
    return certificate


def verify_revocation(
    raw: bytes | None,
    root: x509.Certificate,
    intermediate: x509.Certificate,
    now: datetime,
    known: "KnownSnp",
) -> datetime:
    """Check the ARK's revocation list and that it names neither ARK nor ASK; return when it expires.

    Raises:
        EndorsementError: missing, damaged, of another issuer, out of its window. SignatureError: revoked.
    """
    crl, start, end = known.revocation_list(raw, root)
    if now < start:
        raise EndorsementError(
            f"the revocation list is issued in the future: {start:%F %T}, now {now:%F %T}", _CHECK
        )
    if now > end:
        raise EndorsementError(f"the revocation list expired at {end:%F %T}, now {now:%F %T}", _CHECK)
    for name, certificate in (("ARK", root), ("ASK or ASVK", intermediate)):
        if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise SignatureError(f"the {name} is revoked by AMD", "do not use this machine")
    return end


def verify_leaf(
    kind: SnpKey,
    raw: bytes | None,
    issuer: x509.Certificate,
    product: SnpProduct,
    now: datetime,
    known: "KnownSnp",
) -> SnpChain:
    """Return what a VCEK or VLEK says, signed by its ASK or ASVK; valid_until is that of the leaf alone.

    Raises:
        EndorsementError: missing or unreadable. SignatureError: it does not hold.
    """
    certificate = known.load(str(kind), raw)
    if common_name(certificate) != f"SEV-{kind}" or _is_ca(certificate):
        raise SignatureError(
            f"in the place of the {kind} stands {common_name(certificate)!r}, in another role",
            _FETCH,
        )
    known.check_issued(str(kind), certificate, issuer)
    _check_window(str(kind), certificate, now)
    return known.read_leaf(kind, certificate, product)


def _read_leaf(kind: SnpKey, certificate: x509.Certificate, product: SnpProduct) -> SnpChain:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise SignatureError(f"the key of the {kind} is not on P-384", _FETCH)
    extensions = {
        extension.oid.dotted_string: extension.value.value
        for extension in certificate.extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }
    _check_product(kind, extensions, product)
    return SnpChain(
        product=product,
        key=key,
        tcb=_tcb(kind, extensions, product),
        hw_id=_hw_id(extensions, product) if kind is SnpKey.VCEK else b"",
        csp_id=_text(kind, extensions, _CSP_ID) if kind is SnpKey.VLEK else "",
        valid_until=certificate.not_valid_after_utc,
    )


def _load(what: str, raw: bytes | None) -> x509.Certificate:
    if raw is None:
        raise EndorsementError(f"no {what} for this platform", _FETCH)
    try:
        certificate = x509.load_der_x509_certificate(raw)
        _ = certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key()
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        check_signature_form(certificate)
        return certificate
    except UNREADABLE as error:
        raise EndorsementError(f"the {what} cannot be read: {error}", _FETCH) from None


def _check_issued(what: str, certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Check the signature: RSA-4096 PSS with SHA-384 (AMD 57230, "Certificate Fields")."""
    key = issuer.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _ROOT_KEY_BITS:
        raise SignatureError(f"the issuer of the {what} has no RSA key of {_ROOT_KEY_BITS} bits", _FETCH)
    try:
        parameters = certificate.signature_algorithm_parameters
        if not isinstance(parameters, padding.PSS) or not isinstance(
            certificate.signature_hash_algorithm, SHA384
        ):
            raise SignatureError(f"the {what} is not signed with RSA-PSS and SHA-384", _FETCH)
        certificate.verify_directly_issued_by(issuer)
    except (*UNREADABLE, InvalidSignature):
        raise SignatureError(f"the {what} is not signed by its issuer", _FETCH) from None


def _check_window(what: str, certificate: x509.Certificate, now: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= now <= end:
        raise SignatureError(
            f"the {what} is good from {start:%F %T} to {end:%F %T}, not at {now:%F %T}", _CHECK
        )


def _revocation_list(
    raw: bytes | None, root: x509.Certificate
) -> tuple[x509.CertificateRevocationList, datetime, datetime]:
    """Return the ARK's list, and from when to when it counts."""
    try:
        crl = x509.load_der_x509_crl(raw or b"")
        check_signature_form(crl)
        key = root.public_key()
        genuine = (
            crl.issuer == root.subject and isinstance(key, rsa.RSAPublicKey) and crl.is_signature_valid(key)
        )
        start, end = crl.last_update_utc, crl.next_update_utc
    except UNREADABLE:
        raise EndorsementError("the revocation list of the ARK is missing or damaged", _FETCH) from None
    if not genuine:
        raise EndorsementError("the revocation list is not signed by the ARK", _FETCH)
    if end is None:
        raise EndorsementError("the revocation list does not say when it expires", _FETCH)
    return crl, start, end


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _check_product(kind: SnpKey, extensions: Mapping[str, bytes], product: SnpProduct) -> None:
    name = _text(kind, extensions, _PRODUCT_NAME)
    if name.partition("-")[0] != product:
        raise SignatureError(f"the {kind} is for {name!r} and stands under the root of {product}", _FETCH)
    version = _integer(kind, extensions, _STRUCT_VERSION)
    if version != (1 if product is SnpProduct.TURIN else 0):
        raise EndorsementError(
            f"the {kind} has structure version {version}, which {product} does not use", _FETCH
        )


def _tcb(kind: SnpKey, extensions: Mapping[str, bytes], product: SnpProduct) -> SnpTcb:
    for arc in _SPLS_RESERVED:
        oid = f"{_BASE}.3.{arc}"
        if oid in extensions and _integer(kind, extensions, oid):
            raise EndorsementError(f"the {kind} has a value in the reserved extension {oid}", _FETCH)
    fmc_oid = f"{_BASE}.3.{_SPL_FMC}"
    turin = product is SnpProduct.TURIN
    if not turin and fmc_oid in extensions:
        raise EndorsementError(f"the {kind} of {product} has an FMC, which only Turin has", _FETCH)
    values = {name: _integer(kind, extensions, f"{_BASE}.3.{arc}") for name, arc in _SPLS.items()}
    return SnpTcb(**values, fmc=_integer(kind, extensions, fmc_oid) if turin else None)


def _hw_id(extensions: Mapping[str, bytes], product: SnpProduct) -> bytes:
    """Return the chip id: raw bytes, not DER (AMD 57230, "hwID")."""
    size = 8 if product is SnpProduct.TURIN else 64
    value = extensions.get(_HW_ID, b"")
    if len(value) != size:
        raise EndorsementError(f"the VCEK has a chip id of {len(value)} bytes, expected {size}", _FETCH)
    return value


def _integer(kind: SnpKey, extensions: Mapping[str, bytes], oid: str) -> int:
    """Return a DER INTEGER of 0 to 255 in its shortest form."""
    raw = extensions.get(oid, b"")
    if raw[:2] == b"\x02\x01" and len(raw) == 3 and raw[2] < 0x80:
        return raw[2]
    if raw[:3] == b"\x02\x02\x00" and len(raw) == 4 and raw[3] >= 0x80:
        return raw[3]
    raise EndorsementError(
        f"extension {oid} of the {kind} is no number of 0 to 255: {raw[:16].hex()!r}", _FETCH
    )


def _text(kind: SnpKey, extensions: Mapping[str, bytes], oid: str) -> str:
    """Return a DER IA5String of 1 to 127 characters."""
    raw = extensions.get(oid, b"")
    if len(raw) < 3 or raw[0] != 0x16 or raw[1] > 0x7F or raw[1] != len(raw) - 2 or not raw[2:].isascii():
        raise EndorsementError(f"extension {oid} of the {kind} is no text: {raw[:16].hex()!r}", _FETCH)
    return raw[2:].decode("ascii")


@dataclass(frozen=True, slots=True)
class KnownSnp:
    """Parts of this chain's check that depend on bytes alone, each with a bounded memory. Thread-safe.

    No time, anchor or report is in them, refusals are not kept, and forgetting all of it changes no answer.
    """

    load: Callable[[str, bytes | None], x509.Certificate] = field(
        default_factory=lambda: lru_cache(_KNOWN)(_load)
    )
    check_issued: Callable[[str, x509.Certificate, x509.Certificate], None] = field(
        default_factory=lambda: lru_cache(_KNOWN)(_check_issued)
    )
    read_leaf: Callable[[SnpKey, x509.Certificate, SnpProduct], SnpChain] = field(
        default_factory=lambda: lru_cache(_KNOWN)(_read_leaf)
    )
    revocation_list: Callable[
        [bytes | None, x509.Certificate], tuple[x509.CertificateRevocationList, datetime, datetime]
    ] = field(default_factory=lambda: lru_cache(_LISTS)(_revocation_list))
