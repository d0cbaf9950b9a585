"""The key inside a certificate: what we cut out is what an X.509 library reads."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from securetf.cas_client.spki import subject_public_key_info
from securetf.errors import CasIdentityError

KEYS = [
    ec.generate_private_key(ec.SECP256R1()),
    ed25519.Ed25519PrivateKey.generate(),
    rsa.generate_private_key(65537, 2048),
]


def certificate(key: object) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x" * 60)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(2**150)
    builder = builder.public_key(key.public_key())  # type: ignore[attr-defined]
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", KEYS, ids=["p256", "ed25519", "rsa"])
def test_it_is_what_the_library_reads(key: ec.EllipticCurvePrivateKey) -> None:
    expected = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert subject_public_key_info(certificate(key)) == expected


def test_every_truncation_is_refused() -> None:
    raw = certificate(KEYS[0])
    for length in range(len(raw)):
        with pytest.raises(CasIdentityError, match="is not one DER certificate"):
            subject_public_key_info(raw[:length])


@pytest.mark.parametrize(
    "raw", [b"\x30\x80\x00\x00", b"\x30\x85\x01\x01\x01\x01\x01", b"\x02\x01\x01", b"\x30" * 50]
)
def test_what_is_no_certificate_is_refused(raw: bytes) -> None:
    with pytest.raises(CasIdentityError, match="is not one DER certificate"):
        subject_public_key_info(raw)
