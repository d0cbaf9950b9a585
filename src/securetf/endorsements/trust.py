"""Trust anchors: keys of roots, pinned by the SHA-256 of their SubjectPublicKeyInfo."""

import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from securetf.errors import EndorsementError

# What `cryptography` raises on certificates and CRLs it cannot read, in part only when asked for a part.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
SIMULATION_MARK = "INSECURE SIMULATION"  # in the subject of every certificate of a development PKI

# Intel SGX Root CA, whose key signs SGX and TDX provisioning. Intel re-issued the certificate with the same
# key.
_INTEL_SGX_ROOT = bytes.fromhex("a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e")
# AWS Nitro Enclaves root G1, "CN=aws.nitro-enclaves" (valid from 2019-10-28 to 2049-10-28).
_AWS_NITRO_ROOT = bytes.fromhex("f2caf5ecc6190b4a8399b78bc58a2bbcd0382375db8a1bfd78a82743874fd225")
# Google Cloud "EK/AK CA Root", which certifies the keys of Shielded VMs' TPMs (valid to 2122-07-08).
_GOOGLE_TPM_ROOT = bytes.fromhex("56a613f57126a385dd6949294e93b0b566f96ab0573be0c2368e6f5ca779831f")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchors:
    """Keys that a certificate chain may end in. An empty set trusts nothing.

    spki_sha256: 32 bytes each. development: True if these are keys of an INSECURE SIMULATION; hardware
    verifiers take no such set, and the simulation's verifier takes no other.
    """

    spki_sha256: frozenset[bytes]
    development: bool

    @staticmethod
    def intel() -> "TrustAnchors":
        """Return the pin of Intel's SGX and TDX provisioning root."""
        return TrustAnchors(spki_sha256=frozenset({_INTEL_SGX_ROOT}), development=False)

    @staticmethod
    def aws_nitro() -> "TrustAnchors":
        """Return the pin of the root of AWS Nitro Enclaves."""
        return TrustAnchors(spki_sha256=frozenset({_AWS_NITRO_ROOT}), development=False)

    @staticmethod
    def google_tpm() -> "TrustAnchors":
        """Return the pin of the root of the TPMs of Google Cloud's Shielded and Confidential VMs."""
        return TrustAnchors(spki_sha256=frozenset({_GOOGLE_TPM_ROOT}), development=False)

    @staticmethod
    def chosen(roots_pem: bytes) -> "TrustAnchors":
        """Return the pins of roots that an owner chose: TPM manufacturers, or his own enrolment authority.

        roots_pem: one or more PEM certificates, none of an INSECURE SIMULATION.

        Raises:
            EndorsementError: unreadable, or a development root.
        """
        try:
            roots = x509.load_pem_x509_certificates(roots_pem)
            subjects = [root.subject.rfc4514_string() for root in roots]
            pins = frozenset(spki_digest(root) for root in roots)
        except UNREADABLE as error:
            raise EndorsementError(
                f"the roots are not PEM certificates: {error}", "give a file of PEM certificates"
            ) from None
        if any(SIMULATION_MARK in subject for subject in subjects):
            raise EndorsementError(
                f"a root names itself {SIMULATION_MARK}", "development roots count only in a simulation"
            )
        return TrustAnchors(spki_sha256=pins, development=False)

    @staticmethod
    def insecure_simulation(root_pem: bytes) -> "TrustAnchors":
        """Return the pin of a development root: one PEM certificate that names itself INSECURE SIMULATION.

        Text around the certificate is ignored, as PEM does.

        Raises:
            EndorsementError: not one certificate, not self-signed, or not named as a simulation.
        """
        try:
            (root,) = x509.load_pem_x509_certificates(root_pem)
            subject = root.subject.rfc4514_string()
            root.verify_directly_issued_by(root)
        except (*UNREADABLE, InvalidSignature) as error:
            raise EndorsementError(
                f"the development root is not one self-signed PEM certificate: {error}",
                "give the root.pem that `securetf simulation create` wrote",
            ) from None
        if SIMULATION_MARK not in subject:
            raise EndorsementError(
                f"{subject!r} does not name itself {SIMULATION_MARK}",
                "give the root.pem of a simulated platform; hardware roots are built in",
            )
        return TrustAnchors(spki_sha256=frozenset({spki_digest(root)}), development=True)

    def find(self, certificate: x509.Certificate) -> bool:
        """Return whether this certificate has one of the pinned keys. Says nothing about its signature."""
        return spki_digest(certificate) in self.spki_sha256


def spki_digest(certificate: x509.Certificate) -> bytes:
    """Return SHA-256 over the certificate's DER SubjectPublicKeyInfo."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def check_signature_form(signed: x509.Certificate | x509.CertificateRevocationList) -> None:
    """Check that the signature is a whole number of bytes, as it must be (RFC 5280 section 4.1.1.3).

    `cryptography` ignores the count of unused bits before it, which nobody signs: the same certificate or
    list would have several encodings.

    Raises:
        ValueError: it is not.
    """
    if not signed.public_bytes(Encoding.DER).endswith(b"\0" + signed.signature):
        raise ValueError("its signature is not a whole number of bytes")
