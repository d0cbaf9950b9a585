"""A local trust file: key and freshness of one volume without a CAS, for an owner's laptop and for tests.

It is weaker than a CAS, and says so in itself: whoever reads the file reads the volume, and whoever can put
an older copy of the file *and* of the volume back rolls it back unnoticed.
"""

import base64
import binascii
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from securetf.errors import ConflictError, FencedError, KeyFileError, UsageError
from securetf.provisioning import Freshness, VolumeGrant

WARNING = (
    "LOCAL TRUST FILE, NOT A CAS: it holds the key of the volume, and an older copy of this file together "
    "with an older copy of the volume is not noticed. Keep it secret, off the storage that holds the volume."
)
DEFAULT_CHUNK_SIZE = 65536  # bytes
_ZERO_ROOT = bytes(32)
_MAX_SIZE = 16384  # bytes
_MAX_EPOCH = 2**32 - 1

Protection = Literal["encrypted", "authenticated"]
_Counter = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The JSON in the file; volume_id and root are hexadecimal, key is base64."""

    format: Literal["securetf-local-trust-1"] = "securetf-local-trust-1"
    warning: str = WARNING
    volume_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    key: Annotated[str, msgspec.Meta(min_length=44, max_length=44)]
    key_version: Annotated[int, msgspec.Meta(ge=1, lt=2**32)] = 1
    key_since: _Counter | msgspec.UnsetType = msgspec.UNSET  # absent: from the first epoch on
    older_key: Annotated[str, msgspec.Meta(min_length=44, max_length=44)] | msgspec.UnsetType = msgspec.UNSET
    kept_since: Annotated[int, msgspec.Meta(ge=0, le=_MAX_EPOCH)] = 0
    epoch: Annotated[int, msgspec.Meta(ge=0, le=_MAX_EPOCH)] = 0
    seq: _Counter = 0
    root: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] = _ZERO_ROOT.hex()
    chunk_size: Annotated[int, msgspec.Meta(ge=4096, le=1 << 20)] = DEFAULT_CHUNK_SIZE
    protection: Protection = "encrypted"


class LocalTrust:
    """One local trust file. `advance` is the anchor of the volume that was opened with `grant`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls, path: Path, *, chunk_size: int = DEFAULT_CHUNK_SIZE, protection: Protection = "encrypted"
    ) -> "LocalTrust":
        """Make a new file, mode 0600, with a random key and volume id. chunk_size in bytes, a power of two.

        Raises:
            KeyFileError: the file exists already, or cannot be written.
            UsageError: the chunk size is not one of 4096 … 1048576.
        """
        if not 4096 <= chunk_size <= 1 << 20 or chunk_size & (chunk_size - 1):
            raise UsageError(
                f"chunk size {chunk_size} is not a power of two from 4096 to 1048576", fix="use 65536"
            )
        content = _File(
            volume_id=secrets.token_bytes(16).hex(),
            key=_new_key(),
            chunk_size=chunk_size,
            protection=protection,
        )
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise KeyFileError(
                f"trust file {path} exists already",
                fix="name another file; it may be the only key of a volume",
            ) from error
        except OSError as error:
            raise KeyFileError(
                f"trust file {path} cannot be made: {error.strerror}", fix="name another path"
            ) from error
        with os.fdopen(descriptor, "wb") as file:
            file.write(_encode(content))
            file.flush()
            os.fsync(file.fileno())
        return cls(path)

    def grant(self, *, writable: bool, name: str = "local", freshness: Freshness = "group") -> VolumeGrant:
        """What a CAS would grant: for writing with the epoch raised durably, for reading as it stands."""
        with self._locked():
            content = self._read()
            if writable:
                content = msgspec.structs.replace(content, epoch=self._next_epoch(content))
                self._write(content)
        return VolumeGrant(
            name=name,
            volume_id=bytes.fromhex(content.volume_id),
            key=_key(self.path, content.key),
            key_version=content.key_version,
            key_since=content.key_since or 0,
            older_key=_key(self.path, content.older_key) if content.older_key else None,
            kept_since=content.kept_since,
            epoch=content.epoch,
            seq=content.seq,
            root=bytes.fromhex(content.root),
            writable=writable,
            freshness=freshness,
            mount_path="",
            chunk_size=content.chunk_size,
            protection=content.protection,
        )

    def remove_unused(self) -> None:
        """Remove the file, unless a state of the volume is anchored in it: that needs the key."""
        with self._locked():
            if self._read().seq == 0:
                self.path.unlink()

    def advance(self, epoch: int, seq: int, root: bytes, new_seq: int, new_root: bytes) -> None:
        """Compare and swap, durably: as `shields.filesystem.Anchor`."""
        with self._locked():
            content = self._read()
            _check_epoch(content, epoch)
            if (content.seq, bytes.fromhex(content.root)) != (seq, root):
                raise ConflictError(
                    f"trust file {self.path} is at sequence {content.seq}, this writer builds on {seq}",
                    fix="open the volume anew",
                )
            self._write(msgspec.structs.replace(content, seq=new_seq, root=new_root.hex()))

    def accept_root(self, seen: VolumeGrant, seq: int, root: bytes) -> None:
        """Let the volume, which was seen at the state of a grant, stand at the older (seq, root).

        Raises:
            ConflictError: it is not there any more.
        """
        with self._locked():
            content = self._read()
            if (content.seq, bytes.fromhex(content.root)) != (seen.seq, seen.root):
                raise ConflictError(
                    f"trust file {self.path} is at sequence {content.seq}, not {seen.seq} any more",
                    fix="something wrote to the volume meanwhile: look at it again before going back",
                )
            epoch = self._next_epoch(content)
            self._write(
                msgspec.structs.replace(content, epoch=epoch, kept_since=epoch, seq=seq, root=root.hex())
            )

    def begin_rekey(self) -> int:
        """Make the next key, for the epochs to come, unless one is on its way; return its version.

        Raises:
            ConflictError: the volume was never written.
        """
        with self._locked():
            content = self._read()
            if content.seq == 0:
                raise ConflictError(
                    f"the volume of {self.path} was never written", fix="pack it first; its key is new"
                )
            if not content.older_key:
                content = msgspec.structs.replace(
                    content,
                    key=_new_key(),
                    key_version=content.key_version + 1,
                    key_since=content.epoch + 1,
                    older_key=content.key,
                )
                self._write(content)
            return content.key_version

    def end_rekey(self, epoch: int, seq: int) -> None:
        """Forget the older key: the writer of `epoch` says that nothing from its state `seq` on needs it.

        Raises:
            FencedError: as `advance`. ConflictError: that state is not anchored, or older than the new key.
        """
        with self._locked():
            content = self._read()
            _check_epoch(content, epoch)
            if content.seq < seq or epoch < (content.key_since or 0):
                raise ConflictError(
                    f"trust file {self.path} is at sequence {content.seq}, with a key from epoch "
                    f"{content.key_since or 0} on; sealed anew was {seq} in epoch {epoch}",
                    fix="re-key the current state: `securetf volume rekey`",
                )
            self._write(msgspec.structs.replace(content, older_key=msgspec.UNSET))

    def _next_epoch(self, content: _File) -> int:
        if content.epoch == _MAX_EPOCH:
            raise KeyFileError(f"trust file {self.path} has used up its epochs", fix="pack into a new volume")
        return content.epoch + 1

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time: a lock on the directory, because the file is replaced by renaming."""
        try:
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
        finally:
            os.close(directory)

    def _read(self) -> _File:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        with os.fdopen(descriptor, "rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise KeyFileError(
                    f"trust file {self.path} is accessible to others", fix=f"chmod 600 {self.path}"
                )
            raw = file.read(_MAX_SIZE + 1)
        try:
            if len(raw) > _MAX_SIZE:
                raise msgspec.ValidationError(f"larger than {_MAX_SIZE} bytes")
            return msgspec.json.decode(raw, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise KeyFileError(
                f"{self.path} is not a local trust file of this release: {error}",
                fix="name the file that `securetf volume create` made",
            ) from error

    def _write(self, content: _File) -> None:
        temporary = self.path.with_name(self.path.name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_encode(content))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _encode(content: _File) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def _check_epoch(content: _File, epoch: int) -> None:
    if content.epoch != epoch:
        raise FencedError(
            f"the volume was opened for writing again: epoch {content.epoch}, here {epoch}",
            fix="stop the other writer, then open the volume anew",
        )


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def _key(path: Path, text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise KeyFileError(f"the key in trust file {path} is not base64", fix="restore the file") from error
    if len(key) != 32:
        raise KeyFileError(
            f"the key in trust file {path} has {len(key)} bytes, expected 32", fix="restore the file"
        )
    return key


def _unreadable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(
        f"trust file {path} cannot be read: {error.strerror}",
        fix="name the file that `securetf volume create` made, and run as its owner",
    )
