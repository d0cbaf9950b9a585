"""AWS Nitro attestation documents: COSE_Sign1 (RFC 9052 section 4.2) around a CBOR map.

Source: AWS, "Nitro Enclaves Attestation Process" (aws-nitro-enclaves-nsm-api, docs/attestation_process.md),
sections 2.2.2 (COSE), 3.1 (the map) and 3.2.2.1 (syntactical validation).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NoReturn

from securetf.errors import MalformedEvidenceError
from securetf.evidence import cbor

DOCUMENT_SIZE_LIMIT = 16 * 1024  # bytes; the NSM's own answer buffer has 12 KiB
SIGNATURE_SIZE = 96  # bytes; ES384: r then s, big endian
PCR_SIZE = 48  # bytes; SHA-384
PCR_LIMIT = 32  # indices 0 to 31
CHAIN_LIMIT = 8  # certificates in `cabundle`; genuine documents have 4
CERTIFICATE_SIZE_LIMIT = 1024  # bytes of DER
NONCE_SIZE_LIMIT = 512  # bytes
DIGEST = "SHA384"
COSE_SIGN1_TAG = 18
PROTECTED = bytes.fromhex("a1013822")  # {1: -35}: algorithm ES384, and nothing else

_NAMES = (
    "module_id",
    "digest",
    "timestamp",
    "pcrs",
    "certificate",
    "cabundle",
    "public_key",
    "user_data",
    "nonce",
)
_OPTIONAL = {"public_key": 1024, "user_data": 512, "nonce": NONCE_SIZE_LIMIT}  # size limits in bytes
_FIX = "pass the document exactly as the Nitro Security Module gave it"


@dataclass(frozen=True, slots=True, kw_only=True)
class NitroDocument:
    """One document as received; nothing is authenticated until `verifier.nitro` returns.

    module_id: the enclave's name as AWS gives it. timestamp_ms: UTC, milliseconds since 1970. pcrs: index (0
    to 31) to SHA-384, locked ones only; 0 is the image, 1 kernel and boot, 2 the application, 3 the IAM role,
    4 the instance id. certificate: DER of the leaf, good for 3 hours. cabundle: DER, root first. public_key,
    user_data, nonce: chosen by the enclave; absent and empty mean the same. signature: 96 bytes over
    `signed_bytes`. payload: the exact map that was signed.
    """

    module_id: str
    timestamp_ms: int
    pcrs: Mapping[int, bytes]
    certificate: bytes = field(repr=False)
    cabundle: tuple[bytes, ...] = field(repr=False)
    public_key: bytes
    user_data: bytes
    nonce: bytes
    payload: bytes = field(repr=False)
    signature: bytes


def parse(raw: bytes) -> NitroDocument:
    """Read one document, with or without tag 18 before it.

    Raises:
        MalformedEvidenceError: naming the first field that is not as it must be.
    """
    if len(raw) > DOCUMENT_SIZE_LIMIT:
        _refuse(f"has {len(raw)} bytes, at most {DOCUMENT_SIZE_LIMIT} are read")
    item = cbor.decode(raw)
    if isinstance(item, cbor.Tagged):
        if item.tag != COSE_SIGN1_TAG:
            _refuse(f"has CBOR tag {item.tag}, expected 18 (COSE_Sign1) or none")
        item = item.value
    if not isinstance(item, tuple) or len(item) != 4:
        _refuse("is not a COSE_Sign1 array of 4 items")
    protected, unprotected, payload, signature = item
    if protected != PROTECTED:
        _refuse("has another protected header than {1: -35} (ES384)")
    if unprotected != {}:
        _refuse("has an unprotected header")
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_SIZE:
        _refuse(f"has a signature that is not {SIGNATURE_SIZE} bytes")
    if not isinstance(payload, bytes):
        _refuse("has no payload")
    return _parse_payload(payload, signature)


def encode(document: NitroDocument) -> bytes:
    """Return the canonical bytes, without tag. `parse(encode(document)) == document`."""
    return cbor.encode((PROTECTED, {}, document.payload, document.signature))


def signed_bytes(payload: bytes) -> bytes:
    """Return the Sig_structure over a payload, which `signature` covers (RFC 9052 section 4.4)."""
    return cbor.encode(("Signature1", PROTECTED, b"", payload))


def _parse_payload(payload: bytes, signature: bytes) -> NitroDocument:
    found = cbor.decode_with_open_maps(payload)
    if not isinstance(found, dict):
        _refuse("has a payload that is not a map")
    unknown = [name for name in found if name not in _NAMES]
    missing = [name for name in _NAMES if name not in found and name not in _OPTIONAL]
    if unknown or missing:
        _refuse(f"has unknown names {unknown} and lacks {missing}")
    module_id, timestamp = found["module_id"], found["timestamp"]
    if not isinstance(module_id, str) or not 0 < len(module_id) <= 256:
        _refuse("has a module_id that is not a text of 1 to 256 characters")
    if found["digest"] != DIGEST:
        _refuse(f"has digest {found['digest']!r}, expected {DIGEST}")
    if not isinstance(timestamp, int) or isinstance(timestamp, bool) or not 0 < timestamp < 1 << 47:
        _refuse("has a timestamp that is not in milliseconds since 1970")
    cabundle = found["cabundle"]
    if not isinstance(cabundle, tuple) or not 0 < len(cabundle) <= CHAIN_LIMIT:
        _refuse(f"has a cabundle that is not an array of 1 to {CHAIN_LIMIT} certificates")
    return NitroDocument(
        module_id=module_id,
        timestamp_ms=timestamp,
        pcrs=MappingProxyType(_pcrs(found["pcrs"])),
        certificate=_bytes("certificate", found["certificate"], 1, CERTIFICATE_SIZE_LIMIT),
        cabundle=tuple(_bytes("cabundle", one, 1, CERTIFICATE_SIZE_LIMIT) for one in cabundle),
        payload=payload,
        signature=signature,
        **{name: _optional(name, found.get(name), limit) for name, limit in _OPTIONAL.items()},
    )


def _pcrs(found: cbor.Item) -> dict[int, bytes]:
    if not isinstance(found, dict) or not 0 < len(found) <= PCR_LIMIT:
        _refuse(f"has pcrs that are not a map of 1 to {PCR_LIMIT}")
    pcrs: dict[int, bytes] = {}
    for index, value in found.items():
        if not isinstance(index, int) or not 0 <= index < PCR_LIMIT:
            _refuse(f"has a PCR with index {index!r}")
        pcrs[index] = _bytes(f"PCR {index}", value, PCR_SIZE, PCR_SIZE)
    return pcrs


def _optional(name: str, value: cbor.Item, limit: int) -> bytes:
    return b"" if value is None else _bytes(name, value, 0, limit)


def _bytes(name: str, value: cbor.Item, least: int, most: int) -> bytes:
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        _refuse(f"has a {name} that is not a byte string of {least} to {most} bytes")
    return value


def _refuse(problem: str) -> NoReturn:
    raise MalformedEvidenceError(f"the Nitro document {problem}", _FIX)
