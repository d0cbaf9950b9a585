"""Keys of the store, sealed rows, terms of the multiset hash, and the head."""

import hashlib
import hmac
import os
from dataclasses import dataclass, field

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from securetf.errors import CasStateError

KEY_SIZE = 32  # bytes
_SALT_SIZE = 16  # bytes; a fresh AES key per sealing, so the bound on random nonces per key is never near
_NONCE_SIZE = 12  # bytes; NIST SP 800-38D
MODULUS = 1 << 256

_RESTORE = "restore the database that belongs to this anchor and root key, or stop whoever changes it"


class Head(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the whole state is known by.

    counter: number of commits. rows, accumulator: how many rows there are and the sum of their terms (32
    bytes).
    log_length, log_digest: length and chain digest of the log. predecessor: digest of the head before this
    one.
    """

    counter: int
    rows: int
    accumulator: bytes
    log_length: int
    log_digest: bytes
    predecessor: bytes

    def digest(self) -> bytes:
        """Return SHA-256 over the fixed-size fields in order; this is what is anchored."""
        return hashlib.sha256(
            b"securetf cas head v1\0"
            + self.counter.to_bytes(8, "big")
            + self.rows.to_bytes(8, "big")
            + self.accumulator
            + self.log_length.to_bytes(8, "big")
            + self.log_digest
            + self.predecessor
        ).digest()


GENESIS = Head(
    counter=0, rows=0, accumulator=bytes(32), log_length=0, log_digest=bytes(32), predecessor=bytes(32)
)


@dataclass(frozen=True, slots=True)
class StoreKeys:
    """The keys that follow from the store's master key. None of them is ever written unsealed."""

    seal: bytes = field(repr=False)
    multiset: bytes = field(repr=False)

    @classmethod
    def derive(cls, master: bytes, store_id: bytes) -> "StoreKeys":
        """Derive both keys by HMAC-SHA256 (HKDF-Expand of one block, RFC 5869) from a uniform key."""
        return cls(*(_derive(master, label + store_id) for label in (b"seal\0", b"multiset\0")))

    def seal_row(self, table: str, key: bytes, version: int, plain: bytes) -> bytes:
        """Return salt ‖ nonce ‖ ciphertext ‖ tag."""
        return _seal(self.seal, plain, _identity(table, key, version))

    def open_row(self, table: str, key: bytes, version: int, sealed: bytes) -> bytes:
        """Open one row. Raises CasStateError when it is not this row at this version."""
        return _open(self.seal, sealed, _identity(table, key, version), f"row {table}/{_show(key)}")

    def term(self, table: str, key: bytes, version: int, sealed: bytes) -> int:
        """Return the row's share of the accumulator: a keyed hash, so that nobody makes rows cancel out."""
        message = _identity(table, key, version) + hashlib.sha256(sealed).digest()
        return int.from_bytes(hmac.digest(self.multiset, message, "sha256"), "big")

    def seal_head(self, head: Head) -> bytes:
        """Seal the head; its counter is the version that it is bound to."""
        return self.seal_row("head", b"", 0, msgspec.json.encode(head))

    def open_head(self, sealed: bytes) -> Head:
        """Open the head. Raises CasStateError when it is not ours."""
        return msgspec.json.decode(self.open_row("head", b"", 0, sealed), type=Head, strict=True)


def wrap_master(root_key: bytes, store_id: bytes, root_version: int, master: bytes) -> bytes:
    """Seal the store's master key under one version of the CAS's root key."""
    return _seal(root_key, master, _identity("master", store_id, root_version))


def unwrap_master(root_key: bytes, store_id: bytes, root_version: int, wrapped: bytes) -> bytes:
    """Open the master key. Raises CasStateError when the root key is another one."""
    return _open(root_key, wrapped, _identity("master", store_id, root_version), "the store's master key")


def _derive(key: bytes, info: bytes) -> bytes:
    return hmac.digest(key, b"securetf cas store v1 " + info + b"\x01", "sha256")


def _identity(table: str, key: bytes, version: int) -> bytes:
    name = table.encode()
    return (
        len(name).to_bytes(2, "big") + name + len(key).to_bytes(4, "big") + key + version.to_bytes(8, "big")
    )


def _seal(key: bytes, plain: bytes, aad: bytes) -> bytes:
    salt, nonce = os.urandom(_SALT_SIZE), os.urandom(_NONCE_SIZE)
    return salt + nonce + AESGCM(_derive(key, b"row\0" + salt)).encrypt(nonce, plain, aad)


def _open(key: bytes, sealed: bytes, aad: bytes, what: str) -> bytes:
    salt, nonce = sealed[:_SALT_SIZE], sealed[_SALT_SIZE : _SALT_SIZE + _NONCE_SIZE]
    try:
        cipher = AESGCM(_derive(key, b"row\0" + salt))
        return cipher.decrypt(nonce, sealed[_SALT_SIZE + _NONCE_SIZE :], aad)
    except (InvalidTag, ValueError):
        raise CasStateError(
            f"{what} does not open: altered, moved, or under another root key", _RESTORE
        ) from None


def _show(key: bytes) -> str:
    return key.decode() if key.isascii() and key.decode().isprintable() else key.hex()
