"""Ephemeral volumes: scratch under a key that this process makes, keeps in memory and forgets.

Each has a new directory of its own, `ephemeral-…`, in the one that the operator names. What a killed process
left there is ciphertext without a key; the next one removes it. A directory that is in use is locked.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from securetf.errors import SecuretfError, VolumeIoError
from securetf.provisioning import VolumeGrant
from securetf.shields.filesystem import Volume, open_volume

PREFIX = "ephemeral-"
CHUNK_SIZE = 65536  # bytes


class Ephemeral:
    """One open ephemeral volume; `close` ends it and removes all of it."""

    def __init__(self, name: str, directory: Path) -> None:
        """Open a new one in `directory`, which is made if it is missing.

        Raises:
            VolumeIoError: the directory cannot be used. NoSpaceError, …: as `open_volume`.
        """
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise VolumeIoError(
                f"{directory} cannot hold the ephemeral volume {name}: {error.strerror}",
                f"name a directory with room: `--volume {name}=DIR`",
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # nobody takes the new directory for a leftover
            _remove_leftovers(directory)
            self.directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=directory))
            self.volume: Volume = open_volume(self.directory, _grant(name), _alone)
        except OSError as error:
            raise VolumeIoError(
                f"{directory} cannot hold the ephemeral volume {name}: {error.strerror}",
                f"name a writable directory: `--volume {name}=DIR`",
            ) from None
        finally:
            os.close(lock)

    def close(self) -> None:
        """Forget the key and remove the ciphertext. What could not be written any more is not missed."""
        try:
            self.volume.close()
        except SecuretfError:
            pass
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)


def _grant(name: str) -> VolumeGrant:
    return VolumeGrant(
        name=name,
        volume_id=secrets.token_bytes(16),
        key=secrets.token_bytes(32),
        key_version=1,
        epoch=1,
        seq=0,
        root=bytes(32),
        writable=True,
        freshness="group",
        mount_path="",
        chunk_size=CHUNK_SIZE,
    )


def _alone(_epoch: int, _seq: int, _root: bytes, _new_seq: int, _new_root: bytes, /) -> None:
    """Anchor nothing: nobody opens this volume again, and while it is open its state is in memory."""


def _remove_leftovers(directory: Path) -> None:
    for one in directory.glob(f"{PREFIX}*"):
        try:
            held = os.open(one, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # not a directory: not ours
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # in use
        else:
            shutil.rmtree(one, ignore_errors=True)
        finally:
            os.close(held)
