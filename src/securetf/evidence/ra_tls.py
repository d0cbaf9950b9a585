"""The interoperable RA-TLS certificate: Evidence in an X.509 extension (CCC Attestation SIG, "Interoperable
RA-TLS"; extension 2.23.133.5.4.9 of TCG DICE, CBOR tag 60000).

It is for a client's first look at a server. Alone it is open to replay and relay: nothing is released on it.
The certificate's own signature is not looked at, it is self-signed; what counts is that the Evidence names
its key. `cryptography` refuses Gramine's certificates (an algorithm with a NULL parameter), so the DER is
walked here.
"""

import hashlib
import hmac
from dataclasses import dataclass, field

from securetf.claims import REPORT_DATA_SIZE
from securetf.errors import BindingError, MalformedEvidenceError
from securetf.evidence import cbor

SIZE_LIMIT = 64 * 1024  # bytes of DER; genuine ones have 5 to 10 KB
TAG_TEE_EVIDENCE = 60000  # of an array: Evidence, claims
# IANA, "Named Information Hash Algorithm Registry"
_HASHES = {1: hashlib.sha256, 7: hashlib.sha384, 8: hashlib.sha512}
_OID = bytes.fromhex("0606678105050409")
_SEQUENCE, _OCTET_STRING, _EXTENSIONS = 0x30, 0x04, 0xA3
_CHILD_LIMIT = 64
_FIX = "pass the certificate exactly as the server gave it"


@dataclass(frozen=True, slots=True, kw_only=True)
class RaTlsCertificate:
    """What a certificate says; nothing is authenticated until the Evidence is, with `expected_report_data`.

    spki: DER of the certificate's own key. evidence: raw, its kind is for the reader to find out. claims: the
    CBOR map as it was hashed. pubkey_hash: over the key that the Evidence vouches for, by `hash_algorithm`.
    nonce: None if the certificate has none, and then it may be old.
    """

    spki: bytes = field(repr=False)
    evidence: bytes = field(repr=False)
    claims: bytes = field(repr=False)
    hash_algorithm: int
    pubkey_hash: bytes
    nonce: bytes | None


def parse(raw: bytes) -> RaTlsCertificate:
    """Read one certificate in DER.

    Raises:
        MalformedEvidenceError: naming the first thing that is not as it must be.
    """
    if len(raw) > SIZE_LIMIT:
        raise MalformedEvidenceError(f"certificate has {len(raw)} bytes, at most {SIZE_LIMIT} are read", _FIX)
    parts = _children(_only(raw, "certificate"))
    if len(parts) != 3 or parts[0][:1] != bytes([_SEQUENCE]):
        raise MalformedEvidenceError("the certificate has not three parts", _FIX)
    fields = _children(parts[0])
    if len(fields) < 8 or fields[0][0] != 0xA0 or fields[-1][0] != _EXTENSIONS:
        raise MalformedEvidenceError("the certificate is not of X.509 version 3 with extensions", _FIX)
    evidence, claims = _extension(fields[-1])
    algorithm, digest, nonce = _claims(claims)
    return RaTlsCertificate(
        spki=fields[6],
        evidence=evidence,
        claims=claims,
        hash_algorithm=algorithm,
        pubkey_hash=digest,
        nonce=nonce,
    )


def expected_report_data(certificate: RaTlsCertificate, *, nonce: bytes) -> bytes:
    """Return the 64 bytes that the Evidence must carry, if it names the certificate's key and this nonce.

    Raises:
        BindingError: another key, or no nonce or another one.
    """
    if not nonce or certificate.nonce is None or not hmac.compare_digest(certificate.nonce, nonce):
        found = "no nonce" if certificate.nonce is None else "another nonce"
        raise BindingError(f"the certificate has {found}: it may be old", "ask the server for a new one")
    return expected_report_data_of_any_age(certificate)


def expected_report_data_of_any_age(certificate: RaTlsCertificate) -> bytes:
    """As `expected_report_data`, for certificates without a nonce: a replayed one passes too.

    Raises:
        BindingError: the Evidence names another key.
    """
    digest = _HASHES[certificate.hash_algorithm](certificate.spki).digest()
    if not hmac.compare_digest(digest, certificate.pubkey_hash):
        raise BindingError(
            "the Evidence in the certificate is for another key",
            "do not use this server: it shows Evidence of others",
        )
    return hashlib.sha256(certificate.claims).digest().ljust(REPORT_DATA_SIZE, b"\0")


def _extension(extensions: bytes) -> tuple[bytes, bytes]:
    found = []
    for extension in _children(_only(_content(extensions), "list of extensions")):
        parts = _children(extension)
        if parts and parts[0] == _OID:
            found.append(parts[-1])
    if len(found) != 1 or found[0][0] != _OCTET_STRING:
        raise MalformedEvidenceError(
            f"the certificate has {len(found)} extensions 2.23.133.5.4.9, expected one",
            "use a server that shows interoperable RA-TLS certificates",
        )
    item = cbor.decode(_content(found[0]))
    match item:
        case cbor.Tagged(tag=60000, value=(bytes(evidence), bytes(claims))):
            return evidence, claims
    raise MalformedEvidenceError("the extension is not tag 60000 around Evidence and claims", _FIX)


def _claims(raw: bytes) -> tuple[int, bytes, bytes | None]:
    claims = cbor.decode(raw)
    if not isinstance(claims, dict) or not isinstance(entry := claims.get("pubkey-hash"), bytes):
        raise MalformedEvidenceError("the claims have no pubkey-hash", _FIX)
    nonce = claims.get("nonce")
    if nonce is not None and not isinstance(nonce, bytes):
        raise MalformedEvidenceError("the nonce among the claims is not a byte string", _FIX)
    match cbor.decode(entry):
        case (int(algorithm), bytes(digest)) if algorithm in _HASHES:
            if len(digest) == _HASHES[algorithm]().digest_size:
                return algorithm, digest, nonce
    raise MalformedEvidenceError("pubkey-hash is not a known hash algorithm and a digest of its size", _FIX)


def _only(der: bytes, what: str) -> bytes:
    """Check that `der` is one SEQUENCE and nothing else."""
    head, size = _size(der, 0)
    if der[0] != _SEQUENCE or head + size != len(der):
        raise MalformedEvidenceError(f"the {what} is not exactly one DER sequence", _FIX)
    return der


def _children(der: bytes) -> list[bytes]:
    content, parts, at = _content(der), [], 0
    while at < len(content):
        head, size = _size(content, at)
        parts.append(content[at : at + head + size])
        at += head + size
        if at > len(content) or len(parts) > _CHILD_LIMIT:
            raise MalformedEvidenceError("a DER element is too long, or there are too many", _FIX)
    return parts


def _content(der: bytes) -> bytes:
    head, size = _size(der, 0)
    return der[head : head + size]


def _size(der: bytes, at: int) -> tuple[int, int]:
    """Return the sizes of head and content of the element at `at`: one-byte tag, shortest length."""
    first = der[at + 1] if len(der) > at + 1 else 0x80
    count = first & 0x7F if first & 0x80 else 0
    length = int.from_bytes(der[at + 2 : at + 2 + count], "big") if count else first
    shortest = first < 0x80 or (0 < count <= 4 and length >= 0x80 and length >> 8 * (count - 1))
    if not shortest or der[at] & 0x1F == 0x1F or at + 2 + count > len(der):
        raise MalformedEvidenceError("a DER element has a length or tag that certificates do not use", _FIX)
    return 2 + count, length
