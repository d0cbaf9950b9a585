"""Trust anchors: keys of roots, pinned by the SHA-256 of their SubjectPublicKeyInfo."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchors:
    """Keys that a certificate chain may end in. An empty set trusts nothing.

    spki_sha256: 32 bytes each. development: True if these are keys of an INSECURE SIMULATION.
    """

    spki_sha256: frozenset[bytes]
    development: bool

    @staticmethod
    def intel() -> "TrustAnchors":
        """Return the pin of Intel's SGX and TDX provisioning root."""
        raise NotImplementedError

    @staticmethod
    def insecure_simulation(root_pem: bytes) -> "TrustAnchors":
        """Return the pin of a development root, a PEM certificate that names itself INSECURE SIMULATION.

        Raises:
            EndorsementError: not one certificate, not self-signed, or not named as a simulation.
        """
        raise NotImplementedError
