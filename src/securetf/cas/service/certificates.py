"""The certificate authority of a session, and the X.509-SVIDs of its members. docs/formats/x509-svid.md"""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from securetf.cas.service.rows import AuthorityRow, find, put
from securetf.cas.store import Transaction
from securetf.errors import CasStateError
from securetf.identity import MEMBER_OID as _MEMBER_OID
from securetf.identity import SpiffeId

MEMBER_OID = ObjectIdentifier(_MEMBER_OID)
_TOLERANCE = timedelta(seconds=60)  # by which a member's clock may be behind
_AUTHORITY_LIFETIME = timedelta(days=3650)
_OCTET_STRING = bytes([0x04, 40])  # DER tag and length


def authority(transaction: Transaction, session: str, *, trust_domain: str, now: datetime) -> AuthorityRow:
    """Return the authority of a session; make it when an older release made the session without one."""
    row = find(transaction, AuthorityRow, session.encode())
    if row is None:
        row = _make(trust_domain, now)
        put(transaction, session.encode(), row)
    return row


def not_after(row: AuthorityRow, *, lifetime_s: int, now: datetime) -> int:
    """Return the end of a certificate that is issued now, in Unix seconds; never past the authority's."""
    end = x509.load_der_x509_certificate(row.certificate).not_valid_after_utc
    return min(int(now.timestamp()) + lifetime_s, int(end.timestamp()))


def issue(
    row: AuthorityRow,
    *,
    spiffe_id: SpiffeId,
    key: EllipticCurvePublicKey,
    manifest_hash: bytes,
    generation: int,
    now: datetime,
    end: int,
) -> bytes:
    """Return the X.509-SVID of a member, DER.

    key: the attested network key. manifest_hash: 32 bytes. end: from `not_after`.
    """
    private = load_der_private_key(row.private, None)
    if not isinstance(private, EllipticCurvePrivateKey):
        raise CasStateError(
            "the authority of a session has another kind of key", "start the release that wrote it"
        )
    signer = x509.load_der_x509_certificate(row.certificate)
    value = _OCTET_STRING + manifest_hash + generation.to_bytes(8, "big")
    built = (
        _builder(x509.Name([]), signer.subject, key)
        .not_valid_before(_whole(now) - _TOLERANCE)
        .not_valid_after(datetime.fromtimestamp(end, UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(_uri(str(spiffe_id)), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()), critical=False
        )
        .add_extension(x509.UnrecognizedExtension(MEMBER_OID, value), critical=False)
        .sign(private, SHA256())
    )
    return built.public_bytes(Encoding.DER)


def _make(trust_domain: str, now: datetime) -> AuthorityRow:
    key = generate_private_key(SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "securetf"),
            x509.NameAttribute(NameOID.COMMON_NAME, "session authority"),
        ]
    )
    built = (
        _builder(name, name, key.public_key())
        .not_valid_before(_whole(now) - _TOLERANCE)
        .not_valid_after(_whole(now) + _AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(_uri(f"spiffe://{trust_domain}"), critical=False)
        .sign(key, SHA256())
    )
    return AuthorityRow(
        private=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        certificate=built.public_bytes(Encoding.DER),
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    """Return the usage of a member, which signs handshakes, or of an authority, which signs certificates."""
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not signs,
        crl_sign=not signs,
        encipher_only=False,
        decipher_only=False,
    )


def _uri(text: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(text)])


def _whole(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
