"""Secrets sealed under a key that a TEE derives for this software on this machine alone.

The form is that of docs/formats/cas-state.md, "Root key of a TEE". `sgx_sealing` and `sev_snp_sealing`
derive the keys.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from securetf.claims import Platform
from securetf.errors import AttesterError, MalformedEvidenceError
from securetf.evidence.tpm2_wire import Reader, number, sized

FIELD_LIMIT = 16  # fields of one blob
_MAGIC = b"STFTEES\x01"
_LABEL = b"securetf sealed to a tee v1\0"
_ID_SIZE, _NONCE_SIZE, _KEY_SIZE = 16, 12, 32  # bytes
_WORD_LIMIT, _SEALED_LIMIT = 128, 256  # bytes of a name or value, and of what is sealed
_FIX = (
    "start the software that sealed it, on its machine with its firmware; for others set up a new CAS "
    "(docs/platforms.md, 'The CAS itself on hardware')"
)


class TeeKey(Protocol):
    """What one platform derives."""

    @property
    def platform(self) -> Platform:
        """The platform that derives."""
        ...

    def bound_to(self) -> dict[str, str]:
        """Return what a key that is derived now depends on, by name.

        Raises:
            AttesterError: the platform does not say.
        """
        ...

    def differences(self, then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
        """Return in words why a key that depends on `then` cannot be derived `now`; empty if it can."""
        ...

    def derive(self, bound_to: Mapping[str, str]) -> bytearray:
        """Return the key that depends on this; the caller wipes it.

        Raises:
            AttesterError: the platform gave none.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Parts:
    head: bytes
    key_id: bytes
    bound_to: Mapping[str, str]
    nonce: bytes
    sealed: bytes


def seal(key: TeeKey, secret: bytes) -> bytes:
    """Return a blob that only this software on this machine opens. Not secret itself.

    Raises:
        AttesterError: the platform gave no key.
    """
    key_id, nonce, bound_to = os.urandom(_ID_SIZE), os.urandom(_NONCE_SIZE), key.bound_to()
    words = [word.encode() for pair in sorted(bound_to.items()) for word in pair]
    fields = number(len(bound_to), 1) + b"".join(sized(word) for word in words)
    head = _MAGIC + sized(key.platform.value.encode()) + key_id + fields
    with _cipher(key, key_id, bound_to, head) as cipher:
        return head + nonce + sized(cipher.encrypt(nonce, secret, head))


def unseal(key: TeeKey, blob: bytes) -> bytes:
    """Return the secret.

    Raises:
        AttesterError: sealed to other software, another machine or in another way, or altered; the message
        names what differs as far as that is known.
    """
    parts = _parse(blob, key.platform)
    now = key.bound_to()
    if set(parts.bound_to) != set(now):
        told = [", ".join(sorted(names)) for names in (parts.bound_to, now)]
        _refuse(f"is sealed to {told[0]}, and this start asks for {told[1]}")
    differing = key.differences(parts.bound_to, now)
    if differing:
        _refuse(f"is sealed to something else: {'; '.join(differing)}")
    with _cipher(key, parts.key_id, parts.bound_to, parts.head) as cipher:
        try:
            return cipher.decrypt(parts.nonce, parts.sealed, parts.head)
        except InvalidTag:
            _refuse("does not open: it was altered, or sealed on another machine")


def differing(then: Mapping[str, str], now: Mapping[str, str], name: str) -> list[str]:
    """Return in words that a field is not what it was; empty if it is."""
    return [] if then[name] == now[name] else [f"{name} was {then[name]}, is {now[name]}"]


def wipe(buffer: bytearray) -> None:
    """Overwrite a key."""
    buffer[:] = bytes(len(buffer))


@contextmanager
def _cipher(key: TeeKey, key_id: bytes, bound_to: Mapping[str, str], head: bytes) -> Iterator[AESGCM]:
    """Give the cipher of one blob; the TEE's key and what follows from it are wiped at its end."""
    material, own = key.derive(bound_to), bytearray(_KEY_SIZE)
    try:
        if not any(material):
            _refuse("cannot be had: the device gave a key of zeros")
        hkdf = HKDF(SHA256(), _KEY_SIZE, salt=key_id, info=_LABEL + head)
        hkdf.derive_into(material, own)
        yield AESGCM(own)
    finally:
        wipe(material)
        wipe(own)


def _parse(blob: bytes, platform: Platform) -> _Parts:
    try:
        reader = Reader(blob, "sealed secret")
        if reader.take("magic", len(_MAGIC)) != _MAGIC:
            reader.refuse("does not start with STFTEES and version 1")
        name = _word(reader, "platform")
        if name != platform.value:
            reader.refuse(f"is of {name}, and this is {platform.value}")
        key_id = reader.take("key id", _ID_SIZE)
        count = reader.number("count of fields", 1)
        if not 0 < count <= FIELD_LIMIT:
            reader.refuse(f"names {count} fields, expected 1 to {FIELD_LIMIT}")
        pairs = [(_word(reader, "field"), _word(reader, "value")) for _ in range(count)]
        if [field for field, _ in pairs] != sorted({field for field, _ in pairs}):
            reader.refuse("names a field twice, or not in order")
        head = blob[: reader.offset]
        nonce, sealed = reader.take("nonce", _NONCE_SIZE), reader.sized("secret", _SEALED_LIMIT)
        reader.end()
    except MalformedEvidenceError as error:
        raise AttesterError(error.problem, "restore the file from a backup") from None
    return _Parts(head, key_id, dict(pairs), nonce, sealed)


def _word(reader: Reader, part: str) -> str:
    raw = reader.sized(part, _WORD_LIMIT)
    if not raw.isascii() or not raw.decode().isprintable():
        reader.refuse(f"has a {part} that is not printable ASCII")
    return raw.decode()


def _refuse(problem: str) -> NoReturn:
    raise AttesterError(f"the secret {problem}", _FIX)
