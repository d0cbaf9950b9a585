"""The native module: volumes, mounts, a thread's mount namespace, the network shield. Only `securetf.shields`
imports it.

Every call that can block releases the GIL. Errors are the classes of `securetf.errors`, with problem and fix.
Paths inside a volume are '/'-separated, relative to its root; "" and "/" are the root.
"""

from collections.abc import Callable
from typing import Literal, final

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

def pack_tar(volume: Volume, source: str | None, progress: _Progress = None) -> PackStats: ...
def unpack_tar(volume: Volume, target: str | None, progress: _Progress = None) -> PackStats: ...
def read_part(volume: Volume, path: str, offset: int, size: int) -> bytes: ...
def memory_needed(volume: Volume) -> int: ...
def lay_out(volume: Volume, target: str) -> PackStats: ...
def take_back(volume: Volume, source: str) -> PackStats: ...

@final
class Volume:
    """An open volume. Closed by `close`; without it, what was not synced is lost, as after a crash."""
    @staticmethod
    def open(
        directory: str,
        *,
        volume_id: bytes,
        key: bytes,
        key_version: int,
        epoch: int,
        seq: int,
        root: bytes,
        writable: bool,
        freshness: str,
        chunk_size: int,
        protection: str,
        anchor: Callable[[int, int, bytes, int, bytes], None] | None,
    ) -> Volume:
        """Open the ciphertext in `directory` at exactly (seq, root); seq 0 and writable creates the volume.

        volume_id: 16 bytes; key, root: 32 bytes. freshness: "pinned", "follow" or "group". protection: as
        `Volume.protection`; a volume of another one is refused.
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

    def compact(self, progress: Callable[[int, int], None] | None = None) -> Compacted:
        """Give dead space back, also beside readers and writers. progress(0, moved bytes).

        Raises: VolumeIntegrityError, with the file whose chunk is damaged; what was moved stays moved.
        """

    def stored_bytes(self) -> int:
        """Bytes of all objects in the directory."""

    @property
    def protection(self) -> Literal["encrypted", "authenticated"]: ...
    def pack(self, source: str, progress: _Progress = None, *, update: bool = False) -> PackStats:
        """Copy the tree under the directory `source` into the root of the volume, and commit.

        What the volume held is removed; with `update`, files of the same size and time of change stay. Keeps
        modes, owners, times, symlinks, hard links and user xattrs. progress(files, bytes) is called a few
        times per second. Raises UsageError for devices, before anything is written.
        """

    def unpack(self, target: str, progress: _Progress = None) -> PackStats:
        """Write the whole tree, each byte verified, into `target`, a directory that is missing or empty."""

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

def bind_mount(source: str, path: str) -> None: ...  # as `cover_file`, but writable
def unmount(path: str) -> None:
    """Remove the topmost mount at `path` in this thread's mount namespace; in use, it is detached."""

@final
class NetworkKey:
    """A P-256 key of the relay, made here and never exported."""

    @staticmethod
    def generate() -> NetworkKey: ...
    @property
    def spki(self) -> bytes:
        """The public half, DER SubjectPublicKeyInfo."""

@final
class NetworkListener:
    """A listening TCP socket for tunnels, bound before the attestation that advertises it."""

    @staticmethod
    def bind(address: str) -> NetworkListener:
        """Listen on "IP:PORT"; port 0 takes a free one. Raises PortInUseError, EnvironmentUnfitError."""

    @property
    def address(self) -> str: ...

@final
class Denial:
    """One refused connection. `time_s`: Unix seconds; `process`: "pid name", empty if not known."""

    @property
    def time_s(self) -> int: ...
    @property
    def direction(self) -> Literal["outbound", "inbound"]: ...
    @property
    def process(self) -> str: ...
    @property
    def destination(self) -> str: ...
    @property
    def reason(self) -> str: ...

@final
class NetworkShield:
    """Relay and interceptor of one program. For all threads; `spawn` forks from the calling one."""

    @staticmethod
    def raise_shield(
        policy: str,
        key: NetworkKey | None,
        chain: list[bytes],
        trust_root: bytes,
        *,
        tunnel: NetworkListener | None,
        outside: list[tuple[str, NetworkListener]],
        interceptor: Literal["auto", "namespace", "seccomp"],
    ) -> NetworkShield:
        """Raise it and test it: a connection that the policy does not name must fail from inside.

        policy: JSON of crates/netshield/src/policy.rs. chain: certificates, DER, leaf first; trust_root: DER
        of the session's CA. outside: rule's name and listener, one for each such rule of the policy. key,
        tunnel and outside are taken over. Without a key there is no relay: nothing can be reached.

        Raises: NetworkShieldError.
        """

    @property
    def interceptor(self) -> Literal["namespace", "seccomp"]: ...
    @property
    def fallback(self) -> str | None:
        """Why "auto" did not take the namespace."""

    @property
    def hosts(self) -> str:
        """The text of the program's /etc/hosts."""

    @property
    def resolv_conf(self) -> str:
        """The text of the program's /etc/resolv.conf."""

    def spawn(
        self, argv: list[bytes], environment: dict[bytes, bytes], directory: str, uid: int | None
    ) -> int:
        """Start a program confined, with exactly this environment; return its process id.

        It dies with the calling thread, has no capabilities and gains no privileges. Raises LaunchError.
        """

    def set_endpoints(self, endpoints: list[tuple[str, int, str]]) -> None:
        """Where the tunnels of (workload, instance) are, "IP:PORT"; not trusted, certificates decide."""

    def install(self, chain: list[bytes], key: NetworkKey | None) -> None:
        """Go on with this certificate, and this key if it has a new one; live connections move to it."""

    def set_statement(self, public: str, claims: str, key: bytes) -> None:
        """What clients outside are told that ask: docs/formats/service-statement-v1.md. key: PKCS #8, P-256.

        Raises: NetworkShieldError.
        """

    def revoke(self, reason: str) -> None:
        """Cut all connections, and refuse new ones for ever."""

    def denials(self) -> tuple[list[Denial], int]:
        """The refusals since the last call, of which 1024 are kept, and how many more there were."""

    def stats(self) -> dict[str, int]: ...
    def lower(self) -> None:
        """Stop relay and interceptor; connections are reset. A second call does nothing."""
