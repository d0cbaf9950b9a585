//! Moving the anchor to what is durable, and what may go once it has moved. docs/formats/volume-v1.md, "Commit".

use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use crate::api::{Freshness, Position};
use crate::commit::Log;
use crate::error::{AnchorError, VolumeError};
use crate::record::FLAG_LAST;
use crate::superblock::{self, Superblock};
use crate::volume::{Result, Volume};

/// Pause after the anchor did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Where the anchor is to move, and how much of `dead` and `dead_files` may go then: what comes later belongs to states
/// after it.
struct Step {
    to: Position,
    dead: usize,
    dead_files: usize,
    begun: Instant,
}

impl Step {
    fn to_head(log: &Log) -> Self {
        Self {
            to: log.head,
            dead: log.dead.len(),
            dead_files: log.dead_files.len(),
            begun: Instant::now(),
        }
    }
}

impl Volume {
    /// When a write is anchored.
    pub fn freshness(&self) -> Freshness {
        self.options.freshness
    }

    /// Whether the anchor is behind for longer than the freshness allows.
    pub(crate) fn is_late(&self) -> bool {
        let window = self.options.anchor_window;
        let since = *self.behind.lock();
        since.is_some_and(|since| since.elapsed() >= window)
    }

    /// Waits until the anchor is at record `seq` or beyond: one of those who wait moves it, for all of them.
    pub(crate) fn join_advance(&self, seq: u64) -> Result<()> {
        let anchored = || Some(self.anchored.lock().0).filter(|reached| *reached >= seq);
        let advance = || self.advance_alone(self.options.anchor_deadline);
        self.advances.join(anchored, advance).map(|_| ())
    }

    /// Moves the anchor to where the store is, if it is known to be behind.
    pub(crate) fn catch_up(&self, patience: Duration) -> Result<()> {
        if self.behind.lock().is_none() {
            return Ok(());
        }
        self.advance_alone(patience).map(|_| ())
    }

    /// Moves the anchor to where the store is; returns the record at which it stands.
    fn advance_alone(&self, patience: Duration) -> Result<u64> {
        let _alone = self.anchoring.lock();
        let mut log = self.log.lock();
        self.require_writable()?;
        self.advance(&mut log, patience)?;
        Ok(log.anchored.0)
    }

    /// Moves the anchor to the head, trying again while it does not answer. The log is free meanwhile, so that
    /// more may become durable; the caller holds `anchoring`, or is alone.
    pub(crate) fn advance(&self, log: &mut MutexGuard<'_, Log>, patience: Duration) -> Result<()> {
        if log.head == log.anchored {
            return Ok(());
        }
        let anchor = self.anchor.as_ref().ok_or(VolumeError::ReadOnly)?;
        let deadline = Instant::now() + patience;
        let mut from = log.anchored;
        let mut candidates = log.attempted.clone();
        let step = loop {
            let step = Step::to_head(log);
            let epoch = self.nonces.epoch;
            match MutexGuard::unlocked(log, || anchor.advance(epoch, from, step.to)) {
                Ok(()) => break step,
                Err(AnchorError::Unreachable(text)) => {
                    if !log.attempted.contains(&step.to) {
                        log.attempted.push(step.to);
                        candidates.push(step.to);
                    }
                    if Instant::now() + RETRY_PAUSE > deadline {
                        return Err(VolumeError::Anchor(AnchorError::Unreachable(text)));
                    }
                    MutexGuard::unlocked(log, || std::thread::sleep(RETRY_PAUSE));
                }
                // An advance that seemed lost may have happened: go on from where it would have led.
                Err(AnchorError::Conflict) => {
                    let Some(position) = candidates.pop() else {
                        self.fence();
                        return Err(VolumeError::Anchor(AnchorError::Conflict));
                    };
                    from = position;
                    if position == log.head {
                        self.append(log, &[Vec::new()], FLAG_LAST)?;
                    }
                }
                Err(AnchorError::Fenced) => {
                    self.fence();
                    return Err(VolumeError::LeaseLost);
                }
                Err(error @ AnchorError::Refused(_)) => return Err(VolumeError::Anchor(error)),
            }
        };
        log.anchored = step.to;
        log.attempted.clear();
        *self.anchored.lock() = step.to;
        *self.behind.lock() = (log.head != step.to).then_some(step.begun);
        self.settle(log, &step);
        Ok(())
    }

    /// After the anchor moved: what only older states referenced may go.
    fn settle(&self, log: &mut Log, step: &Step) {
        let dead = log.dead.drain(..step.dead).collect();
        self.retire(log, dead);
        if log.superblock_due {
            log.superblock_due = self.write_superblock(log).is_err();
        }
        if !log.superblock_due {
            let leased = !self.leased().is_zero();
            for path in log.dead_files.drain(..step.dead_files) {
                // A segment that a leased state may need is a leftover for a later mount.
                if !(leased && path.starts_with("data/")) {
                    let _ = self.store.remove(&path);
                }
            }
        }
    }

    /// Writes the older of both superblocks anew. It is a hint: a failure costs nothing but time at the next mount.
    pub(crate) fn write_superblock(&self, log: &mut Log) -> Result<()> {
        let generation = log.generation + 1;
        let superblock = Superblock {
            volume_id: self.keys.volume_id,
            chunk_size: self.chunk_size,
            key_version: self.keys.newest().version,
            generation,
            seq: log.anchored.0,
            snapshot: log.snapshot.map_or(0, |(seq, _)| seq),
            journal: log.files.last().copied().unwrap_or_default(),
        };
        self.store
            .replace(superblock::path(generation), &superblock.encode())?;
        log.generation = generation;
        Ok(())
    }
}
