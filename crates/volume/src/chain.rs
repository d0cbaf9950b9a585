//! Finding the records of a volume: all journal files are indexed by hash, and the chain is followed backwards from
//! the anchored root. What does not lead there, is not looked at.

use std::collections::HashMap;

use crate::api::{Position, Store};
use crate::codec::damaged;
use crate::commit::journal_path;
use crate::error::VolumeError;
use crate::record::{self, FILE_MAX, FLAG_LAST, FLAG_SNAPSHOT, Header, PAYLOAD_MAX};
use crate::seal::Keys;
use crate::volume::Result;

/// Most journal files, and bytes in one, that are looked at.
const FILES_MAX: usize = 4096;
const JOURNAL_MAX: u64 = FILE_MAX + (PAYLOAD_MAX + Header::SIZE) as u64;

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

/// Every well-formed record of the store, by the root after it. Nothing is authenticated.
pub struct Index {
    by_root: HashMap<[u8; 32], Place>,
    by_prev: HashMap<[u8; 32], Vec<Place>>,
    /// All journal files that were found.
    pub files: Vec<(u32, u32)>,
}

impl Index {
    pub fn read(store: &dyn Store) -> Result<Self> {
        let mut files: Vec<_> = store
            .list("metadata")?
            .iter()
            .filter_map(|name| parse_name(name))
            .collect();
        if files.len() > FILES_MAX {
            return Err(damaged(
                "the journal",
                format!("{} files, the limit is {FILES_MAX}", files.len()),
            ));
        }
        files.sort_unstable();
        let mut index = Self {
            by_root: HashMap::new(),
            by_prev: HashMap::new(),
            files,
        };
        for file in index.files.clone() {
            index.read_file(store, file)?;
        }
        Ok(index)
    }

    fn read_file(&mut self, store: &dyn Store, file: (u32, u32)) -> Result<()> {
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
            let root = record::next_root(&header.prev_root, bytes);
            let place = Place {
                file,
                offset,
                header,
                root,
            };
            offset += place.length();
            self.by_prev
                .entry(header.prev_root)
                .or_default()
                .push(place);
            self.by_root.insert(root, place);
            rest = tail;
        }
        Ok(())
    }

    /// The records from a snapshot or the first record up to exactly `end`, oldest first.
    pub fn chain(&self, end: Position) -> Result<Vec<Place>> {
        let mut chain = Vec::new();
        let mut position = end;
        while position != (0, [0; 32]) {
            let place = self
                .by_root
                .get(&position.1)
                .filter(|place| place.header.seq == position.0);
            let Some(place) = place else {
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

    fn missing(&self, end: Position, at: Position) -> VolumeError {
        let found = self
            .by_root
            .values()
            .map(|place| place.header.seq)
            .filter(|seq| *seq < end.0)
            .max();
        let detail = if at == end && self.by_root.values().any(|place| place.header.seq >= end.0) {
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
