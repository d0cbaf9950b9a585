//! What an inode holds. A file that nobody changes takes 16 bytes and one allocation of the size of what it holds;
//! who changes it sees [`FileData`], and when that is done with, the content is compact again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use crate::chunkmap::{ChunkMap, Entry};
use crate::codec::Reader;

/// Chunks that a compact file may have.
const FEW: u64 = 8;

/// First byte of compact content: what follows it. Nothing at all is no content.
const INLINE: u8 = 1;
/// Entries of the first chunks, as they are written.
const CHUNKS: u8 = 2;
/// A device's number.
const DEVICE: u8 = 3;

/// Content of a regular file, target of a symbolic link, number of a device.
pub struct Content(Form);

enum Form {
    Compact(Box<[u8]>),
    Open(Box<FileData>),
}

/// Content of a regular file.
///
/// Every present entry of `map` holds `min(chunk size, size - index * chunk size)` plain bytes, unless the chunk is in
/// `dirty`, which then counts. A dirty buffer may be shorter than its chunk: the rest is zeros.
#[derive(Default)]
pub struct FileData {
    /// Content of a small file, or target of a symbolic link; `map` and `dirty` are then empty.
    pub inline: Option<Vec<u8>>,
    pub map: ChunkMap,
    pub dirty: BTreeMap<u64, Vec<u8>>,
    /// Entries of `map` changed since the last record.
    pub changed: BTreeSet<u64>,
    /// Entries from here on were removed since the last record (before `changed`).
    pub cut: Option<u64>,
    /// Where the store has the content of an authenticated file, as its sealed name says.
    pub plain: Option<Box<str>>,
    /// Number of a device; 0 for anything else.
    pub device: u32,
}

/// Content to read, in either form.
#[derive(Clone, Copy)]
pub enum View<'a> {
    Compact(&'a [u8]),
    Open(&'a FileData),
}

/// Content to change; compact again, if it can be, when this is dropped.
pub struct Changing<'a> {
    content: &'a mut Content,
    data: Box<FileData>,
}

impl Content {
    /// Of a new inode.
    pub fn new(inline: Option<&[u8]>, device: u32) -> Self {
        let (tag, bytes) = match inline {
            Some(bytes) => (INLINE, bytes),
            None if device != 0 => (DEVICE, &device.to_be_bytes()[..]),
            None => return Self::default(),
        };
        Self(Form::Compact([&[tag], bytes].concat().into_boxed_slice()))
    }

    pub fn view(&self) -> View<'_> {
        match &self.0 {
            Form::Compact(bytes) => View::Compact(bytes),
            Form::Open(data) => View::Open(data),
        }
    }

    pub fn change(&mut self) -> Changing<'_> {
        let data = match std::mem::take(self).0 {
            Form::Compact(bytes) => Box::new(View::Compact(&bytes).opened()),
            Form::Open(data) => data,
        };
        Changing {
            content: self,
            data,
        }
    }
}

impl Default for Content {
    /// None.
    fn default() -> Self {
        Self(Form::Compact(Box::default()))
    }
}

impl Deref for Changing<'_> {
    type Target = FileData;

    fn deref(&self) -> &FileData {
        &self.data
    }
}

impl DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut FileData {
        &mut self.data
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        *self.content = match self.data.compact() {
            Some(compact) => compact,
            None => Content(Form::Open(std::mem::take(&mut self.data))),
        };
    }
}

impl<'a> View<'a> {
    /// Content of a small file, or target of a symbolic link.
    pub fn inline(self) -> Option<&'a [u8]> {
        match self {
            Self::Compact([INLINE, bytes @ ..]) => Some(bytes),
            Self::Compact(_) => None,
            Self::Open(data) => data.inline.as_deref(),
        }
    }

    /// Number of a device; 0 for anything else.
    pub fn device(self) -> u32 {
        match self {
            Self::Compact([DEVICE, a, b, c, d]) => u32::from_be_bytes([*a, *b, *c, *d]),
            Self::Compact(_) => 0,
            Self::Open(data) => data.device,
        }
    }

    /// Where a chunk lies.
    pub fn entry(self, index: u64) -> Option<Entry> {
        match self {
            Self::Compact(_) => {
                let start = usize::try_from(index).ok()?.checked_mul(Entry::SIZE)?;
                let raw = self.entries_raw().get(start..)?.get(..Entry::SIZE)?;
                Entry::decode(&mut Reader::new(raw, "a chunk")).ok()
            }
            Self::Open(data) => data.map.get(index),
        }
    }

    /// A chunk that waits in memory.
    pub fn waiting(self, index: u64) -> Option<&'a [u8]> {
        match self {
            Self::Compact(_) => None,
            Self::Open(data) => data.dirty.get(&index).map(Vec::as_slice),
        }
    }

    /// Whether a chunk waits in memory.
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::Open(data) if !data.dirty.is_empty())
    }

    /// Where the store has the content of an authenticated file.
    pub fn plain(self) -> Option<&'a str> {
        match self {
            Self::Compact(_) => None,
            Self::Open(data) => data.plain.as_deref(),
        }
    }

    /// Chunks that lie in the store or wait in memory, from above: some may do both.
    pub fn chunks(self) -> u64 {
        match self {
            Self::Compact(_) => (self.entries_raw().len() / Entry::SIZE) as u64,
            Self::Open(data) => data.map.present().saturating_add(data.dirty.len() as u64),
        }
    }

    /// All present entries in order.
    pub fn entries(self) -> impl Iterator<Item = (u64, Entry)> + 'a {
        let (few, map) = match self {
            Self::Compact(_) => (self.chunks(), None),
            Self::Open(data) => (0, Some(data.map.iter())),
        };
        let compact = (0..few).filter_map(move |index| Some((index, self.entry(index)?)));
        compact.chain(map.into_iter().flatten())
    }

    fn entries_raw(self) -> &'a [u8] {
        match self {
            Self::Compact([CHUNKS, entries @ ..]) => entries,
            _ => &[],
        }
    }

    fn opened(self) -> FileData {
        let mut data = FileData {
            inline: self.inline().map(<[u8]>::to_vec),
            device: self.device(),
            ..FileData::default()
        };
        for (index, entry) in self.entries() {
            data.map.set(index, Some(entry));
        }
        data
    }
}

impl FileData {
    /// Plain bytes waiting to be sealed.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty.values().map(|buffer| buffer.len() as u64).sum()
    }

    /// The same, compact: of few chunks or small, without holes, nothing waiting, all of it in a record.
    fn compact(&self) -> Option<Content> {
        let busy = !self.dirty.is_empty() || !self.changed.is_empty() || self.cut.is_some();
        if busy || self.plain.is_some() || self.map.present() > FEW {
            return None;
        }
        if self.map.present() == 0 {
            return Some(Content::new(self.inline.as_deref(), self.device));
        }
        let mut bytes = Vec::new();
        bytes.push(CHUNKS);
        for (expected, (index, entry)) in (0..).zip(self.map.iter()) {
            if index != expected {
                return None;
            }
            entry.encode(&mut bytes);
        }
        Some(Content(Form::Compact(bytes.into_boxed_slice())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::Node;
    use crate::seal::Seal;

    fn entry(number: u32) -> Entry {
        let (counter, tag) = (u64::from(number), [7; 16]);
        Entry {
            segment: number,
            slot: 1,
            seal: Seal { counter, tag },
        }
    }

    fn with_chunks(indices: impl Iterator<Item = u64>) -> Content {
        let mut content = Content::default();
        for (number, index) in (1..).zip(indices) {
            content.change().map.set(index, Some(entry(number)));
        }
        content
    }

    fn is_compact(content: &Content) -> bool {
        matches!(content.0, Form::Compact(_))
    }

    #[test]
    fn an_inode_takes_no_more_memory_than_a_million_files_may() {
        assert_eq!(size_of::<Content>(), 16);
        let counts_of_arc = 16;
        assert!(size_of::<Node>() + counts_of_arc <= 136);
    }

    #[test]
    fn few_chunks_are_compact_and_say_the_same() {
        for count in 0..=FEW {
            let content = with_chunks(0..count);
            assert!(is_compact(&content));
            let found: Vec<_> = content.view().entries().collect();
            let expected: Vec<_> = (0..count).zip((1..).map(entry)).collect();
            assert_eq!(found, expected);
            assert_eq!(
                (content.view().chunks(), content.view().entry(count)),
                (count, None)
            );
        }
    }

    #[test]
    fn holes_many_chunks_and_what_no_record_has_yet_are_not_compacted() {
        for indices in [vec![1], vec![0, 2], (0..=FEW).collect()] {
            let content = with_chunks(indices.iter().copied());
            assert!(!is_compact(&content), "{indices:?}");
            let found: Vec<u64> = content.view().entries().map(|(index, _)| index).collect();
            assert_eq!(found, indices);
        }
        let changes: [fn(&mut FileData); 3] = [
            |data| drop(data.dirty.insert(0, vec![1])),
            |data| data.changed.extend([0]),
            |data| data.cut = Some(0),
        ];
        for change in changes {
            let mut content = with_chunks(0..1);
            change(&mut content.change());
            assert!(!is_compact(&content));
        }
    }

    #[test]
    fn inline_content_and_devices_stay_what_they_are_when_they_are_changed() {
        let mut file = Content::new(Some(b""), 0);
        assert_eq!(file.view().inline(), Some(&b""[..]));
        file.change().inline.as_mut().expect("is inline").push(9);
        assert_eq!(file.view().inline(), Some(&[9][..]));
        let mut device = Content::new(None, 0x0103);
        drop(device.change());
        assert_eq!(
            (device.view().device(), device.view().inline()),
            (0x0103, None)
        );
        assert!(is_compact(&file) && is_compact(&device));
    }
}
