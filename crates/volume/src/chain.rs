//! Finding the records of a volume: all journal files are indexed by hash, and the chain is followed backwards from
//! the anchored root. What does not authenticate is not kept, and what does not lead there is not looked at.

use std::collections::HashMap;

use crate::api::{Position, Store};
use crate::codec::damaged;
use crate::commit::journal_path;
use crate::error::VolumeError;
use crate::record::{self, FILE_MAX, FLAG_LAST, FLAG_SNAPSHOT, Header, PAYLOAD_MAX};
use crate::seal::Keys;
use crate::volume::Result;

/// Bytes of a journal file that are looked at.
const JOURNAL_MAX: u64 = FILE_MAX + (PAYLOAD_MAX + Header::SIZE) as u64;

/// What a store can make a mount read and keep. A writer stays far below: it writes a snapshot after
/// [`crate::commit::RECORDS_DUE`] records or [`crate::commit::JOURNAL_DUE`] bytes at the latest.
struct Limits {
    files: usize,
    /// In all files together.
    bytes: u64,
    /// Authentic ones, each counted once.
    records: usize,
}

const LIMITS: Limits = Limits {
    files: 4096,
    bytes: 8 << 30,
    records: 1 << 21,
};

/// A record somewhere in the journal.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub file: (u32, u32),
    pub offset: u64,
    pub header: Header,
    /// The root after this record.
    pub root: [u8; 32],
}

impl Place {
    /// Header and ciphertext in bytes.
    pub fn length(&self) -> u64 {
        Header::SIZE as u64 + u64::from(self.header.length)
    }

    pub fn position(&self) -> Position {
        (self.header.seq, self.root)
    }
}

/// Every authentic record of the store, by the root after it. What follows what, only the anchored root decides.
pub struct Index {
    by_root: HashMap<[u8; 32], Place>,
    by_prev: HashMap<[u8; 32], Vec<Place>>,
    /// All journal files that were found.
    pub files: Vec<(u32, u32)>,
    /// The highest sequence that anything well-formed claims; for messages.
    claimed: u64,
}

impl Index {
    /// Reads all journal files.
    ///
    /// # Errors
    /// `Integrity` when there is more of it than any writer leaves, `Io`.
    pub fn read(store: &dyn Store, keys: &Keys) -> Result<Self> {
        Self::read_within(store, keys, &LIMITS)
    }

    fn read_within(store: &dyn Store, keys: &Keys, limits: &Limits) -> Result<Self> {
        let mut files: Vec<_> = store
            .list("metadata")?
            .iter()
            .filter_map(|name| parse_name(name))
            .collect();
        if files.len() > limits.files {
            return Err(too_many(files.len(), "files", limits.files as u64));
        }
        files.sort_unstable();
        let mut index = Self {
            by_root: HashMap::new(),
            by_prev: HashMap::new(),
            files,
            claimed: 0,
        };
        let mut bytes = 0;
        for file in index.files.clone() {
            bytes += scan(store, file, |place, raw| index.take(keys, place, raw))?;
            if bytes > limits.bytes {
                return Err(too_many(bytes, "bytes", limits.bytes));
            }
            if index.by_root.len() > limits.records {
                let found = index.by_root.len();
                return Err(too_many(found, "records", limits.records as u64));
            }
        }
        Ok(index)
    }

    /// Keeps a record if it is authentic and new: a store can make up others, or show one often, without end.
    fn take(&mut self, keys: &Keys, place: Place, raw: &[u8]) {
        self.claimed = self.claimed.max(place.header.seq);
        if self.by_root.contains_key(&place.root) || record::open_record(keys, raw).is_err() {
            return;
        }
        let next = self.by_prev.entry(place.header.prev_root);
        next.or_default().push(place);
        self.by_root.insert(place.root, place);
    }

    /// The records from a snapshot or the first record up to exactly `end`, oldest first.
    ///
    /// # Errors
    /// `Rollback` when the store does not lead there; that of reading a record that is there and does not authenticate.
    pub fn chain(&self, store: &dyn Store, keys: &Keys, end: Position) -> Result<Vec<Place>> {
        let mut chain = Vec::new();
        let mut position = end;
        while position != (0, [0; 32]) {
            let place = self
                .by_root
                .get(&position.1)
                .filter(|place| place.header.seq == position.0);
            let Some(place) = place else {
                self.why_not_kept(store, keys, position)?;
                return Err(self.missing(end, position));
            };
            chain.push(*place);
            if place.header.flags & FLAG_SNAPSHOT != 0 {
                break;
            }
            let before = position
                .0
                .checked_sub(1)
                .ok_or_else(|| self.missing(end, position))?;
            position = (before, place.header.prev_root);
        }
        chain.reverse();
        Ok(chain)
    }

    /// Looks once more for a record that the root vouches for and the key did not open, and fails as that does.
    fn why_not_kept(&self, store: &dyn Store, keys: &Keys, at: Position) -> Result<()> {
        for file in &self.files {
            let mut found = None;
            scan(store, *file, |place, _| {
                if place.position() == at {
                    found = Some(place);
                }
            })?;
            if let Some(place) = found {
                read(store, keys, &place)?;
            }
        }
        Ok(())
    }

    fn missing(&self, end: Position, at: Position) -> VolumeError {
        let found = self
            .by_root
            .values()
            .map(|place| place.header.seq)
            .filter(|seq| *seq < end.0)
            .max();
        let detail = if at == end && self.claimed >= end.0 {
            format!(
                "it has another record {}: changed bytes, another branch, or another volume",
                end.0
            )
        } else if at == end {
            "the newest records are missing, changed or older than the anchor".to_owned()
        } else {
            format!(
                "record {}, which the anchored one builds on, is missing or changed",
                at.0
            )
        };
        VolumeError::Rollback {
            anchored: end.0,
            found: found.unwrap_or(0),
            detail,
        }
    }

    /// Records with which a chain may begin: with a snapshot, or the very first ones.
    pub fn beginnings(&self) -> Vec<Place> {
        let first = |place: &&Place| {
            place.header.flags & FLAG_SNAPSHOT != 0
                || (place.header.seq, place.header.prev_root) == (1, [0; 32])
        };
        self.by_root.values().filter(first).copied().collect()
    }

    /// The records that build on this one.
    pub fn after(&self, place: &Place) -> Vec<Place> {
        let next = self.by_prev.get(&place.root).into_iter().flatten();
        next.filter(|next| next.header.seq == place.header.seq.saturating_add(1))
            .copied()
            .collect()
    }

    /// The commits after `head`, if they are complete, of an epoch from `head_epoch` to below `epoch`, and authentic:
    /// what a crash left that was not anchored yet.
    pub fn beyond(
        &self,
        store: &dyn Store,
        keys: &Keys,
        head: Position,
        head_epoch: u32,
        epoch: u32,
    ) -> Vec<Place> {
        let mut kept = Vec::new();
        let mut open = Vec::new();
        let mut at = (head, head_epoch);
        loop {
            let fits = |place: &&Place| {
                place.header.seq == at.0.0 + 1 && (at.1..epoch).contains(&place.header.epoch)
            };
            let next = self
                .by_prev
                .get(&at.0.1)
                .into_iter()
                .flatten()
                .filter(fits)
                .max_by_key(|p| p.header.epoch);
            let Some(place) = next.filter(|place| read(store, keys, place).is_ok()) else {
                return kept;
            };
            at = (place.position(), place.header.epoch);
            open.push(*place);
            if place.header.flags & FLAG_LAST != 0 {
                kept.append(&mut open);
            }
        }
    }
}

/// Hands each well-formed record of a journal file to `each`, with its bytes; returns how many bytes were read.
fn scan(store: &dyn Store, file: (u32, u32), mut each: impl FnMut(Place, &[u8])) -> Result<u64> {
    let path = journal_path(file);
    let size = store.size(&path)?.min(JOURNAL_MAX);
    let mut raw = vec![0; usize::try_from(size).map_err(|_| VolumeError::TooBig)?];
    let got = store.read_at(&path, 0, &mut raw)?;
    raw.truncate(got);
    let (mut rest, mut offset) = (raw.as_slice(), 0);
    while let Ok(header) = Header::parse(rest) {
        let Some((bytes, tail)) = rest.split_at_checked(Header::SIZE + header.length as usize)
        else {
            break;
        };
        let place = Place {
            file,
            offset,
            header,
            root: record::next_root(&header.prev_root, bytes),
        };
        offset += place.length();
        each(place, bytes);
        rest = tail;
    }
    Ok(got as u64)
}

fn too_many(found: impl std::fmt::Display, what: &str, limit: u64) -> VolumeError {
    damaged(
        "the journal",
        format!("{found} {what}, the limit is {limit}"),
    )
}

/// Reads and opens a record; its bytes must still be those that were indexed.
pub fn read(store: &dyn Store, keys: &Keys, place: &Place) -> Result<Vec<u8>> {
    let mut raw = vec![0; usize::try_from(place.length()).map_err(|_| VolumeError::TooBig)?];
    let got = store.read_at(&journal_path(place.file), place.offset, &mut raw)?;
    raw.truncate(got);
    let what = || format!("journal record {}", place.header.seq);
    if record::next_root(&place.header.prev_root, &raw) != place.root {
        return Err(damaged(what(), "its bytes changed between two reads"));
    }
    let (header, payload) = record::open_record(keys, &raw)?;
    if header != place.header {
        return Err(damaged(what(), "its bytes changed between two reads"));
    }
    Ok(payload)
}

/// Epoch and number of a journal file, by its name in the store's directory of metadata.
pub fn parse_name(name: &str) -> Option<(u32, u32)> {
    let (epoch, number) = name.strip_prefix("journal-")?.split_once('-')?;
    let file = (
        u32::from_str_radix(epoch, 16).ok()?,
        u32::from_str_radix(number, 16).ok()?,
    );
    (journal_path(file).strip_prefix("metadata/") == Some(name)).then_some(file)
}

#[cfg(test)]
mod tests;
