//! Re-keying: what an older key sealed is sealed anew under the newest one, until nothing needs the older one.
//!
//! Which key sealed something follows from its epoch, so a chunk that moves into a segment of this epoch is re-keyed: the
//! work of compaction, with every older segment to be emptied. At the end a snapshot begins the chain anew.
//! docs/formats/volume-v1.md, "Key versions".

use crate::types::Rekeyed;
use crate::volume::{Result, Volume};

/// Commits that are waited for until the last older segment is gone: a writer beside may have cut off what lay there.
const LAST_COMMITS: usize = 3;

impl Volume {
    /// Seals everything anew that epochs before the newest key version sealed. `go_on` is called with the bytes moved so
    /// far; `false` ends the work after a commit. What is done stays done: the next call, in this open or a later one, goes on.
    /// Contents, times and attributes stay as they are.
    ///
    /// # Errors
    /// `Integrity` naming the first file whose chunk cannot be moved because it is damaged; as [`Volume::sync`].
    pub fn rekey(&self, go_on: &mut dyn FnMut(u64) -> bool) -> Result<Rekeyed> {
        self.require_writable()?;
        self.sync(None)?;
        let older = || self.segments.lock().before(self.keys.since());
        let (moved_bytes, ended) = self.empty_segments(&older(), go_on)?;
        // Who follows has to start anew to read what the new key sealed: nothing is kept for it.
        self.release_retained(&mut self.log.lock());
        for _ in 0..LAST_COMMITS {
            if older().is_empty() {
                break;
            }
            self.sync(None)?;
            self.release_retained(&mut self.log.lock());
        }
        let unfinished = Rekeyed {
            moved_bytes,
            complete: false,
        };
        if !ended || !older().is_empty() {
            return Ok(unfinished);
        }
        self.begin_chain_anew()?;
        Ok(Rekeyed {
            complete: true,
            ..unfinished
        })
    }

    /// Anchors a snapshot: no record before it is needed any more.
    fn begin_chain_anew(&self) -> Result<()> {
        let _alone = self.anchoring.lock();
        let mut log = self.log.lock();
        self.require_writable()?;
        self.flush_dirty()?;
        let captured = self.capture(Some(log.head.0 + 1))?;
        self.commit_captured(&mut log, captured)
    }
}
