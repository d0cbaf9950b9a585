"""Signed requests: one fixed profile of HTTP Message Signatures (RFC 9421). docs/formats/wire-v1.md

Covered, in this order: "@method" "@path" "@query" "content-digest" "securetf-cas". The last one is a header
with the SHA-256 of the CAS's SubjectPublicKeyInfo, so that a request made for one CAS is worthless at
another; it stands in for "@authority", which a port forwarder may change. Anything but this profile is
refused, so nothing is interpreted twice.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from securetf.errors import NotAuthorisedError

COMPONENTS = '("@method" "@path" "@query" "content-digest" "securetf-cas")'
LABEL = "securetf"
TAG = "securetf-v1"
NONCE_BYTES = 16
HEADERS = ("content-digest", "securetf-cas", "signature-input", "signature")

_FIX = "sign the request with `securetf`, or as docs/formats/wire-v1.md says"
_INPUT = re.compile(
    re.escape(f"{LABEL}={COMPONENTS}")
    + r';created=(?P<created>[1-9][0-9]{0,11});keyid="(?P<keyid>[A-Za-z0-9:_-]{1,128})"'
    r';alg="(?P<alg>[a-z0-9-]{1,32})";nonce="(?P<nonce>[A-Za-z0-9_-]{22})";tag="securetf-v1"\Z'
)
_SIGNATURE = re.compile(re.escape(LABEL) + r"=:(?P<signature>[A-Za-z0-9+/]{86}==):\Z")
_OWNER_KEY_ID = re.compile(r"ed25519:[0-9a-f]{64}\Z")


class Signer(Protocol):
    """A private key that signs requests: `OwnerKey` or `WorkloadKey`."""

    @property
    def algorithm(self) -> str: ...
    @property
    def key_id(self) -> str: ...
    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """A request whose digest holds and whose signature is not checked yet; call `verify`.

    created: Unix seconds by the signer's clock. nonce: 22 characters, chosen by the signer for this request.
    cas: SHA-256 in hex of the key of the CAS for which the request was made.
    """

    key_id: str
    algorithm: str
    created: int
    nonce: str
    cas: str
    base: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def verify(self, key: EllipticCurvePublicKey | None = None) -> None:
        """Check the signature: by `key` for a workload, by the key that `key_id` spells out for an owner.

        Raises:
            NotAuthorisedError: algorithm and key do not fit, or the signature does not hold.
        """
        try:
            if key is None:
                _owner_key(self.key_id, self.algorithm).verify(self.signature, self.base)
            else:
                if self.algorithm != "ecdsa-p256-sha256":
                    raise NotAuthorisedError(
                        f"algorithm {self.algorithm} does not fit the attested key", _FIX
                    )
                r, s = (int.from_bytes(half, "big") for half in (self.signature[:32], self.signature[32:]))
                key.verify(encode_dss_signature(r, s), self.base, ECDSA(SHA256()))
        except InvalidSignature:
            raise NotAuthorisedError(
                f"the signature of {self.key_id} does not hold",
                "sign method, path, body and CAS with the key that the request names",
            ) from None


def sign(
    signer: Signer, *, method: str, target: str, body: bytes, cas: str, created: int, nonce: bytes
) -> dict[str, str]:
    """Return the headers to add. target: path and query. nonce: 16 random bytes."""
    parameters = (
        f'{COMPONENTS};created={created};keyid="{signer.key_id}"'
        f';alg="{signer.algorithm}";nonce="{_b64url(nonce)}";tag="{TAG}"'
    )
    digest = _content_digest(body)
    signature = signer.sign(_base(method, target, digest, cas, parameters))
    return {
        "content-digest": digest,
        "securetf-cas": cas,
        "signature-input": f"{LABEL}={parameters}",
        "signature": f"{LABEL}=:{base64.b64encode(signature).decode()}:",
    }


def parse(*, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> SignedRequest:
    """Read the signature of a request and check its content digest.

    headers: lower-case names; a header that came more than once must not be in it.

    Raises:
        NotAuthorisedError: unsigned, not of the profile, or the body is not the one that was signed.
    """
    values = [headers.get(name) for name in HEADERS]
    missing = [name for name, value in zip(HEADERS, values, strict=True) if value is None]
    if missing:
        raise NotAuthorisedError(f"the request is not signed: {', '.join(missing)} missing or repeated", _FIX)
    digest, cas, signature_input, signature = (value or "" for value in values)
    fields, value = _INPUT.match(signature_input), _SIGNATURE.match(signature)
    if fields is None or value is None:
        raise NotAuthorisedError("the signature is not of the profile that this CAS reads", _FIX)
    if digest != _content_digest(body):
        raise NotAuthorisedError("the body is not the one that was signed (content-digest differs)", _FIX)
    return SignedRequest(
        key_id=fields["keyid"],
        algorithm=fields["alg"],
        created=int(fields["created"]),
        nonce=fields["nonce"],
        cas=cas,
        base=_base(method, target, digest, cas, signature_input.removeprefix(f"{LABEL}=")),
        signature=base64.b64decode(value["signature"], validate=True),
    )


def is_owner_key_id(text: str) -> bool:
    """Tell whether this is `ed25519:<64 lower-case hex digits>`."""
    return _OWNER_KEY_ID.match(text) is not None


def _owner_key(key_id: str, algorithm: str) -> Ed25519PublicKey:
    if algorithm != "ed25519" or not is_owner_key_id(key_id):
        raise NotAuthorisedError(f"{key_id} with {algorithm} is not an owner's key", _FIX)
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key_id.removeprefix("ed25519:")))


def _base(method: str, target: str, digest: str, cas: str, parameters: str) -> bytes:
    path, _, query = target.partition("?")
    return (
        f'"@method": {method}\n"@path": {path}\n"@query": ?{query}\n"content-digest": {digest}\n'
        f'"securetf-cas": {cas}\n"@signature-params": {parameters}'
    ).encode()


def _content_digest(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def _b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
