//! Objects that no anchored state references: other branches, uncommitted segments, older snapshots.
//!
//! Only what this format names is removed, and nothing of an epoch after this one: a store may hold other things, and
//! where it has no lock (a bucket), a newer writer may be at work already.

use std::collections::HashSet;

use crate::chain;
use crate::commit::{Log, journal_path};
use crate::snapshot;
use crate::volume::Volume;

/// Directories and segments that are looked at: the store can invent more without end.
pub(crate) const NAMES_MAX: usize = 1 << 20;

impl Volume {
    /// Whatever cannot be removed now is found again by the next mount.
    pub(crate) fn remove_leftovers(&self, log: &Log) {
        let epoch = self.nonces.epoch;
        let live: HashSet<String> = {
            let segments = self.segments.lock();
            segments
                .iter()
                .map(|(id, segment)| crate::segment::path(segment.epoch, id))
                .collect()
        };
        let mut metadata: HashSet<String> =
            log.files.iter().map(|file| journal_path(*file)).collect();
        metadata.extend(log.snapshot.map(|(seq, _)| snapshot::path(seq)));
        for name in self.store.list("metadata").unwrap_or_default() {
            let path = format!("metadata/{name}");
            let journal = chain::parse_name(&name).is_some_and(|(of, _)| of <= epoch);
            let snapshot = snapshot::parse_name(&name).is_some_and(|seq| seq <= log.head.0);
            if (journal || snapshot) && !metadata.contains(&path) {
                let _ = self.store.remove(&path);
            }
        }
        if !self.leased().is_zero() {
            return; // segments of a state that a reader may hold: a later mount finds them again
        }
        let mut looked_at = 0;
        for of in self.store.list("data").unwrap_or_default() {
            if number(&of).is_none_or(|of| of > epoch) {
                continue;
            }
            looked_at += 1;
            if looked_at > NAMES_MAX {
                return;
            }
            for name in self.store.list(&format!("data/{of}")).unwrap_or_default() {
                looked_at += 1;
                let path = format!("data/{of}/{name}");
                if number(&name).is_some() && !live.contains(&path) {
                    let _ = self.store.remove(&path);
                }
            }
        }
    }
}

/// The number of an epoch or a segment, written as the format writes it.
fn number(name: &str) -> Option<u32> {
    let number = u32::from_str_radix(name, 16).ok()?;
    (format!("{number:08x}") == name).then_some(number)
}
