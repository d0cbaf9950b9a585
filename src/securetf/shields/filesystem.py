"""The file-system shield: volumes opened with what the CAS granted, and mounted for one program.

A `Volume` comes from `open_volume`. `Volume.mount` shows it in the mount namespace of the calling thread; of
nested paths mount the outer first, so that the longest wins, and unmount in reverse order.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from securetf._core import (
    Change,
    Commit,
    Compacted,
    Entry,
    Finding,
    Mount,
    MountStats,
    PackStats,
    Volume,
    VolumeStatus,
    bind_mount,
    cover_file,
    enter_mount_namespace,
    lay_out,
    memory_needed,
    mount_tmpfs,
    pack_tar,
    read_part,
    rekey,
    take_back,
    unmount,
    unpack_tar,
)
from securetf.errors import SecuretfError, UsageError
from securetf.provisioning import VolumeGrant
from securetf.shields.buckets import Bucket, Place

__all__ = [
    "Anchor",
    "Change",
    "Commit",
    "Compacted",
    "Entry",
    "Finding",
    "Mount",
    "MountStats",
    "PackStats",
    "Volume",
    "VolumeStatus",
    "bind_mount",
    "closing",
    "cover_file",
    "enter_mount_namespace",
    "lay_out",
    "memory_needed",
    "mount_tmpfs",
    "open_volume",
    "pack_tar",
    "read_part",
    "rekey",
    "rekey_until",
    "salvage_volume",
    "take_back",
    "unmount",
    "unpack_tar",
]


class Anchor(Protocol):
    """Where the one current root of a volume is kept: CAS or local trust file. Called from native threads."""

    def __call__(self, epoch: int, seq: int, root: bytes, new_seq: int, new_root: bytes, /) -> int | None:
        """Replace (seq, root) by the new pair if both and the epoch are current.

        Returns for how many seconds readers have leases on the states before, if any have.

        Raises: FencedError, ConflictError, CasUnreachableError, another SecuretfError: nothing was replaced.
        """
        ...


def open_volume(directory: Place, grant: VolumeGrant, anchor: Anchor | None) -> Volume:
    """Open the ciphertext in `directory`, or in a bucket, at exactly the state that the grant names.

    A grant that is writable and still at sequence 0 creates the volume, and the directory. A writable grant
    needs an anchor. Raises what `_core.Volume.open` raises.
    """
    if grant.writable and anchor is None:
        raise UsageError(
            f"volume {grant.name} is to be written without an anchor", fix="pass the CAS's advance"
        )
    if isinstance(directory, Bucket):
        directory.check_protection(grant.protection)
    else:
        _prepare(directory, grant)
    return Volume.open(
        directory if isinstance(directory, Bucket) else str(directory),
        volume_id=grant.volume_id,
        key=grant.key,
        key_version=grant.key_version,
        key_since=grant.key_since,
        older_key=grant.older_key,
        kept_since=grant.kept_since,
        epoch=grant.epoch,
        seq=grant.seq,
        root=grant.root,
        writable=grant.writable,
        # An owner also writes what readers have pinned.
        freshness="group" if grant.writable and grant.freshness in ("pinned", "follow") else grant.freshness,
        chunk_size=grant.chunk_size,
        protection=grant.protection,
        anchor=anchor if grant.writable else None,
    )


def _prepare(directory: Path, grant: VolumeGrant) -> None:
    if not grant.writable and not directory.is_dir():
        raise UsageError(
            f"volume {grant.name} has no directory {directory}",
            fix="copy the volume's directory there, or name the right one with --volumes or --volume",
        )
    if grant.writable:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the directory {directory} of volume {grant.name} cannot be made: {error.strerror}",
                fix="name another directory, or make room and the right to write there",
            ) from error


def salvage_volume(directory: Path, grant: VolumeGrant) -> tuple[Volume, str | None]:
    """Open what a damaged volume still holds; also why it is not the state of the grant, if it is not."""
    if not directory.is_dir():
        raise UsageError(f"volume {grant.name} has no directory {directory}", fix="name the damaged copy")
    return Volume.salvage(
        str(directory),
        volume_id=grant.volume_id,
        key=grant.key,
        key_version=grant.key_version,
        key_since=grant.key_since,
        older_key=grant.older_key,
        seq=grant.seq,
        root=grant.root,
        chunk_size=grant.chunk_size,
        protection=grant.protection,
    )


class _StoppedError(Exception):
    """The volume is about to be closed."""


def rekey_until(volume: Volume, stopped: Callable[[], bool]) -> tuple[int, int] | None:
    """Seal everything anew under the newest key.

    Return epoch and sequence of the state from which on nothing needs the older key; None: stopped.
    """

    def observe(_files: int, _size: int) -> None:
        if stopped():
            raise _StoppedError

    try:
        _, complete = rekey(volume, observe)
    except _StoppedError:
        return None
    status = volume.status()
    return (status.epoch, status.seq) if complete else None


@contextmanager
def closing(volume: Volume) -> Iterator[Volume]:
    """Close the volume at the end; a failed final commit is raised unless another error is on its way."""
    try:
        yield volume
    except BaseException:
        try:
            volume.close()
        except SecuretfError as error:
            error.add_note("while another error was being handled")
        raise
    volume.close()
