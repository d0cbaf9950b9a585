"""Fuzz target (atheris) for RA-TLS certificates: no input may raise anything but our errors.

    pip install atheris
    PYTHONPATH=src python fuzz/ra_tls.py fuzz/corpus/ra_tls -max_total_time=300

The first byte of an input chooses: 0 a certificate, 1 the extension in one, 2 the claims in one. Genuine
inputs, made anew with each start, are written into the corpus first.
"""

import hashlib
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import atheris
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

with atheris.instrument_imports(include=["securetf"]):
    from securetf.errors import BindingError, MalformedEvidenceError
    from securetf.evidence import cbor, ra_tls

NOW = datetime(2026, 11, 22, tzinfo=UTC)
NONCE = bytes(range(32))
EVIDENCE = b"a quote"
KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
CLAIMS = cbor.encode({"pubkey-hash": cbor.encode((1, hashlib.sha256(SPKI).digest())), "nonce": NONCE})
EXTENSION = cbor.encode(cbor.Tagged(ra_tls.TAG_TEE_EVIDENCE, (EVIDENCE, CLAIMS)))


def certificate(extension: bytes) -> bytes:
    """Return a certificate with this extension, whose signature nobody looks at."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    content = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.9"), extension)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key())
    dated = builder.serial_number(7).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    return dated.add_extension(content, critical=False).sign(KEY, SHA256()).public_bytes(Encoding.DER)


GENUINE = certificate(EXTENSION)
BEFORE, AFTER = GENUINE.split(EXTENSION)


def read(kind: int, rest: bytes) -> None:
    """Read one input of a kind. What is accepted must name the key that the certificate has."""
    if kind == 1:
        # Lengths of DER stay right only for extensions of the genuine one's size.
        rest = BEFORE + rest[: len(EXTENSION)].ljust(len(EXTENSION), b"\0") + AFTER
    elif kind == 2:
        rest = BEFORE + EXTENSION[: -len(CLAIMS)] + rest[: len(CLAIMS)].ljust(len(CLAIMS), b"\0") + AFTER
    found = ra_tls.parse(rest)
    expected = ra_tls.expected_report_data(found, nonce=NONCE)
    if found.spki not in rest or found.claims not in rest or NONCE not in found.claims:
        raise AssertionError("key, claims or nonce are not those of the certificate")
    if expected[:32] != hashlib.sha256(found.claims).digest() or any(expected[32:]):
        raise AssertionError("the report data is not the claims' hash")


def one_input(data: bytes) -> None:
    """Feed one input; whatever leaves must be one of our errors."""
    if data and data[0] <= 2:
        try:
            read(data[0], data[1:])
        except (MalformedEvidenceError, BindingError):
            return


def main() -> None:
    """Write the seeds and fuzz."""
    for argument in sys.argv[1:]:
        if not argument.startswith("-"):
            corpus = Path(argument)
            corpus.mkdir(parents=True, exist_ok=True)
            for number, seed in enumerate((b"\0" + GENUINE, b"\1" + EXTENSION, b"\2" + CLAIMS)):
                (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
