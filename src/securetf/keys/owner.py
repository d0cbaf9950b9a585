"""An owner's Ed25519 key: one file, PKCS#8 PEM, readable by its owner alone. docs/keys.md"""

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from securetf.errors import KeyFileError

ALGORITHM = "ed25519"
_MAX_FILE_BYTES = 4096


class OwnerKey:
    """Signs an owner's requests. `key_id` is `ed25519:<64 hex digits of the public key>`."""

    algorithm = ALGORITHM

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key_id = f"ed25519:{private.public_key().public_bytes_raw().hex()}"

    def __repr__(self) -> str:
        return f"OwnerKey({self.key_id})"

    def sign(self, message: bytes) -> bytes:
        """Return 64 bytes, RFC 8032."""
        return self._private.sign(message)

    @classmethod
    def generate(cls) -> "OwnerKey":
        """Make a key that exists in memory only."""
        return cls(Ed25519PrivateKey.generate())

    def _pem(self) -> bytes:
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def create_owner_key(path: Path) -> OwnerKey:
    """Make a key and write it to a new file with mode 0600.

    Raises:
        KeyFileError: the file exists (it is never overwritten) or cannot be written.
    """
    key = OwnerKey.generate()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise KeyFileError(
            f"{path} exists already", "choose another name; keys are never overwritten"
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"{path} cannot be created: {error.strerror}", "choose a directory you may write to"
        ) from None
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, 0o600)
        stream.write(key._pem())
        stream.flush()
        os.fsync(descriptor)
    return key


def load_owner_key(path: Path) -> OwnerKey:
    """Read a key file that only its owner can read.

    Raises:
        KeyFileError: missing, not a regular file, not ours, readable or writable by others, or not Ed25519
        PKCS#8 PEM.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KeyFileError(
            f"{path} cannot be opened: {error.strerror}",
            "make a key with `securetf key new`, and name the file itself",
        ) from None
    try:
        _check_file(path, os.fstat(descriptor))
        raw = os.read(descriptor, _MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    try:
        private = load_pem_private_key(raw, password=None)
    except (ValueError, TypeError):
        private = None
    if len(raw) > _MAX_FILE_BYTES or not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(
            f"{path} holds no unencrypted Ed25519 key in PKCS#8 PEM", "make a key with `securetf key new`"
        )
    return OwnerKey(private)


def _check_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"{path} is not a regular file", "name the key file itself")
    if status.st_uid != os.geteuid():
        raise KeyFileError(
            f"{path} belongs to user {status.st_uid}, we are user {os.geteuid()}",
            "use a key file of your own",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o177:
        raise KeyFileError(
            f"{path} has mode {mode:04o}, others may use it; 0600 or stricter is expected",
            f"run `chmod 600 {path}`, and make a new key if others may have read this one",
        )
