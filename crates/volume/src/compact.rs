//! Compaction: what lives in segments with dead space is sealed anew elsewhere, and the emptied segments go.
//!
//! A moved chunk is a written one: it becomes part of the state with a commit, and only when that commit is anchored
//! the old place is freed. So it may run beside readers and writers, and a crash at any point leaves one of the two.

use std::collections::BTreeSet;

use crate::content::View;
use crate::error::VolumeError;
use crate::inode::Node;
use crate::types::{Compacted, FileType, Ino};
use crate::volume::{Result, Volume};

/// Chunks of one file that are moved while it is locked.
const BATCH: usize = 64;
/// Bytes after which what was moved is committed, so that old segments make room.
const COMMIT_AFTER: u64 = 64 << 20;

impl Volume {
    /// Moves what lives out of segments of which much is dead. `go_on` is called with the bytes moved so far;
    /// `false` ends the work after a commit, losing nothing. Contents, times and attributes stay as they are.
    ///
    /// # Errors
    /// `Integrity` naming the first file whose chunk cannot be moved because it is damaged; as [`Volume::sync`].
    pub fn compact(&self, go_on: &mut dyn FnMut(u64) -> bool) -> Result<Compacted> {
        self.require_writable()?;
        self.sync(None)?;
        let (victims, dead_before) = {
            let segments = self.segments.lock();
            (segments.wasteful(), segments.dead_bytes())
        };
        let (moved, _) = self.empty_segments(&victims, go_on)?;
        let segments = self.segments.lock();
        let gone = |id: &&u32| segments.get(**id).is_none();
        Ok(Compacted {
            segments: victims.iter().filter(gone).count() as u64,
            moved_bytes: moved,
            dead_before,
            dead_after: segments.dead_bytes(),
        })
    }

    /// Moves what lives out of these segments, and commits. Returns the bytes, and whether `go_on` let it end.
    pub(crate) fn empty_segments(
        &self,
        victims: &BTreeSet<u32>,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(u64, bool)> {
        let (mut moved, mut committed, mut ended) = (0, 0, true);
        let inos: Vec<Ino> = self.tree.read().nodes.inos().collect();
        'files: for ino in if victims.is_empty() { Vec::new() } else { inos } {
            let Ok(node) = self.node(ino) else { continue };
            for batch in chunks_inside(&node, victims).chunks(BATCH) {
                let found = self.move_chunks(&node, batch, victims);
                moved += found.map_err(|error| self.name_file(error, ino))?;
                if moved - committed > COMMIT_AFTER {
                    self.sync(None)?;
                    committed = moved;
                }
                if !go_on(moved) {
                    ended = false;
                    break 'files;
                }
            }
        }
        self.sync(None)?;
        Ok((moved, ended))
    }

    fn move_chunks(&self, node: &Node, batch: &[u64], victims: &BTreeSet<u32>) -> Result<u64> {
        let mut content = node.data.write();
        let mut data = content.change();
        let (size, before) = (node.meta.lock().size, data.dirty_bytes());
        let mut moved = 0;
        let mut failure: Option<VolumeError> = None;
        for &index in batch {
            // Written or cut off since, or waiting to be written: the next flush replaces the old place anyway.
            let entry = data
                .map
                .get(index)
                .filter(|entry| victims.contains(&entry.segment));
            let Some(entry) = entry.filter(|_| !data.dirty.contains_key(&index)) else {
                continue;
            };
            let length = crate::tree::plain_len(size, index, self.chunk_size) as usize;
            match self.open_whole(node, View::Open(&data), index, entry, length) {
                Ok(plain) => drop(data.dirty.insert(index, plain)),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
            moved += length as u64;
        }
        self.count_dirty(before, data.dirty_bytes());
        if moved > 0 {
            self.mark(node.ino);
        }
        self.flush(node, &mut data)?;
        failure.map_or(Ok(moved), Err)
    }
}

/// The chunks of a file that lie in these segments.
fn chunks_inside(node: &Node, victims: &BTreeSet<u32>) -> Vec<u64> {
    if node.kind != FileType::File {
        return Vec::new();
    }
    let content = node.data.read();
    let inside = content
        .view()
        .entries()
        .filter(|(_, entry)| victims.contains(&entry.segment));
    inside.map(|(index, _)| index).collect()
}
