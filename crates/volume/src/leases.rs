//! Readers of older states: what those reference stays in the store until their leases end. docs/formats/volume-v1.md,
//! "Leases".
//!
//! The anchor's keeper says with each advance for how long older states are leased. A lease is a courtesy: what is read
//! is authenticated, and a reader whose room was used again gets an error, never other data. So time and bytes have bounds
//! of the writer's own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::commit::Log;
use crate::segment::Dead;
use crate::volume::Volume;

/// The longest that anything is kept, whatever the keeper says.
const LEASE_MAX: Duration = Duration::from_mins(10);

/// Dead slots that are not given back yet, oldest first, each with the end of the leases when it died.
#[derive(Default)]
pub(crate) struct Retained {
    slots: VecDeque<(Instant, Dead)>,
    bytes: u64,
}

impl Retained {
    fn push(&mut self, until: Instant, dead: Dead) {
        self.bytes = self.bytes.saturating_add(u64::from(dead.bytes));
        self.slots.push_back((until, dead));
    }

    /// Takes the oldest one if its time is over, or there are more bytes than `most`.
    fn pop(&mut self, now: Instant, most: u64) -> Option<Dead> {
        let (until, _) = self.slots.front()?;
        if *until > now && self.bytes <= most {
            return None;
        }
        let (_, dead) = self.slots.pop_front()?;
        self.bytes = self.bytes.saturating_sub(u64::from(dead.bytes));
        Some(dead)
    }
}

impl Volume {
    /// For how long states before the anchored one are leased.
    pub(crate) fn leased(&self) -> Duration {
        let leased = self.anchor.as_ref().map(|anchor| anchor.leased());
        leased.unwrap_or_default().min(LEASE_MAX)
    }

    /// Gives dead slots back, or keeps them until the leases of older states end.
    pub(crate) fn retire(&self, log: &mut Log, dead: Vec<Dead>) {
        let (now, leased) = (Instant::now(), self.leased());
        for dead in dead {
            if leased.is_zero() {
                self.give_back(dead);
            } else {
                log.retained.push(now + leased, dead);
            }
        }
        let live = self.segments.lock().live_bytes(); // with what is kept
        let live = live.saturating_sub(log.retained.bytes);
        let most = live.max(self.options.retain_bytes);
        while let Some(dead) = log.retained.pop(now, most) {
            self.give_back(dead);
        }
    }

    /// Gives back all that is kept for readers, where a call found the store full: what they lose is less than what the
    /// writer would. Beside a commit nothing is done: that finds the same.
    pub fn end_leases(&self) {
        if let Some(mut log) = self.log.try_lock() {
            self.release_retained(&mut log);
        }
    }

    /// Gives back all that is kept for readers; whether that was anything.
    pub(crate) fn release_retained(&self, log: &mut Log) -> bool {
        let slots = std::mem::take(&mut log.retained).slots;
        let any = !slots.is_empty();
        for (_, dead) in slots {
            self.give_back(dead);
        }
        any
    }
}
