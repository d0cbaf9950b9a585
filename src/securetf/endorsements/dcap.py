"""DCAP collateral as a value: TCB info, QE identity, CRLs and their issuers' chains (Intel PCS API v4)."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsements:
    """One platform's collateral, not authenticated: the verifier checks every signature and window in it.

    *_chain: PEM, signer first, root last. *_crl: DER. tcb_info, qe_identity: the exact JSON text that was signed.
    *_signature: 64 bytes, r then s, big endian.
    """

    pck_crl_issuer_chain: str = field(repr=False)
    root_ca_crl: bytes = field(repr=False)
    pck_crl: bytes = field(repr=False)
    tcb_info_issuer_chain: str = field(repr=False)
    tcb_info: str = field(repr=False)
    tcb_info_signature: bytes = field(repr=False)
    qe_identity_issuer_chain: str = field(repr=False)
    qe_identity: str = field(repr=False)
    qe_identity_signature: bytes = field(repr=False)

    @staticmethod
    def from_json(text: str | bytes) -> "Endorsements":
        """Read the JSON form (docs/formats, the layout of dcap-qvl). EndorsementError when not exactly that."""
        raise NotImplementedError

    def to_json(self) -> str:
        """Return the JSON form that `from_json` reads."""
        raise NotImplementedError
