//! An open volume: its parts, its state, and what all calls share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use crate::api::{Anchor, Environment, Freshness, Grant, Options, Store};
use crate::commit::Log;
use crate::error::VolumeError;
use crate::hot::Hot;
use crate::inode::Node;
use crate::mount;
use crate::rounds::Rounds;
use crate::seal::{Keys, Nonces};
use crate::sealer::Sealer;
use crate::segment::{self, Dead, Segments};
use crate::tree::Tree;
use crate::types::{FileType, Ino, Protection, StatFs, Status};

pub(crate) type Result<T> = std::result::Result<T, VolumeError>;

/// Largest file in bytes.
pub(crate) const FILE_SIZE_MAX: u64 = 1 << 48;

const STATE_OPEN: u8 = 0;
const STATE_READ_ONLY: u8 = 1;
const STATE_FENCED: u8 = 2;
const STATE_FAILED: u8 = 3;

/// An open volume. All calls take `&self` and are thread-safe.
///
/// Lock order: anchoring, log, tree, a node's data, then the leaves (segments, pending, behind, a node's meta and cache).
pub struct Volume {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) anchor: Option<Arc<dyn Anchor>>,
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) options: Options,
    pub(crate) keys: Keys,
    pub(crate) nonces: Nonces,
    pub(crate) hot: Hot,
    pub(crate) chunk_size: u32,
    pub(crate) protection: Protection,
    pub(crate) tree: RwLock<Tree>,
    pub(crate) segments: Mutex<Segments>,
    pub(crate) pending: Mutex<Pending>,
    pub(crate) dirty_bytes: AtomicU64,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) log: Mutex<Log>,
    pub(crate) commits: Rounds,
    /// Nothing is committed unless somebody asks for it.
    pub(crate) held: AtomicBool,
    pub(crate) advances: Rounds,
    /// Held by the one that moves the anchor.
    pub(crate) anchoring: Mutex<()>,
    /// Since when the anchor has been behind the store, at most.
    pub(crate) behind: Mutex<Option<Instant>>,
    /// The anchored position, for `status`.
    pub(crate) anchored: Mutex<crate::api::Position>,
    state: AtomicU8,
    pub(crate) committer: Mutex<Option<JoinHandle<()>>>,
}

/// What changed since the last capture. Sets only: putting them back after a failed commit is a union.
#[derive(Default)]
pub(crate) struct Pending {
    /// Inodes to write, or to write off when they are no longer in the tree.
    pub nodes: BTreeSet<Ino>,
    /// Names to write, or to write off.
    pub names: BTreeSet<(Ino, Arc<[u8]>)>,
    /// Slots that the current state no longer references.
    pub superseded: Vec<Dead>,
    /// Segments with slots that may not be durable yet.
    pub unsynced: BTreeSet<u32>,
}

/// What a volume is made of when it has been read.
pub(crate) struct Parts {
    pub store: Arc<dyn Store>,
    pub anchor: Option<Arc<dyn Anchor>>,
    pub environment: Arc<dyn Environment>,
    pub options: Options,
    pub grant: Grant,
    pub keys: Keys,
    pub tree: Tree,
    pub segments: Segments,
    pub log: Log,
}

impl Volume {
    /// Opens a volume at exactly the state of the grant, with the options for production.
    /// A grant for writing at sequence 0 makes the volume.
    ///
    /// # Errors
    /// `Rollback` when the store does not reach the anchored state, `Integrity`, `Format`, `Key`, `Busy`, `Anchor`,
    /// `NoSpace`, `Io`; `Invalid` when the grant contradicts itself.
    pub fn open(
        store: Arc<dyn Store>,
        anchor: Option<Arc<dyn Anchor>>,
        environment: Arc<dyn Environment>,
        grant: Grant,
        freshness: Freshness,
    ) -> Result<Arc<Self>> {
        Self::open_with(store, anchor, environment, grant, Options::new(freshness))
    }

    /// As [`Volume::open`], with other options.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub fn open_with(
        store: Arc<dyn Store>,
        anchor: Option<Arc<dyn Anchor>>,
        environment: Arc<dyn Environment>,
        grant: Grant,
        options: Options,
    ) -> Result<Arc<Self>> {
        let volume = Arc::new(mount::read_volume(
            store,
            anchor,
            environment,
            grant,
            options,
        )?);
        if volume.is_writable() {
            volume.take_over()?;
            volume.start_committer();
            if volume.options.sealers > 1 && volume.protection == Protection::Encrypted {
                volume.sealer.start(Arc::downgrade(&volume));
            }
        }
        Ok(volume)
    }

    pub(crate) fn from_parts(parts: Parts) -> Self {
        let Parts {
            store,
            anchor,
            environment,
            options,
            grant,
            keys,
            tree,
            segments,
            log,
        } = parts;
        let state = if grant.writable {
            STATE_OPEN
        } else {
            STATE_READ_ONLY
        };
        Self {
            store,
            anchor,
            environment,
            options,
            keys,
            nonces: Nonces::new(grant.epoch),
            hot: Hot::new(),
            chunk_size: grant.chunk_size,
            protection: grant.protection,
            tree: RwLock::new(tree),
            segments: Mutex::new(segments),
            pending: Mutex::default(),
            dirty_bytes: AtomicU64::new(0),
            sealer: Sealer::new(),
            log: Mutex::new(log),
            commits: Rounds::default(),
            held: AtomicBool::new(false),
            advances: Rounds::default(),
            anchoring: Mutex::default(),
            behind: Mutex::default(),
            anchored: Mutex::new((grant.seq, grant.root)),
            state: AtomicU8::new(state),
            committer: Mutex::new(None),
        }
    }

    /// Whether this open may write (still).
    pub fn is_writable(&self) -> bool {
        self.state.load(Ordering::Acquire) == STATE_OPEN
    }

    /// How the contents of its files lie on the storage.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Fails unless this open may write.
    pub(crate) fn require_writable(&self) -> Result<()> {
        match self.state.load(Ordering::Acquire) {
            STATE_OPEN => Ok(()),
            STATE_READ_ONLY => Err(VolumeError::ReadOnly),
            STATE_FENCED => Err(VolumeError::LeaseLost),
            _ => Err(VolumeError::Io(
                "an earlier failure of the store left it unknown what is durable, so this open stopped writing"
                    .to_owned(),
            )),
        }
    }

    /// Never write again: a newer writer was let in.
    pub(crate) fn fence(&self) {
        self.state.store(STATE_FENCED, Ordering::Release);
    }

    /// Never write again in this open: what is durable is unknown.
    pub(crate) fn fail(&self) {
        let _ = self.state.compare_exchange(
            STATE_OPEN,
            STATE_FAILED,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    pub(crate) fn become_read_only(&self) {
        let _ = self.state.compare_exchange(
            STATE_OPEN,
            STATE_READ_ONLY,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    /// Binary logarithm of the chunk size.
    pub(crate) fn chunk_log2(&self) -> u8 {
        u8::try_from(self.chunk_size.trailing_zeros()).unwrap_or(0)
    }

    pub(crate) fn now(&self) -> i64 {
        self.environment.now()
    }

    pub(crate) fn node(&self, ino: Ino) -> Result<Arc<Node>> {
        self.tree.read().node(ino).map(Arc::clone)
    }

    pub(crate) fn file_node(&self, ino: Ino) -> Result<Arc<Node>> {
        let node = self.node(ino)?;
        match node.kind {
            FileType::File => Ok(node),
            FileType::Dir => Err(VolumeError::IsDirectory),
            FileType::Symlink => Err(VolumeError::Invalid("a symbolic link has no content")),
            _ => Err(VolumeError::Invalid(
                "a special file has no content of its own",
            )),
        }
    }

    /// Notes that an inode differs from its last record. Call while holding the lock under which it was changed.
    pub(crate) fn mark(&self, ino: Ino) {
        self.pending.lock().nodes.insert(ino);
    }

    /// Gives slots back that never became part of a state.
    pub(crate) fn give_back(&self, dead: Dead) {
        let path = self.segments.lock().free(dead);
        if let Some(path) = path {
            let _ = self.store.remove(&path);
        }
    }

    /// The store's path, epoch and offset of a slot.
    pub(crate) fn locate(&self, id: u32, slot: u32) -> Result<(String, u32, u64)> {
        let place = self.segments.lock().locate(id, slot);
        let (epoch, offset) = place.ok_or_else(|| {
            crate::codec::malformed("the metadata", "a chunk in an unknown segment")
        })?;
        Ok((segment::path(epoch, id), epoch, offset))
    }

    /// The state in numbers.
    pub fn status(&self) -> Status {
        let (seq, root) = *self.anchored.lock();
        let (files, bytes) = self.count();
        Status {
            epoch: self.nonces.epoch,
            seq,
            root,
            files,
            bytes,
            dead_bytes: self.segments.lock().dead_bytes(),
            dirty_bytes: self.dirty_bytes.load(Ordering::Relaxed),
        }
    }

    /// Numbers for statfs.
    ///
    /// # Errors
    /// None in this release.
    pub fn statfs(&self) -> Result<StatFs> {
        let (files, bytes) = self.count();
        Ok(StatFs {
            files,
            bytes,
            block_size: self.chunk_size,
            name_max: 255,
        })
    }

    /// Inodes, and sizes of regular files together.
    fn count(&self) -> (u64, u64) {
        let tree = self.tree.read();
        let files = tree.nodes.iter().filter(|node| node.kind == FileType::File);
        (
            tree.nodes.len() as u64,
            files.map(|node| node.meta.lock().size).sum(),
        )
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.sealer.end();
        if let Some(thread) = self.committer.lock().take() {
            thread.thread().unpark();
        }
    }
}
