"""The file-system shield: volumes opened with what the CAS granted, and mounted for one program.

A `Volume` comes from `open_volume`; a `MountSet` shows volumes at their paths in the mount namespace of the
thread that calls it and takes them down again in reverse order.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from securetf._core import (
    Entry,
    Finding,
    Mount,
    MountStats,
    PackStats,
    Volume,
    VolumeStatus,
    enter_mount_namespace,
    mount_tmpfs,
    unmount,
)
from securetf.errors import CommitFailedError, SecuretfError, UsageError
from securetf.provisioning import VolumeGrant

__all__ = [
    "Anchor",
    "Entry",
    "Finding",
    "Mount",
    "MountSet",
    "MountStats",
    "PackStats",
    "Volume",
    "VolumeStatus",
    "closing",
    "enter_mount_namespace",
    "mount_tmpfs",
    "open_volume",
    "unmount",
]


class Anchor(Protocol):
    """Where the one current root of a volume is kept: CAS or local trust file. Called from native threads."""

    def __call__(self, epoch: int, seq: int, root: bytes, new_seq: int, new_root: bytes, /) -> None:
        """Replace (seq, root) by the new pair if both and the epoch are current.

        Raises: FencedError, ConflictError, CasUnreachableError, another SecuretfError: nothing was replaced.
        """
        ...


def open_volume(directory: Path, grant: VolumeGrant, anchor: Anchor | None) -> Volume:
    """Open the ciphertext in `directory` at exactly the state that the grant names.

    A grant that is writable and still at sequence 0 creates the volume, and the directory. A writable grant
    needs an anchor. Raises what `_core.Volume.open` raises.
    """
    if grant.writable and anchor is None:
        raise UsageError(
            f"volume {grant.name} is to be written without an anchor", fix="pass the CAS's advance"
        )
    if not grant.writable and not directory.is_dir():
        raise UsageError(
            f"volume {grant.name} has no directory {directory}",
            fix="copy the volume's directory there, or name the right one with --volumes or --volume",
        )
    if grant.writable:
        directory.mkdir(parents=True, exist_ok=True)
    return Volume.open(
        str(directory),
        volume_id=grant.volume_id,
        key=grant.key,
        key_version=grant.key_version,
        epoch=grant.epoch,
        seq=grant.seq,
        root=grant.root,
        writable=grant.writable,
        freshness="group"
        if grant.writable
        else grant.freshness,  # an owner also writes what readers have pinned
        chunk_size=grant.chunk_size,
        anchor=anchor if grant.writable else None,
    )


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


class MountSet:
    """The volumes of one program at their paths. Of nested paths the longest wins, whatever the order given.

    `mount`, then `unmount` (any thread), then `commit`; as a context manager it does the last two.
    """

    def __init__(self, volumes: Mapping[Path, Volume]) -> None:
        """`volumes`: open volumes by absolute mount point, which must exist when its turn comes."""
        for path in volumes:
            if not path.is_absolute() or ".." in path.parts:
                raise UsageError(
                    f"mount point {path} is not absolute", fix="give a path that begins with / and has no .."
                )
        self._volumes = {path: volumes[path] for path in sorted(volumes, key=lambda path: path.parts)}
        self._mounts: list[Mount] = []

    def mount(self, *, threads: int = 4) -> None:
        """Mount each volume in the calling thread's namespace, outer paths first; undone if one fails."""
        try:
            for path, volume in self._volumes.items():
                self._mounts.append(volume.mount(str(path), threads=threads))
        except BaseException:
            self.unmount()
            raise

    def stats(self) -> dict[Path, MountStats]:
        """What each mount has served so far, by mount point."""
        return {Path(mount.path): mount.stats() for mount in self._mounts}

    def unmount(self) -> None:
        """Unmount in reverse order. All are tried; the first error is raised at the end."""
        errors: list[SecuretfError] = []
        while self._mounts:
            try:
                self._mounts.pop().unmount()
            except SecuretfError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def commit(self) -> None:
        """Close each volume: final commit and anchor. All are tried.

        Raises:
            CommitFailedError: names each volume whose last writes are not acknowledged, and why.
        """
        failed: list[str] = []
        fix = ""
        for path, volume in reversed(self._volumes.items()):
            try:
                volume.close()
            except SecuretfError as error:
                failed.append(f"{path}: {error.problem}")
                fix = fix or error.fix
        if failed:
            raise CommitFailedError("the last writes are not anchored: " + "; ".join(failed), fix=fix)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.unmount()
        finally:
            self.commit()
