//! Where the chunks of a file lie. Absent entries are holes: authenticated zeros.

use std::collections::BTreeMap;

use crate::codec::Reader;
use crate::error::VolumeError;
use crate::seal::{Seal, TAG};

/// Entries of one leaf.
const FANOUT: u64 = 128;
/// One leaf: as long as its last entry that was ever set, at most `FANOUT`.
type Leaf = Vec<Entry>;

/// One sealed chunk: 32 bytes on disk. Of an authenticated file these are the SHA-256 of the plain chunk instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Segment number; 0 in an absent entry.
    pub segment: u32,
    /// Slot: the offset in the segment in units of the segment's kind.
    pub slot: u32,
    /// Nonce counter and tag; the nonce's epoch is the segment's.
    pub seal: Seal,
}

impl Entry {
    /// Encoded size in bytes.
    pub const SIZE: usize = 32;

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.segment.to_be_bytes());
        out.extend_from_slice(&self.slot.to_be_bytes());
        out.extend_from_slice(&self.seal.counter.to_be_bytes());
        out.extend_from_slice(&self.seal.tag);
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, VolumeError> {
        let (segment, slot) = (reader.u32()?, reader.u32()?);
        let seal = Seal {
            counter: reader.u64()?,
            tag: reader.array::<TAG>()?,
        };
        Ok(Self {
            segment,
            slot,
            seal,
        })
    }
}

/// Chunk index to entry, in leaves of 128. Most files have few chunks: one short leaf and nothing else.
#[derive(Default)]
pub struct ChunkMap {
    first: Leaf,
    /// Leaves from the second on, by their number.
    rest: BTreeMap<u64, Leaf>,
    present: u64,
}

impl ChunkMap {
    /// Number of present entries.
    pub fn present(&self) -> u64 {
        self.present
    }

    pub fn get(&self, index: u64) -> Option<Entry> {
        let leaf = match index / FANOUT {
            0 => &self.first,
            key => self.rest.get(&key)?,
        };
        leaf.get(offset(index)).copied().filter(is_present)
    }

    /// Sets or, with `None`, removes an entry; returns the one that was there.
    pub fn set(&mut self, index: u64, entry: Option<Entry>) -> Option<Entry> {
        if entry.is_none() {
            self.get(index)?;
        }
        let leaf = match index / FANOUT {
            0 => &mut self.first,
            key => self.rest.entry(key).or_default(),
        };
        grow(leaf, offset(index) + 1);
        let place = leaf.get_mut(offset(index))?;
        let old = std::mem::replace(place, entry.unwrap_or_default());
        self.present += u64::from(entry.is_some());
        if !is_present(&old) {
            return None;
        }
        self.present -= 1;
        Some(old)
    }

    /// Removes all entries from `index` on and hands them to `dropped`.
    pub fn cut(&mut self, index: u64, mut dropped: impl FnMut(Entry)) {
        let mut removed = Vec::new();
        let within = offset(index);
        match index / FANOUT {
            0 => {
                removed.push(self.first.split_off(within.min(self.first.len())));
                removed.extend(std::mem::take(&mut self.rest).into_values());
            }
            key => {
                let mut tail = self.rest.split_off(&key);
                if within > 0
                    && let Some(mut leaf) = tail.remove(&key)
                {
                    removed.push(leaf.split_off(within.min(leaf.len())));
                    self.rest.insert(key, leaf);
                }
                removed.extend(tail.into_values());
            }
        }
        for entry in removed.into_iter().flatten().filter(is_present) {
            dropped(entry);
            self.present -= 1;
        }
    }

    /// Indices of the present entries from `first` on, in order.
    pub fn from(&self, first: u64) -> impl Iterator<Item = u64> + '_ {
        let key = first / FANOUT;
        let head = (key == 0).then_some((0, &self.first));
        let rest = self
            .rest
            .range(key.max(1)..)
            .map(|(key, leaf)| (*key, leaf));
        head.into_iter().chain(rest).flat_map(move |(key, leaf)| {
            let entries = (key * FANOUT..).zip(leaf);
            entries.filter_map(move |(index, entry)| {
                (index >= first && is_present(entry)).then_some(index)
            })
        })
    }

    /// All present entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Entry)> + '_ {
        let rest = self.rest.iter().map(|(key, leaf)| (*key, leaf));
        std::iter::once((0, &self.first))
            .chain(rest)
            .flat_map(|(key, leaf)| {
                (key * FANOUT..)
                    .zip(leaf.iter().copied())
                    .filter(|(_, entry)| is_present(entry))
            })
    }
}

/// A segment 0 that is not all zeros is of an authenticated file, or refers to nothing.
pub fn is_present(entry: &Entry) -> bool {
    *entry != Entry::default()
}

/// Makes a leaf at least `length` long; the first entry takes no more room than itself.
fn grow(leaf: &mut Leaf, length: usize) {
    if leaf.capacity() < length {
        leaf.reserve_exact(length.next_power_of_two() - leaf.len());
    }
    if leaf.len() < length {
        leaf.resize(length, Entry::default());
    }
}

#[allow(clippy::cast_possible_truncation)] // below 128
fn offset(index: u64) -> usize {
    (index % FANOUT) as usize
}
