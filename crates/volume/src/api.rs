//! The edges of the engine: what it needs from outside, and what a caller hands it to open a volume.

use std::num::NonZeroUsize;
use std::time::Duration;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::error::{AnchorError, StoreError};
use crate::types::Protection;

/// A position in the root chain: sequence and root.
pub type Position = (u64, [u8; 32]);

/// Where the ciphertext lies. Paths are relative, '/'-separated and chosen by the engine; content is untrusted.
#[allow(clippy::missing_errors_doc)]
pub trait Store: Send + Sync {
    /// Copies bytes at `offset` into `buf`; fewer than asked only at the end of the object.
    fn read_at(&self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize, StoreError>;
    /// The object's size in bytes.
    fn size(&self, path: &str) -> Result<u64, StoreError>;
    /// Writes all of `data` at `offset`; makes the object and its parents when missing.
    fn write_at(&self, path: &str, offset: u64, data: &[u8]) -> Result<(), StoreError>;
    /// Makes the object's content and size durable.
    fn sync(&self, path: &str) -> Result<(), StoreError>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &str) -> Result<(), StoreError>;
    /// Removes an object; a missing one is an error.
    fn remove(&self, path: &str) -> Result<(), StoreError>;
    /// The names in a directory, in any order; a missing directory has none.
    fn list(&self, dir: &str) -> Result<Vec<String>, StoreError>;
    /// Replaces an object as a whole, durably: either the old or the new content is there after a crash.
    fn replace(&self, path: &str, data: &[u8]) -> Result<(), StoreError>;
    /// Takes the lock of the one writing process until the store is dropped.
    fn lock_exclusive(&self) -> Result<(), StoreError>;
}

/// Who remembers the newest state of a volume outside of the host's reach: the CAS, or a local trust file.
pub trait Anchor: Send + Sync {
    /// Moves the volume's state from `from` to `to` if `epoch` is the current one and `from` the current state.
    ///
    /// # Errors
    /// [`AnchorError`]; after `Unreachable` it is unknown whether the move happened.
    fn advance(&self, epoch: u32, from: Position, to: Position) -> Result<(), AnchorError>;

    /// For how long readers have leases on states before the one that the last `advance` moved to.
    fn leased(&self) -> Duration {
        Duration::ZERO
    }
}

/// Time and randomness.
pub trait Environment: Send + Sync {
    /// Nanoseconds since 1970 UTC.
    fn now(&self) -> i64;
    /// Fills `out` with bytes of a cryptographic generator.
    fn random(&self, out: &mut [u8]);
}

/// The volume key, 32 bytes; wiped when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct VolumeKey([u8; 32]);

impl VolumeKey {
    /// Takes the key.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VolumeKey(32 bytes)")
    }
}

/// What the CAS gives to one who may open a volume.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Identifies the volume.
    pub volume_id: [u8; 16],
    /// The volume key, of the newest version.
    pub key: VolumeKey,
    /// Version of the key.
    pub key_version: u32,
    /// The first epoch that seals under this version; 0 for a volume's first key.
    pub key_since: u32,
    /// The key of the version before, for what the epochs before sealed, while the volume is re-keyed.
    pub older_key: Option<VolumeKey>,
    /// The first epoch whose records count beyond the anchor: what was there when an owner accepted a root does not.
    pub kept_since: u32,
    /// The mount epoch; a grant for writing carries one that was never given out before.
    pub epoch: u32,
    /// Sequence of the anchored state; 0 for a virgin volume.
    pub seq: u64,
    /// Root of the anchored state; zeros for a virgin volume.
    pub root: [u8; 32],
    /// Whether the volume may be written.
    pub writable: bool,
    /// Chunk size in bytes: a power of two from 4 KiB to 1 MiB.
    pub chunk_size: u32,
    /// How the files must be protected; a volume of another class is refused.
    pub protection: Protection,
}

/// When a write is anchored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Read-only at a fixed root.
    Pinned,
    /// fsync, closing a file after writing it and each rename wait for the anchor.
    Strict,
    /// fsync and rename-over wait for the anchor; everything else is anchored within a second.
    Group,
    /// fsync and rename-over wait for the store alone; the anchor follows, see [`Options::anchor_window`].
    Async,
}

/// How an open volume behaves. [`Options::new`] has the values for production.
#[derive(Clone, Debug)]
pub struct Options {
    /// When a write is anchored.
    pub freshness: Freshness,
    /// Most bytes that are kept for readers with a lease on an older state, or as many as live if those are more.
    pub retain_bytes: u64,
    /// Plain dirty data in memory above which chunks are sealed and written before the commit, in bytes.
    pub dirty_limit: u64,
    /// Threads that may seal one large write: one, or two.
    pub sealers: usize,
    /// Journal bytes after which a snapshot is written.
    pub snapshot_after: u64,
    /// Records after which a snapshot is written.
    pub snapshot_after_records: u64,
    /// Pause between background commits; `None` for none.
    pub commit_interval: Option<Duration>,
    /// How long a commit tries to reach the anchor.
    pub anchor_deadline: Duration,
    /// For [`Freshness::Async`]: how long the anchor may be behind before fsync waits for it again.
    pub anchor_window: Duration,
}

impl Options {
    /// The values for production.
    #[must_use]
    pub fn new(freshness: Freshness) -> Self {
        Self {
            freshness,
            retain_bytes: 1 << 30,
            dirty_limit: 64 << 20,
            sealers: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            snapshot_after: 16 << 20,
            snapshot_after_records: crate::commit::RECORDS_DUE,
            commit_interval: Some(Duration::from_millis(500)),
            anchor_deadline: Duration::from_secs(30),
            anchor_window: Duration::from_secs(5),
        }
    }
}
