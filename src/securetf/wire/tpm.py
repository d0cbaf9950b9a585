"""Messages about TPMs: a machine enrols its attestation key, a CAS shows whose TPM it has. Sizes in bytes."""

from typing import Annotated

from msgspec import Meta

from securetf.wire.messages import Message

TpmPublic = Annotated[bytes, Meta(min_length=32, max_length=1024)]
TpmCertificates = Annotated[list[Annotated[bytes, Meta(max_length=8192)]], Meta(min_length=1, max_length=8)]
Blob = Annotated[bytes, Meta(min_length=1, max_length=1024)]
Ticket = Annotated[bytes, Meta(min_length=16, max_length=16)]
Secret = Annotated[bytes, Meta(min_length=32, max_length=32)]


class TpmKeys(Message, frozen=True, kw_only=True):
    """Keys of one TPM. ek_public, ak_public: TPMT_PUBLIC of endorsement and attestation key.

    ek_certificates: DER, the endorsement key's first, then as many of its issuers as there are at hand.
    """

    ek_public: TpmPublic
    ek_certificates: TpmCertificates
    ak_public: TpmPublic


class TpmChallengeRequest(TpmKeys, frozen=True, kw_only=True):
    """Ask for a challenge that only the TPM with both keys can open."""


class TpmChallengeResponse(Message, frozen=True, kw_only=True):
    """credential, encrypted_seed: for TPM2_ActivateCredential. ticket: comes back with the secret."""

    credential: Blob
    encrypted_seed: Blob
    ticket: Ticket
    expires_in_s: int


class TpmEnrolRequest(TpmKeys, frozen=True, kw_only=True):
    """The same keys again, and the secret that the TPM found in the challenge."""

    ticket: Ticket
    secret: Secret


class TpmEnrolResponse(Message, frozen=True, kw_only=True):
    """ak_name: TPM name of the key. ek_sha256: the machine's platform id. valid_until: Unix seconds."""

    ak_name: bytes
    ek_sha256: bytes
    valid_until: int


class CasTpmRequest(Message, frozen=True, kw_only=True):
    """Ask a CAS whose Evidence is a TPM's for its keys; with a challenge, also to open it."""

    credential: Blob | None = None
    encrypted_seed: Blob | None = None


class CasTpmResponse(TpmKeys, frozen=True, kw_only=True):
    """The keys of the CAS's TPM; secret: what it found in the challenge."""

    secret: Blob | None = None
