//! What an anchored volume says about its past: the commits that the journal still holds, and whether two states have
//! the same content.

use crate::chain::{self, Index};
use crate::codec::{Reader, damaged};
use crate::error::StoreError;
use crate::leftovers::NAMES_MAX;
use crate::ops::Op;
use crate::record::{FLAG_LAST, FLAG_SNAPSHOT};
use crate::types::{Commit, Ino};
use crate::volume::{Result, Volume};

/// Bytes compared at once.
const STEP: usize = 1 << 20;

impl Volume {
    /// The commits from the last snapshot to the anchored state, oldest first: each could be opened read-only, as far
    /// as its chunks have not been replaced since.
    ///
    /// # Errors
    /// As [`Volume::open`]: the store changed since.
    pub fn history(&self) -> Result<Vec<Commit>> {
        let log = self.log.lock();
        let store = &*self.store;
        let places = Index::read(store, &self.keys)?.chain(store, &self.keys, log.anchored)?;
        let mut commits = Vec::new();
        let mut open = Commit::default();
        for place in places {
            let payload = chain::read(&*self.store, &self.keys, &place)?;
            let mut reader = Reader::new(&payload, "a journal record");
            while !reader.is_empty() {
                note(&mut open, &Op::decode(&mut reader)?);
            }
            open.journal_bytes += place.length();
            open.snapshot |= place.header.flags & FLAG_SNAPSHOT != 0;
            if place.header.flags & FLAG_LAST != 0 {
                let done = std::mem::take(&mut open);
                let (seq, root) = place.position();
                commits.push(Commit {
                    seq,
                    root,
                    epoch: place.header.epoch,
                    ..done
                });
            }
        }
        Ok(commits)
    }

    /// Bytes of all objects of this volume in the store.
    ///
    /// # Errors
    /// `Io` when the store fails, `Integrity` when it names more objects than are looked at.
    pub fn stored_bytes(&self) -> Result<u64> {
        let mut paths = vec!["superblock-0".to_owned(), "superblock-1".to_owned()];
        let inside = |dir: &str| -> Result<Vec<String>> {
            let names = self.store.list(dir)?;
            Ok(names.iter().map(|name| format!("{dir}/{name}")).collect())
        };
        paths.extend(inside("metadata")?);
        let mut directories = 0_usize;
        for epoch in inside("data")? {
            paths.extend(inside(&epoch)?);
            directories += 1;
            if paths.len().saturating_add(directories) > NAMES_MAX {
                let problem = format!("more than {NAMES_MAX} objects are listed");
                return Err(damaged("the store", problem));
            }
        }
        let mut bytes = 0;
        for path in paths {
            match self.store.size(&path) {
                Ok(size) => bytes = size.saturating_add(bytes), // untrusted
                // Removed since it was listed, or a hint that was never written.
                Err(StoreError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes)
    }

    /// Whether a file of this state and one of another state have the same bytes. Only what does not lie at the same
    /// place is read.
    ///
    /// # Errors
    /// `Integrity` when what must be read does not authenticate, or was replaced since.
    pub fn same_content(&self, ino: Ino, other: &Self, other_ino: Ino) -> Result<bool> {
        let (mine, theirs) = (self.file_node(ino)?, other.file_node(other_ino)?);
        let size = mine.meta.lock().size;
        if size != theirs.meta.lock().size {
            return Ok(false);
        }
        let same_volume = self.keys.volume_id == other.keys.volume_id;
        if same_volume && mine.file_id == theirs.file_id {
            let (mine, theirs) = (mine.data.read(), theirs.data.read());
            let (mine, theirs) = (mine.view(), theirs.view());
            let clean = !mine.is_waiting() && !theirs.is_waiting();
            let same_inline = mine.inline() == theirs.inline();
            if clean && same_inline && mine.entries().eq(theirs.entries()) {
                return Ok(true);
            }
        }
        let (mut left, mut right) = (vec![0; STEP], vec![0; STEP]);
        let mut offset = 0;
        while offset < size {
            let got = self.read(ino, offset, &mut left)?;
            if got == 0 || other.read(other_ino, offset, &mut right)? != got {
                return Ok(false);
            }
            if left.get(..got) != right.get(..got) {
                return Ok(false);
            }
            offset += got as u64;
        }
        Ok(true)
    }
}

/// Counts an operation. A commit has no time of its own; the mount record has one, and each inode the time of its last
/// change.
fn note(commit: &mut Commit, op: &Op) {
    let time = match op {
        Op::Mount { time, .. } => {
            commit.mount = true;
            Some(*time)
        }
        Op::Inode(inode) => {
            commit.inodes += 1;
            Some(inode.ctime)
        }
        Op::InodeGone(_) => {
            commit.inodes += 1;
            None
        }
        Op::Name { .. } | Op::NameGone { .. } => {
            commit.names += 1;
            None
        }
        _ => None,
    };
    commit.time = commit.time.max(time);
}
