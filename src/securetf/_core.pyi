"""The native module: volumes, mounts, a thread's mount namespace, the network shield, TLS. Only
`securetf.shields` and `securetf.tls` import it.

Every call that can block releases the GIL. Errors are the classes of `securetf.errors`, with problem and fix.
Paths inside a volume are '/'-separated, relative to its root; "" and "/" are the root.
"""

from collections.abc import Callable
from typing import Literal, final

from securetf._core_network import Denial as Denial
from securetf._core_network import NetworkKey as NetworkKey
from securetf._core_network import NetworkListener as NetworkListener
from securetf._core_network import NetworkShield as NetworkShield
from securetf._core_tls import TlsServer as TlsServer
from securetf._core_tls import TlsSession as TlsSession
from securetf.shields.buckets import Bucket

_Progress = Callable[[int, int], None] | None

@final
class PackStats:
    """What went into a volume, or came out of it. `bytes`: contents that were copied; `kept`: files whose
    contents were there already.
    """

    @property
    def files(self) -> int: ...
    @property
    def directories(self) -> int: ...
    @property
    def symlinks(self) -> int: ...
    @property
    def hard_links(self) -> int: ...
    @property
    def specials(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def kept(self) -> int: ...

@final
class Entry:
    """One name in a directory. `mode`: permission bits; `size` in bytes; `target` only for symlinks."""

    @property
    def name(self) -> str: ...
    @property
    def kind(
        self,
    ) -> Literal["file", "directory", "symlink", "fifo", "socket", "character device", "block device"]: ...
    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def target(self) -> str | None: ...

@final
class Finding:
    """What does not authenticate: `path` in the volume, or of the object in the store, and what is wrong."""
    @property
    def path(self) -> str: ...
    @property
    def what(self) -> str: ...

@final
class VolumeStatus:
    """The state that is anchored, and sizes. `root`: 32 bytes; `dirty_bytes`: written, not yet committed."""

    @property
    def epoch(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def root(self) -> bytes: ...
    @property
    def files(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def dead_bytes(self) -> int: ...
    @property
    def dirty_bytes(self) -> int: ...

@final
class Commit:
    """One state in the chain of roots. `root`: 32 bytes; `time_ns`: of the mount or of the newest change in
    it, Unix time, None when it has neither; `mount`: a writer began with it; `snapshot`: nothing before it is
    held.
    """

    @property
    def seq(self) -> int: ...
    @property
    def root(self) -> bytes: ...
    @property
    def epoch(self) -> int: ...
    @property
    def time_ns(self) -> int | None: ...
    @property
    def inodes(self) -> int: ...
    @property
    def names(self) -> int: ...
    @property
    def journal_bytes(self) -> int: ...
    @property
    def mount(self) -> bool: ...
    @property
    def snapshot(self) -> bool: ...

@final
class Compacted:
    """What compaction did: segments that are gone, and bytes."""

    @property
    def segments(self) -> int: ...
    @property
    def moved_bytes(self) -> int: ...
    @property
    def dead_before(self) -> int: ...
    @property
    def dead_after(self) -> int: ...

@final
class Change:
    """A path that differs between two states; "content" is also another target or kind of thing, "unreadable"
    contents of the same size that are not held any more, or damaged.
    """

    @property
    def path(self) -> str: ...
    @property
    def kind(self) -> Literal["added", "removed", "content", "attributes", "unreadable"]: ...

@final
class MountStats:
    """Totals since the mount began; `integrity_errors` counts answers EBADMSG and EUCLEAN to the program,
    `stale_errors` those ESTALE, and those before it, from states that a newer one followed.
    """

    @property
    def reads(self) -> int: ...
    @property
    def bytes_read(self) -> int: ...
    @property
    def writes(self) -> int: ...
    @property
    def bytes_written(self) -> int: ...
    @property
    def integrity_errors(self) -> int: ...
    @property
    def last_integrity_error(self) -> str: ...
    @property
    def stale_errors(self) -> int: ...
    @property
    def read_ahead_refused(self) -> str: ...
    @property
    def transport(self) -> Literal["io_uring", "dev_fuse"]: ...

@final
class Mount:
    """A mounted volume, served by native threads of this process; when it dies, the program gets ENOTCONN."""

    @property
    def path(self) -> str: ...
    def unmount(self) -> None:
        """Unmount, from any thread; a second call does nothing. If still in use after 2 s, it is detached."""

    def follow(self, volume: Volume) -> None:
        """Show a newer state, from `Volume.at`, to each path that is opened from now on; what is open stays.

        Raises: UsageError: not newer, or the volume was not opened to be followed.
        """
    def stats(self) -> MountStats: ...

def pack_tar(volume: Volume, source: str | None, progress: _Progress = None) -> PackStats:
    """As `Volume.pack`, from a tar file or, if None, from standard input; one commit, or none."""

def unpack_tar(volume: Volume, target: str | None, progress: _Progress = None) -> PackStats:
    """As `Volume.unpack`, to a new tar file or, if None, to standard output."""

def read_part(volume: Volume, path: str, offset: int, size: int) -> bytes:
    """The verified contents of a part of a file; fewer bytes only at its end."""

def memory_needed(volume: Volume) -> int:
    """Bytes that `lay_out` takes in a memory file system."""

def lay_out(volume: Volume, target: str) -> PackStats:
    """As `Volume.unpack`, with set-user-id and set-group-id bits."""

def take_back(volume: Volume, source: str) -> PackStats:
    """Make the volume equal to a tree that was laid out from it, by contents; one commit, or none."""

def rekey(volume: Volume, progress: _Progress = None) -> tuple[int, bool]:
    """Seal under the newest key what an older one sealed: bytes moved, and whether none is left."""

@final
class Volume:
    """An open volume. Closed by `close`; without it, what was not synced is lost, as after a crash."""
    @staticmethod
    def open(
        directory: str | Bucket,
        *,
        volume_id: bytes,
        key: bytes,
        key_version: int,
        key_since: int,
        older_key: bytes | None,
        kept_since: int,
        epoch: int,
        seq: int,
        root: bytes,
        writable: bool,
        freshness: str,
        chunk_size: int,
        protection: str,
        anchor: Callable[[int, int, bytes, int, bytes], int | None] | None,
    ) -> Volume:
        """Open the ciphertext in `directory` at exactly (seq, root); seq 0 and writable creates the volume.

        volume_id: 16 bytes; keys, root: 32 bytes. Epochs from `key_since` on sealed under `key`, those before
        under `older_key`, if that is still needed. Records beyond the state count for a writer if they are of
        an epoch from `kept_since` on. freshness: "follow", or as `Volume.freshness`. protection:
        as `Volume.protection`; a volume of another one is refused.
        anchor(epoch, seq, root, new_seq, new_root) makes the new root the one that counts, or raises
        FencedError, ConflictError or CasUnreachableError; required when writable. Called from native threads.

        Raises: VolumeFormatError, VolumeRollbackError, VolumeKeyError, VolumeIntegrityError, VolumeBusyError,
        VolumeIoError, NoSpaceError, and what the anchor raises.
        """

    @staticmethod
    def salvage(
        directory: str,
        *,
        volume_id: bytes,
        key: bytes,
        key_version: int,
        key_since: int,
        older_key: bytes | None,
        seq: int,
        root: bytes,
        chunk_size: int,
        protection: str,
    ) -> tuple[Volume, str | None]:
        """Open, read-only, (seq, root) or else the newest authentic state that the directory still leads to.

        The text says why it is not (seq, root). Raises as `open` when nothing authentic is left.
        """

    def salvage_into(self, target: Volume, progress: _Progress = None) -> tuple[PackStats, list[Finding]]:
        """Copy what can be read into an empty volume, and commit; the findings are the lost files."""

    def log(self) -> list[Commit]:
        """The commits from the last snapshot to the anchored state, oldest first."""

    def diff(self, newer: Volume) -> list[Change]:
        """The paths in which `newer` differs, in order."""

    def compact(self, progress: _Progress = None) -> Compacted:
        """Give dead space back, also beside readers and writers. progress(0, moved bytes).

        Raises: VolumeIntegrityError, with the file whose chunk is damaged; what was moved stays moved.
        """

    def stored_bytes(self) -> int:
        """Bytes of all objects in the directory."""

    @property
    def protection(self) -> Literal["encrypted", "authenticated"]: ...
    @property
    def freshness(self) -> Literal["pinned", "group", "strict", "async"]: ...
    def pack(self, source: str, progress: _Progress = None, *, update: bool = False) -> PackStats:
        """Copy the tree under the directory `source` into the root of the volume, and commit.

        What the volume held is removed; with `update`, files of the same size and time of change stay. Keeps
        modes, owners, times, symlinks, hard links and user xattrs. progress(files, bytes) is called a few
        times per second. Raises UsageError for devices, before anything is written.
        """

    def unpack(self, target: str, progress: _Progress = None) -> PackStats:
        """Write the whole tree, each byte verified, into `target`, a directory that is missing or empty.

        Where an earlier call for the same state was interrupted, go on: what is there is compared, and only
        what differs is written. Raises UsageError: something else lies there, or another call is at work.
        """

    def ls(self, path: str) -> list[Entry]:
        """The entries of a directory by name, or the one entry of something else. UsageError if missing."""
    def cat(self, path: str) -> bytes:
        """The verified contents of a file. UsageError if missing or no file."""

    def check(self) -> list[Finding]:
        """Read and verify everything; each damaged file is named. An empty list: all is well."""

    def sync(self) -> None:
        """Return when all that was written is committed and anchored."""

    def status(self) -> VolumeStatus: ...
    def at(self, epoch: int, seq: int, root: bytes) -> Volume:
        """Open another state of the same files; of a volume with freshness `follow`. Raises: as `open`."""

    def close(self) -> None:
        """Final commit and anchor; a second call does nothing. Unmount first."""

    def mount(
        self, mountpoint: str, *, threads: int = 4, writeback: bool = False, read_ahead_kib: int = 2048
    ) -> Mount:
        """Mount at a directory in the calling thread's mount namespace; returns when the mount answers.

        Raises: FuseUnavailableError, EnvironmentUnfitError, UsageError.
        """

def enter_mount_namespace() -> None:
    """Give this thread, and what is forked from it, a mount namespace. Raises EnvironmentUnfitError."""

def mount_tmpfs(path: str, *, size_bytes: int, mode: int) -> None:
    """Mount an empty memory file system in this thread's mount namespace."""

def cover_file(source: str, path: str) -> None:
    """Show `source`, read-only, at `path`, one of the same kind, in this thread's mount namespace."""

def bind_mount(source: str, path: str) -> None:
    """As `cover_file`, but writable."""

def unmount(path: str) -> None:
    """Remove the topmost mount at `path` in this thread's mount namespace; in use, it is detached."""
