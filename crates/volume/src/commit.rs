//! Commit: slots, fdatasync, sealed record, fdatasync; then advance, wake the waiters, and only now reuse dead slots.
//!
//! Concurrent callers of `sync` share a commit: one of them leads, the others wait for a commit that started after
//! their call. In the same way they share an advance, and while one is on its way the next commit becomes durable. A
//! background thread commits what nobody waits for.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use crate::api::{Freshness, Position};
use crate::capture::Captured;
use crate::error::{StoreError, VolumeError};
use crate::leases::Retained;
use crate::record::{self, FLAG_LAST, FLAG_SNAPSHOT};
use crate::segment::{self, Dead};
use crate::snapshot;
use crate::types::Ino;
use crate::volume::{Result, Volume};

/// Journal files after which a snapshot is written: each mount starts a new one.
const JOURNAL_FILES_MAX: usize = 32;
/// Journal bytes, and records, after which a snapshot is written however large the last one was: what a reader takes of
/// them is bounded (`chain.rs`).
pub(crate) const JOURNAL_DUE: u64 = 1 << 30;
pub(crate) const RECORDS_DUE: u64 = 1 << 18;

/// Where the chain stands. Held by the one that commits.
pub(crate) struct Log {
    /// The newest durable record.
    pub head: Position,
    /// What the anchor acknowledged.
    pub anchored: Position,
    /// Targets of advances whose outcome is unknown.
    pub attempted: Vec<Position>,
    /// Journal files of the chain, epoch and number, oldest first; the last one is appended to.
    pub files: Vec<(u32, u32)>,
    /// Length of the last journal file.
    pub offset: u64,
    /// Journal bytes since the last snapshot.
    pub journal_bytes: u64,
    /// The last snapshot: sequence and bytes.
    pub snapshot: Option<(u64, u64)>,
    /// Slots and files to free once `head` is anchored.
    pub dead: Vec<Dead>,
    pub dead_files: Vec<String>,
    /// What the anchored state no longer references, and leased older ones may.
    pub retained: Retained,
    /// Generation of the superblock.
    pub generation: u64,
    pub superblock_due: bool,
}

impl Volume {
    /// Waits until everything done before this call is committed and anchored. `ino` is a hint that this release
    /// does not use: a commit takes everything.
    ///
    /// # Errors
    /// `Anchor` when the anchor cannot be reached in time, `LeaseLost`, `NoSpace`, `Io`. What was not committed stays
    /// in memory, and a later call may succeed.
    pub fn sync(&self, ino: Option<Ino>) -> Result<()> {
        let _ = ino;
        let seq = self.join_commit(false)?;
        self.join_advance(seq)
    }

    /// Waits as the freshness says: as [`Volume::sync`], or with [`Freshness::Async`] until all that was done before is
    /// durable in the store, and the anchor is not behind for longer than [`crate::Options::anchor_window`].
    ///
    /// # Errors
    /// As [`Volume::sync`].
    pub fn fsync(&self, ino: Option<Ino>) -> Result<()> {
        if self.options.freshness == Freshness::Async && !self.is_late() {
            return self.join_commit(false).map(|_| ());
        }
        self.sync(ino)
    }

    /// Takes part in a commit; one that nobody waits for does not begin while commits are held. Returns up to which
    /// record all that was done before is durable.
    fn join_commit(&self, unasked: bool) -> Result<u64> {
        if !self.is_writable() {
            return match self.require_writable() {
                Err(VolumeError::ReadOnly) => Ok(0),
                other => other.map(|()| 0),
            };
        }
        self.commits.join(
            || (unasked && self.held.load(Ordering::SeqCst)).then_some(0),
            || self.commit(),
        )
    }

    /// From now on only `sync` and `close` commit: what comes between is one commit, or with [`Volume::abandon`] none.
    ///
    /// # Errors
    /// As [`Volume::sync`], which commits what was done before.
    pub fn hold_commits(&self) -> Result<()> {
        self.held.store(true, Ordering::SeqCst);
        self.sync(None)
    }

    /// Ends writing without a commit: what was not committed is lost when the volume is dropped, as after a crash.
    pub fn abandon(&self) {
        self.become_read_only();
    }

    /// Final commit; afterwards the volume is read-only.
    ///
    /// # Errors
    /// As [`Volume::sync`]; the volume is then still open for writing.
    pub fn close(&self) -> Result<()> {
        self.sync(None)?;
        self.become_read_only();
        let thread = self.committer.lock().take();
        if let Some(thread) = thread {
            thread.thread().unpark();
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
        Ok(())
    }

    /// Starts the thread that commits what nobody waits for.
    pub(crate) fn start_committer(self: &Arc<Self>) {
        let Some(interval) = self.options.commit_interval else {
            return;
        };
        let volume = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("volume-commit".to_owned());
        *self.committer.lock() = thread
            .spawn(move || commit_now_and_then(&volume, interval))
            .ok();
    }

    /// Makes everything durable; returns the newest durable record.
    fn commit(&self) -> Result<u64> {
        let mut log = self.log.lock();
        self.require_writable()?;
        let outcome = self.commit_to(&mut log);
        if outcome == Err(VolumeError::NoSpace) && self.release_retained(&mut log) {
            self.commit_to(&mut log)?;
            return Ok(log.head.0);
        }
        outcome.map(|()| log.head.0)
    }

    fn commit_to(&self, log: &mut Log) -> Result<()> {
        if self.pending.lock().is_clean() {
            return Ok(());
        }
        self.flush_dirty()?;
        let captured = self.capture(self.is_snapshot_due(log).then_some(log.head.0 + 1))?;
        self.write_captured(log, captured)
    }

    /// Whether the journal is long enough for a snapshot: as long as the last one, and never longer than a reader takes.
    fn is_snapshot_due(&self, log: &Log) -> bool {
        let (seq, bytes) = log.snapshot.unwrap_or_default();
        let limit = self.options.snapshot_after.max(bytes).min(JOURNAL_DUE);
        let records = log.head.0.saturating_sub(seq);
        let many = records > self.options.snapshot_after_records;
        many || log.journal_bytes > limit || log.files.len() > JOURNAL_FILES_MAX
    }

    /// Makes a captured state durable and anchored.
    pub(crate) fn commit_captured(
        &self,
        log: &mut MutexGuard<'_, Log>,
        captured: Captured,
    ) -> Result<()> {
        self.write_captured(log, captured)?;
        self.advance(log, self.options.anchor_deadline)
    }

    /// Makes a captured state durable; the anchor is behind from then on.
    fn write_captured(&self, log: &mut Log, mut captured: Captured) -> Result<()> {
        if captured.is_empty() && log.head == log.anchored {
            return Ok(());
        }
        let written = self
            .sync_segments(&captured)
            .and_then(|()| match captured.snapshot.take() {
                Some(pages) => self.append_snapshot(log, &pages),
                None => self.append(log, &captured.parts, FLAG_LAST),
            });
        if let Err(error) = written {
            self.restore(captured);
            return Err(error);
        }
        log.dead.append(&mut captured.superseded);
        self.behind.lock().get_or_insert_with(Instant::now);
        Ok(())
    }

    fn sync_segments(&self, captured: &Captured) -> Result<()> {
        let mut epochs = std::collections::BTreeSet::new();
        for id in &captured.unsynced {
            let Some((epoch, _)) = self.segments.lock().locate(*id, 0) else {
                continue;
            };
            match self.store.sync(&segment::path(epoch, *id)) {
                Ok(()) => {}
                Err(StoreError::NotFound) if self.segments.lock().get(*id).is_none() => {}
                Err(error) => return Err(self.sync_failed(error)),
            }
            if captured.created.contains(id) {
                epochs.insert(epoch);
            }
        }
        for epoch in epochs {
            for dir in [&format!("data/{epoch:08x}"), "data", ""] {
                self.store
                    .sync_dir(dir)
                    .map_err(|error| self.sync_failed(error))?;
            }
        }
        Ok(())
    }

    /// After a failed sync nobody knows what is durable, and a second one may lie.
    fn sync_failed(&self, error: StoreError) -> VolumeError {
        self.fail();
        error.into()
    }

    /// Appends records for `parts`, the last one with `flags`, and makes them durable.
    pub(crate) fn append(&self, log: &mut Log, parts: &[Vec<u8>], flags: u16) -> Result<()> {
        let (mut head, mut offset, mut files) = (log.head, log.offset, log.files.clone());
        let mut touched = Vec::new();
        let mut bytes = 0;
        for (number, part) in parts.iter().enumerate() {
            let flags = if number + 1 == parts.len() {
                flags
            } else {
                flags & !FLAG_LAST
            };
            let sealed =
                record::seal_record(&self.keys, &self.nonces, flags, head.0 + 1, head.1, part)?;
            let length = sealed.bytes.len() as u64;
            let fresh = files
                .last()
                .is_none_or(|(epoch, _)| *epoch != self.nonces.epoch);
            if fresh || offset + length > record::FILE_MAX || flags & FLAG_SNAPSHOT != 0 {
                files.push(next_file(&files, self.nonces.epoch));
                offset = 0;
            }
            let path = journal_path(*files.last().ok_or(VolumeError::TooBig)?);
            self.store.write_at(&path, offset, &sealed.bytes)?;
            if touched.last() != Some(&path) {
                touched.push(path);
            }
            head = (head.0 + 1, sealed.root);
            offset += length;
            bytes += length;
        }
        for path in &touched {
            self.store
                .sync(path)
                .map_err(|error| self.sync_failed(error))?;
        }
        if files.len() != log.files.len() {
            for dir in ["metadata", ""] {
                self.store
                    .sync_dir(dir)
                    .map_err(|error| self.sync_failed(error))?;
            }
        }
        (log.head, log.offset, log.files) = (head, offset, files);
        log.journal_bytes += bytes;
        Ok(())
    }

    /// Writes the pages of a snapshot and the record that starts a chain with it, in a journal file of its own.
    fn append_snapshot(&self, log: &mut Log, pages: &crate::capture::Pages) -> Result<()> {
        let path = snapshot::path(pages.seq);
        self.store.write_at(&path, 0, &pages.bytes)?;
        self.store
            .sync(&path)
            .map_err(|error| self.sync_failed(error))?;
        let old_files = log.files.clone();
        self.append(
            log,
            std::slice::from_ref(&pages.record),
            FLAG_LAST | FLAG_SNAPSHOT,
        )?;
        log.dead_files
            .extend(old_files.into_iter().map(journal_path));
        log.dead_files
            .extend(log.snapshot.map(|(seq, _)| snapshot::path(seq)));
        log.files.drain(..log.files.len() - 1);
        log.snapshot = Some((pages.seq, pages.bytes.len() as u64));
        log.journal_bytes = 0;
        log.superblock_due = true;
        Ok(())
    }
}

/// The store's name of a journal file.
pub(crate) fn journal_path((epoch, number): (u32, u32)) -> String {
    format!("metadata/journal-{epoch:08x}-{number:08x}")
}

fn next_file(files: &[(u32, u32)], epoch: u32) -> (u32, u32) {
    let last = files
        .iter()
        .filter(|(of, _)| *of == epoch)
        .map(|(_, number)| *number)
        .max();
    (epoch, last.map_or(0, |number| number + 1))
}

fn commit_now_and_then(volume: &Weak<Volume>, interval: Duration) {
    loop {
        std::thread::park_timeout(interval);
        let Some(volume) = volume.upgrade() else {
            return;
        };
        if !volume.is_writable() {
            return;
        }
        let clean = volume.pending.lock().is_clean();
        if !clean {
            // Whoever waits for this commit learns its error from `sync`; the next round tries again.
            let _ = volume.join_commit(true);
        }
        let _ = volume.catch_up(Duration::ZERO);
    }
}
