//! Where the chunks of a file lie. Absent entries are holes: authenticated zeros.

use std::collections::BTreeMap;

use crate::codec::Reader;
use crate::error::VolumeError;
use crate::seal::{Seal, TAG};

/// Entries of one leaf.
const FANOUT: u64 = 128;
/// One leaf.
type Leaf = [Entry; 128];

/// One sealed chunk: 32 bytes on disk.
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

/// Chunk index to entry, in leaves of 128.
#[derive(Default)]
pub struct ChunkMap {
    leaves: BTreeMap<u64, Box<Leaf>>,
    present: u64,
}

impl ChunkMap {
    /// Number of present entries.
    pub fn present(&self) -> u64 {
        self.present
    }

    pub fn get(&self, index: u64) -> Option<Entry> {
        let leaf = self.leaves.get(&(index / FANOUT))?;
        leaf.get(offset(index))
            .filter(|entry| entry.segment != 0)
            .copied()
    }

    /// Sets or, with `None`, removes an entry; returns the one that was there.
    pub fn set(&mut self, index: u64, entry: Option<Entry>) -> Option<Entry> {
        let key = index / FANOUT;
        if entry.is_none() && !self.leaves.contains_key(&key) {
            return None;
        }
        let leaf = self
            .leaves
            .entry(key)
            .or_insert_with(|| Box::new([Entry::default(); 128]));
        let place = leaf.get_mut(offset(index))?;
        let old = std::mem::replace(place, entry.unwrap_or_default());
        self.present += u64::from(entry.is_some());
        if old.segment == 0 {
            return None;
        }
        self.present -= 1;
        Some(old)
    }

    /// Removes all entries from `index` on and hands them to `dropped`.
    pub fn cut(&mut self, index: u64, mut dropped: impl FnMut(Entry)) {
        let mut tail = self.leaves.split_off(&(index / FANOUT));
        if !index.is_multiple_of(FANOUT)
            && let Some(mut leaf) = tail.remove(&(index / FANOUT))
        {
            for entry in leaf
                .iter_mut()
                .skip(offset(index))
                .filter(|entry| entry.segment != 0)
            {
                dropped(std::mem::take(entry));
                self.present -= 1;
            }
            self.leaves.insert(index / FANOUT, leaf);
        }
        for entry in tail
            .values()
            .flat_map(|leaf| leaf.iter())
            .filter(|entry| entry.segment != 0)
        {
            dropped(*entry);
            self.present -= 1;
        }
    }

    /// All present entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Entry)> + '_ {
        self.leaves.iter().flat_map(|(key, leaf)| {
            (key * FANOUT..)
                .zip(leaf.iter().copied())
                .filter(|(_, entry)| entry.segment != 0)
        })
    }
}

#[allow(clippy::cast_possible_truncation)] // below 128
fn offset(index: u64) -> usize {
    (index % FANOUT) as usize
}
