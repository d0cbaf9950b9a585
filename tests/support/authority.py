"""A small certification authority: issues what no real issuer would, so that each refusal has its case."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from securetf.endorsements import TrustAnchors
from securetf.endorsements.trust import spki_digest

NOW = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
USAGE = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True)
class Authority:
    """A key with its certificate."""

    key: Any
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def anchors(self) -> TrustAnchors:
        return TrustAnchors(spki_sha256=frozenset({spki_digest(self.certificate)}), development=False)

    def issue(self, name: str, **changes: Any) -> "Authority":
        return issue(name, issuer=self, **changes)


def issue(
    name: str,
    *,
    issuer: Authority | None = None,
    key: Any = None,
    public_key: Any = None,
    ca: bool = True,
    path_length: int | None = None,
    usage: tuple[str, ...] = ("key_cert_sign",),
    start: datetime = NOW - timedelta(days=1),
    end: datetime = NOW + timedelta(days=1),
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    digest: Any = None,
    signer: Any = None,
) -> Authority:
    """Issue one certificate; without an issuer it signs itself."""
    key = key or ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    constraints = x509.BasicConstraints(ca=ca, path_length=path_length if ca else None)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(public_key or key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(constraints, critical=True)
        .add_extension(x509.KeyUsage(**{flag: flag in usage for flag in USAGE}), critical=True)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    signer = signer or (issuer.key if issuer else key)
    return Authority(key, builder.sign(signer, digest or SHA384()))
