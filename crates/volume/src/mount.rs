//! Opening: from the anchored root to the state in memory, and taking the volume over for writing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::{Anchor, Environment, Grant, Options, Store};
use crate::chain::{self, Index, Place};
use crate::codec::{Reader, malformed};
use crate::commit::Log;
use crate::dir::Dir;
use crate::error::{StoreError, VolumeError};
use crate::fits::{check_fits, check_grant};
use crate::inode::Node;
use crate::leases::Retained;
use crate::ops::{InodeRecord, Op};
use crate::record::FLAG_SNAPSHOT;
use crate::seal::Keys;
use crate::segment::Segments;
use crate::snapshot::{PageRef, SnapshotReader};
use crate::superblock::{self, Hint};
use crate::tree::Tree;
use crate::types::{FileType, Ino, ROOT_INO};
use crate::volume::{Parts, Result, Volume};

/// Reads the anchored state; a grant for writing also keeps what a crash left beyond it.
pub(crate) fn read_volume(
    store: Arc<dyn Store>,
    anchor: Option<Arc<dyn Anchor>>,
    environment: Arc<dyn Environment>,
    grant: Grant,
    options: Options,
) -> Result<Volume> {
    check_grant(&grant, anchor.is_some(), options.freshness)?;
    if grant.writable {
        store.lock_exclusive()?;
    }
    let generation = read_hints(&*store, &grant)?;
    let keys = Keys::new(&grant)?;
    let anchored = (grant.seq, grant.root);
    let places = find_records(&*store, &keys, &grant)?;
    let mut loader = Loader::new(&*store, &keys, &grant);
    for place in &places {
        loader.replay(place)?;
    }
    let Loader {
        mut tree,
        mut segments,
        snapshot,
        journal_bytes,
        files,
        ..
    } = loader;
    let mut superblock_due = true;
    let mut orphans = Vec::new();
    let mut dead_files = Vec::new();
    if !places.is_empty() {
        orphans = tree.finish(&mut segments, grant.chunk_size)?;
        dead_files = segments.drop_unreferenced();
        superblock_due = false;
    }
    let head = places.last().map_or(anchored, Place::position);
    let log = Log {
        head,
        anchored,
        attempted: Vec::new(),
        files,
        offset: 0,
        journal_bytes,
        snapshot,
        dead: Vec::new(),
        dead_files,
        retained: Retained::default(),
        generation,
        superblock_due,
    };
    let volume = Volume::from_parts(Parts {
        store,
        anchor,
        environment,
        options,
        grant,
        keys,
        tree,
        segments,
        log,
    });
    for ino in orphans {
        volume.mark(ino);
    }
    Ok(volume)
}

/// The records to replay: up to the anchored one, and for a writer those that a crash left beyond it.
fn find_records(store: &dyn Store, keys: &Keys, grant: &Grant) -> Result<Vec<Place>> {
    let index = Index::read(store, keys)?;
    let anchored = (grant.seq, grant.root);
    let mut places = index.chain(store, keys, anchored)?;
    if grant.writable {
        if index.files.iter().any(|(epoch, _)| *epoch >= grant.epoch) {
            return Err(VolumeError::Invalid(
                "the grant's epoch was used before; every open for writing needs a new one",
            ));
        }
        // Nothing is kept that only an older key vouches for: who replaces a key may not trust all who had it. Nor what
        // followed a root when an owner went back to it: the store could bring the owner's choice to nothing.
        let head_epoch = places.last().map_or(0, |place| place.header.epoch);
        let from = head_epoch.max(keys.since()).max(grant.kept_since);
        places.extend(index.beyond(store, keys, anchored, from, grant.epoch));
    }
    Ok(places)
}

/// Reads the hints; refuses other versions and other volumes early. Returns the newest generation.
fn read_hints(store: &dyn Store, grant: &Grant) -> Result<u64> {
    let mut newest = 0;
    for generation in 0..2 {
        let mut raw = [0; superblock::SIZE];
        let got = match store.read_at(superblock::path(generation), 0, &mut raw) {
            Ok(got) => got,
            Err(StoreError::NotFound) => continue,
            Err(error) => return Err(error.into()),
        };
        match superblock::parse(raw.get(..got).unwrap_or_default()) {
            Hint::Known(hint) if hint.volume_id != grant.volume_id => {
                return Err(VolumeError::Key(format!(
                    "the directory holds volume {}, the grant is for volume {}",
                    hex(&hint.volume_id),
                    hex(&grant.volume_id)
                )));
            }
            Hint::Known(hint) => newest = newest.max(hint.generation),
            Hint::Other { version, suite } => {
                return Err(VolumeError::Format {
                    problem: format!(
                        "the volume has format version {version} with suite {suite}, not 1 with 1"
                    ),
                    fix: "open it with the release that wrote it".to_owned(),
                });
            }
            Hint::Unusable => {}
        }
    }
    Ok(newest)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Builds the state from records.
struct Loader<'a> {
    store: &'a dyn Store,
    keys: &'a Keys,
    grant: &'a Grant,
    tree: Tree,
    segments: Segments,
    snapshot: Option<(u64, u64)>,
    journal_bytes: u64,
    files: Vec<(u32, u32)>,
}

impl<'a> Loader<'a> {
    fn new(store: &'a dyn Store, keys: &'a Keys, grant: &'a Grant) -> Self {
        let segments = Segments::new(grant.epoch, grant.chunk_size);
        let (tree, files) = (Tree::empty(), Vec::new());
        Self {
            store,
            keys,
            grant,
            tree,
            segments,
            snapshot: None,
            journal_bytes: 0,
            files,
        }
    }

    fn replay(&mut self, place: &Place) -> Result<()> {
        let payload = chain::read(self.store, self.keys, place)?;
        if place.header.flags & FLAG_SNAPSHOT != 0 {
            self.tree = Tree::empty();
            self.segments = Segments::new(self.grant.epoch, self.grant.chunk_size);
            self.journal_bytes = 0;
            self.files.clear();
        }
        if self.files.last() != Some(&place.file) {
            self.files.push(place.file);
        }
        self.journal_bytes += place.length();
        let mut reader = Reader::new(&payload, "a journal record");
        while !reader.is_empty() {
            let op = Op::decode(&mut reader)?;
            self.apply(op, place)?;
        }
        Ok(())
    }

    fn apply(&mut self, op: Op, place: &Place) -> Result<()> {
        let keys = self.keys.of(place.header.epoch)?;
        check_fits(&op, self.grant, keys.version)?;
        if let Op::Snapshot {
            epoch, seq, root, ..
        } = op
        {
            let flagged = place.header.flags & FLAG_SNAPSHOT != 0;
            if !flagged || seq != place.header.seq || epoch != place.header.epoch {
                return Err(malformed(
                    "a journal record",
                    "a snapshot where none may be",
                ));
            }
            self.read_snapshot(epoch, seq, root)?;
        }
        self.tree.apply(op, &mut self.segments)
    }

    fn read_snapshot(&mut self, epoch: u32, seq: u64, root: PageRef) -> Result<()> {
        let reader = SnapshotReader {
            store: self.store,
            keys: self.keys,
            epoch,
            seq,
        };
        let (grant, version) = (self.grant, self.keys.of(epoch)?.version);
        let (tree, segments) = (&mut self.tree, &mut self.segments);
        let bytes = reader.replay(root, &mut |op| match op {
            Op::Snapshot { .. } | Op::Mount { .. } => Err(malformed(
                "a snapshot page",
                "an operation that only records have",
            )),
            op => {
                check_fits(&op, grant, version)?;
                tree.apply(op, segments)
            }
        })?;
        self.snapshot = Some((seq, bytes));
        Ok(())
    }
}

impl Volume {
    /// Anchors the record with which this epoch begins, which ends every other branch; then removes leftovers.
    pub(crate) fn take_over(&self) -> Result<()> {
        let mut log = self.log.lock();
        if self.tree.read().nodes.is_empty() {
            self.make_root();
        }
        let mut captured = self.capture(None)?;
        let epoch = self.nonces.epoch;
        captured.put_first(&Op::Mount {
            epoch,
            chunk_size: self.chunk_size,
            time: self.now(),
        });
        self.commit_captured(&mut log, captured)?;
        if let Err(error) = self.write_superblock(&mut log) {
            log.superblock_due = true;
            if error == VolumeError::NoSpace {
                return Ok(());
            }
        }
        self.remove_leftovers(&log);
        Ok(())
    }

    fn make_root(&self) {
        let now = self.now();
        let mut file_id = [0; 16];
        self.environment.random(&mut file_id);
        let record = InodeRecord {
            ino: ROOT_INO,
            file_id,
            kind: FileType::Dir,
            protection: self.protection,
            mode: 0o755,
            uid: 0,
            gid: 0,
            nlink: 2,
            key_version: self.keys.newest().version,
            chunk_log2: self.chunk_log2(),
            device: 0,
            size: 0,
            atime: now,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
            body: None,
        };
        let mut tree = self.tree.write();
        tree.nodes.insert(Arc::new(Node::from_record(record)));
        tree.dirs.insert(ROOT_INO, Dir::new(ROOT_INO));
        self.mark(ROOT_INO);
    }

    /// Draws the number of a new inode.
    pub(crate) fn next_ino(tree: &mut Tree) -> Result<Ino> {
        let ino = tree.next_ino;
        tree.next_ino = ino.checked_add(1).ok_or(VolumeError::TooBig)?;
        Ok(ino)
    }
}
