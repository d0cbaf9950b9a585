"""What a running service proves to a client outside of the session. docs/formats/service-statement-v1.md

Structs and their exact bytes; whoever relies on one checks it in the order of that document.
"""

import hashlib
from typing import Annotated, Literal, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Meta

from securetf.errors import TokenError
from securetf.keys.jws import verify_compact
from securetf.keys.workload import public_key
from securetf.wire.messages import (
    CasEvidenceResponse,
    Epoch,
    Instance,
    Message,
    Name,
    Nonce,
    Sequence,
    SessionName,
    Spki,
    VolumeIdText,
    VolumeName,
)

ALPN = "securetf-statement/1"
NONCE_BYTES = 32
BINDING_TYPE = "securetf-statement+jwt"
DELEGATION_TYPE = "securetf-receipt-delegation+jwt"
MAX_STATEMENT_BYTES = 1 << 20
_TOKEN_KEY_LABEL = b"securetf token key v1\0"
_FIX = "use the release that the service runs; if it repeats, do not trust the service"

_M = TypeVar("_M", bound=Message)

Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", max_length=64)]
HashText = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
Time = Annotated[int, Meta(ge=0, lt=2**48)]
Der = Annotated[bytes, Meta(min_length=1, max_length=8192)]
Jws = Annotated[str, Meta(min_length=1, max_length=65536)]


class TokenKey(Message, frozen=True, kw_only=True):
    """The key that signs EAR tokens, vouched for by the CAS's audit key, which the CAS's Evidence binds.

    spki: P-256, DER. signature: Ed25519 over `token_key_text`, 64 bytes.
    """

    spki: Spki
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class CasProof(Message, frozen=True, kw_only=True):
    """How the CAS proved itself to the service: `nonce` was the launcher's."""

    url: Annotated[str, Meta(max_length=512)]
    nonce: Nonce
    evidence: CasEvidenceResponse
    token_key: TokenKey


class VolumeProof(Message, frozen=True, kw_only=True):
    """A volume at its mount; a read-only one shows this root and no other. root: 64 hex digits."""

    volume_id: VolumeIdText
    epoch: Epoch
    seq: Sequence
    root: Hex32
    writable: bool


class Attestation(Message, frozen=True, kw_only=True):
    """`attestation.json`: all of a statement but the answer to a nonce.

    ear: the token of the last attestation. certificate: the chain of the network key, DER, leaf first.
    trust_root: the session's authority, DER.
    """

    version: Literal[1] = 1
    ear: Annotated[str, Meta(max_length=16384)]
    certificate: Annotated[list[Der], Meta(min_length=1, max_length=4)]
    trust_root: Der
    cas: CasProof


class Statement(Attestation, frozen=True, kw_only=True):
    """What the relay answers. binding: compact JWS over `Binding`, by the key in the EAR's `cnf`."""

    binding: Jws


class Binding(Message, frozen=True, kw_only=True):
    """The payload of `Statement.binding`.

    nonce: the client's. network_spki_sha256: of the key that every connection to this service must show,
    the one over which the statement came included. volumes: by name. receipt_key: P-256, DER, None without
    receipts. iat: Unix seconds by the service's clock.
    """

    nonce: Nonce
    network_spki_sha256: Hex32
    session: SessionName
    workload: Name
    instance: Instance
    manifest_hash: HashText
    volumes: dict[VolumeName, VolumeProof]
    receipt_key: Spki | None
    iat: Time


class Delegation(Message, frozen=True, kw_only=True):
    """The payload of `receipt-delegation.jws`, by the attested key: receipts from `iat` to `exp` count."""

    receipt_key: Spki
    session: SessionName
    workload: Name
    instance: Instance
    manifest_hash: HashText
    iat: Time
    exp: Time


class MountedVolume(Message, frozen=True, kw_only=True):
    """An entry of `volumes.json`, as `VolumeProof`. mount: the program's path. protection: the Manifest's."""

    mount: str
    volume_id: VolumeIdText
    epoch: Epoch
    seq: Sequence
    root: Hex32
    protection: str


def token_key_text(cas_spki_sha256: str, spki: bytes) -> bytes:
    """Return what the CAS's audit key signs: label, SHA-256 of the CAS's TLS key, token key as DER."""
    return _TOKEN_KEY_LABEL + bytes.fromhex(cas_spki_sha256) + spki


def check_token_key(key: TokenKey, *, cas: str, audit_public_key: bytes) -> EllipticCurvePublicKey:
    """Return the key that the CAS's tokens are signed with.

    cas: SHA-256 of the CAS's TLS key in hex. audit_public_key: 32 bytes, from the trust file or the Evidence.

    Raises:
        TokenError: not vouched for by this audit key. BindingError: not a P-256 key.
    """
    try:
        Ed25519PublicKey.from_public_bytes(audit_public_key).verify(
            key.signature, token_key_text(cas, key.spki)
        )
    except InvalidSignature:
        raise TokenError("the token key is not signed by this CAS's audit key", _FIX) from None
    return public_key(key.spki)


def read_binding(token: str, key: EllipticCurvePublicKey) -> Binding:
    """Return what a statement's `binding` says. key: from the EAR's `cnf`. Raises TokenError."""
    return _read(verify_compact(token, key, BINDING_TYPE), Binding)


def read_delegation(token: str, key: EllipticCurvePublicKey) -> Delegation:
    """Return what a `receipt-delegation.jws` says. key: from the EAR's `cnf`. Raises TokenError."""
    return _read(verify_compact(token, key, DELEGATION_TYPE), Delegation)


def spki_digest(spki: bytes) -> str:
    """Return the SHA-256 of a DER SubjectPublicKeyInfo in hex."""
    return hashlib.sha256(spki).hexdigest()


def _read(payload: bytes, kind: type[_M]) -> _M:
    try:
        return msgspec.json.decode(payload, type=kind, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TokenError(f"the payload is not a {kind.__name__} of this release: {error}", _FIX) from None
