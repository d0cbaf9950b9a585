"""A customer's key: shown in TLS under a self-signed certificate, compared by the service as a whole."""

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from securetf.errors import KeyFileError

_MAX_FILE_BYTES = 8192
_TOLERANCE = timedelta(days=1)
_LIFETIME = timedelta(days=30)  # the service compares the key alone; a process seldom lives longer
_FIX = (
    "make one: `(umask 077; openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out client.pem)`"
)


def certificate_of(path: Path) -> bytes:
    """Return a self-signed certificate (PEM) for the key in `path`.

    Raises:
        KeyFileError: missing, readable by others, or not an unencrypted P-256 key in PKCS#8 PEM.
    """
    key = _load(path)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "securetf client")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _TOLERANCE)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, SHA256())
    )
    return built.public_bytes(Encoding.PEM)


def _load(path: Path) -> EllipticCurvePrivateKey:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be opened: {error.strerror}", _FIX) from None
    try:
        status = os.fstat(descriptor)
        raw = os.read(descriptor, _MAX_FILE_BYTES) if stat.S_ISREG(status.st_mode) else b""
    finally:
        os.close(descriptor)
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise KeyFileError(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}, others may use it",
            f"run `chmod 600 {path}`",
        )
    try:
        key = load_pem_private_key(raw, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise KeyFileError(f"{path} holds no unencrypted P-256 key in PEM", _FIX)
    return key
