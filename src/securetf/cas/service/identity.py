"""The CAS's own keys: made once, kept only in a sealed row."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from cryptography.x509.oid import NameOID

from securetf.cas.service.rows import IdentityRow, find, put
from securetf.cas.store import Store
from securetf.errors import CasStateError
from securetf.provisioning import HpkeKeyPair

_ROW = b"cas"
_CERTIFICATE_YEARS = 20  # clients pin the key, so the certificate's window decides nothing
_CLOCK_SKEW = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CasIdentity:
    """tls_key with its self-signed certificate, token_key (signs EAR), audit_key (signs heads), hpke_key.

    spki: DER SubjectPublicKeyInfo of tls_key; spki_sha256: its digest in hex, what clients pin.
    """

    tls_key: EllipticCurvePrivateKey = field(repr=False)
    certificate: bytes = field(repr=False)
    token_key: EllipticCurvePrivateKey = field(repr=False)
    audit_key: Ed25519PrivateKey = field(repr=False)
    hpke_key: HpkeKeyPair = field(repr=False)
    spki: bytes = field(repr=False)
    spki_sha256: str

    @property
    def audit_public_key(self) -> bytes:
        """Ed25519, 32 bytes."""
        return self.audit_key.public_key().public_bytes_raw()


def load_or_create(store: Store, now: datetime) -> CasIdentity:
    """Return the identity in the store; make one when there is none yet."""
    row = find(store, IdentityRow, _ROW)
    if row is None:
        made = _create(now)
        store.transact(lambda transaction: put(transaction, _ROW, made))
        row = made
    tls_key, token_key = (
        load_der_private_key(row.tls_private, None),
        load_der_private_key(row.token_private, None),
    )
    audit_key = load_der_private_key(row.audit_private, None)
    if not (
        isinstance(tls_key, EllipticCurvePrivateKey)
        and isinstance(token_key, EllipticCurvePrivateKey)
        and isinstance(audit_key, Ed25519PrivateKey)
    ):
        raise CasStateError(
            "the CAS's identity row holds keys of other kinds", "start the release that wrote it"
        )
    spki = tls_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return CasIdentity(
        tls_key=tls_key,
        certificate=row.certificate,
        token_key=token_key,
        audit_key=audit_key,
        hpke_key=HpkeKeyPair.from_private_bytes(row.hpke_private),
        spki=spki,
        spki_sha256=sha256(spki).hexdigest(),
    )


def _create(now: datetime) -> IdentityRow:
    tls_key = generate_private_key(SECP256R1())
    return IdentityRow(
        tls_private=_pkcs8(tls_key),
        certificate=_certificate(tls_key, now),
        token_private=_pkcs8(generate_private_key(SECP256R1())),
        audit_private=_pkcs8(Ed25519PrivateKey.generate()),
        hpke_private=HpkeKeyPair.generate().private_bytes(),
    )


def _certificate(key: EllipticCurvePrivateKey, now: datetime) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "securetf-cas")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=365 * _CERTIFICATE_YEARS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("securetf-cas")]), critical=False)
        .sign(key, SHA256())
    )
    return built.public_bytes(Encoding.DER)


def _pkcs8(key: EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
