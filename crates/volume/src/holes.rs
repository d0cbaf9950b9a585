//! Holes: finding them, making them, and giving a file a size without content.

use crate::content::{FileData, View};
use crate::error::VolumeError;
use crate::inode::Node;
use crate::tree::plain_len;
use crate::types::{Ino, Seek};
use crate::volume::{FILE_SIZE_MAX, Result, Volume};

impl Volume {
    /// Makes the bytes from `offset` on zeros: whole chunks become holes. With `keep_size` nothing beyond the end of the
    /// file changes, else the file reaches to the end of the range.
    ///
    /// # Errors
    /// `Invalid` for an empty range, `TooBig`, `NotFound`, `IsDirectory`, `ReadOnly`, `Integrity`, `Io`.
    pub fn zero(&self, ino: Ino, offset: u64, length: u64, keep_size: bool) -> Result<()> {
        self.require_writable()?;
        let node = self.file_node(ino)?;
        let end = range_end(offset, length)?;
        let mut content = node.data.write();
        let mut data = content.change();
        let before = data.dirty_bytes();
        self.mark(ino);
        let size = node.meta.lock().size;
        let result = self.zero_locked(&node, &mut data, size, offset..end.min(size));
        self.count_dirty(before, data.dirty_bytes());
        if result.is_ok() {
            self.touch(&node, size);
        }
        drop(data);
        drop(content);
        result.map_err(|error| self.name_file(error, ino))?;
        if keep_size {
            return Ok(());
        }
        self.grow(&node, end)
            .map_err(|error| self.name_file(error, ino))
    }

    /// Makes a file at least `offset + length` bytes long, the new ones a hole. Content stays as it is, and nothing is
    /// reserved: what the store has left is for its host to say.
    ///
    /// # Errors
    /// `Invalid` for an empty range, `TooBig`, `NotFound`, `IsDirectory`, `ReadOnly`, `Integrity`, `Io`.
    pub fn allocate(&self, ino: Ino, offset: u64, length: u64, keep_size: bool) -> Result<()> {
        self.require_writable()?;
        let node = self.file_node(ino)?;
        let end = range_end(offset, length)?;
        if keep_size {
            return Ok(());
        }
        self.grow(&node, end)
            .map_err(|error| self.name_file(error, ino))
    }

    /// The next data or hole at or after `offset`, by chunks.
    ///
    /// # Errors
    /// `NoMore` at or beyond the end of the file, or where no data follows; `NotFound`, `IsDirectory`.
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64> {
        let node = self.file_node(ino)?;
        let content = node.data.read();
        let data = content.view();
        let size = node.meta.lock().size;
        if offset >= size {
            return Err(VolumeError::NoMore);
        }
        if data.inline().is_some() {
            return Ok(if what == Seek::Data { offset } else { size });
        }
        let chunk_size = u64::from(self.chunk_size);
        let first = offset / chunk_size;
        let found = match what {
            Seek::Data => data.next_data(first).ok_or(VolumeError::NoMore)?,
            Seek::Hole => data.next_hole(first),
        };
        let place = found.saturating_mul(chunk_size).max(offset);
        match what {
            Seek::Data if place >= size => Err(VolumeError::NoMore),
            _ => Ok(place.min(size)),
        }
    }

    fn zero_locked(
        &self,
        node: &Node,
        data: &mut FileData,
        size: u64,
        range: std::ops::Range<u64>,
    ) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        if let Some(inline) = data.inline.as_mut() {
            let (from, to) = (usize::try_from(range.start), usize::try_from(range.end));
            let place = from.ok().zip(to.ok()).map(|(from, to)| from..to);
            if let Some(place) = place.and_then(|place| inline.get_mut(place)) {
                place.fill(0);
            }
            return Ok(());
        }
        let chunk_size = u64::from(self.chunk_size);
        for index in data.present_in(range.start / chunk_size, range.end.div_ceil(chunk_size)) {
            let start = index * chunk_size;
            let plain = u64::from(plain_len(size, index, self.chunk_size));
            let (from, to) = (range.start.max(start), range.end.min(start + plain));
            if from <= start && to >= start + plain {
                data.dirty.remove(&index);
                self.place(data, size, index, None);
                continue;
            }
            let zeros = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
            let within = usize::try_from(from - start).unwrap_or(0);
            self.write_piece(node, data, size, index, within, &zeros)?;
        }
        Ok(())
    }
}

/// The end of a range that a file may have.
fn range_end(offset: u64, length: u64) -> Result<u64> {
    if length == 0 {
        return Err(VolumeError::Invalid("a range of no bytes"));
    }
    let end = offset.checked_add(length);
    end.filter(|end| *end <= FILE_SIZE_MAX)
        .ok_or(VolumeError::TooBig)
}

impl FileData {
    /// Chunks with content from `first` to before `end`, those in memory included, in order.
    fn present_in(&self, first: u64, end: u64) -> Vec<u64> {
        let mut found: Vec<u64> = self
            .map
            .from(first)
            .take_while(|index| *index < end)
            .collect();
        found.extend(self.dirty.range(first..end).map(|(index, _)| *index));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The first chunk with content from `first` on.
    fn next_data(&self, first: u64) -> Option<u64> {
        let dirty = self.dirty.range(first..).next().map(|(index, _)| *index);
        self.map.from(first).next().into_iter().chain(dirty).min()
    }

    /// The first chunk without content from `first` on; may lie beyond the end of the file.
    fn next_hole(&self, first: u64) -> u64 {
        let mut stored = self.map.from(first).peekable();
        let mut waiting = self
            .dirty
            .range(first..)
            .map(|(index, _)| *index)
            .peekable();
        let mut expected = first;
        loop {
            let here =
                stored.next_if_eq(&expected).is_some() | waiting.next_if_eq(&expected).is_some();
            if !here {
                return expected;
            }
            expected += 1;
        }
    }
}

impl View<'_> {
    fn next_data(self, first: u64) -> Option<u64> {
        match self {
            Self::Open(data) => data.next_data(first),
            Self::Compact(_) => (first < self.chunks()).then_some(first), // without holes
        }
    }

    fn next_hole(self, first: u64) -> u64 {
        match self {
            Self::Open(data) => data.next_hole(first),
            Self::Compact(_) => first.max(self.chunks()),
        }
    }
}
