//! Writing: full chunks are sealed and written at once, pieces of chunks wait in memory for the next flush.

use std::sync::atomic::Ordering;

use crate::chunkmap::Entry;
use crate::content::{FileData, View};
use crate::error::VolumeError;
use crate::flush::Placed;
use crate::inode::Node;
use crate::ops::{INLINE_MAX, INLINE_TINY};
use crate::segment::Dead;
use crate::tree::plain_len;
use crate::types::{FileType, Ino, Protection};
use crate::volume::{FILE_SIZE_MAX, Result, Volume};

impl Volume {
    /// Writes all of `bytes` at `offset`; the state is durable and anchored after the next commit.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, `TooBig` above 256 TiB, `ReadOnly`, `LeaseLost`.
    pub fn write(&self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<usize> {
        self.write_from(ino, offset, &mut bytes.to_vec())
    }

    /// As [`Volume::write`], without a copy: whole chunks are sealed in `bytes`, which mean nothing afterwards.
    ///
    /// # Errors
    /// As [`Volume::write`].
    pub fn write_from(&self, ino: Ino, offset: u64, bytes: &mut [u8]) -> Result<usize> {
        self.require_writable()?;
        let node = self.file_node(ino)?;
        let end = offset
            .checked_add(bytes.len() as u64)
            .filter(|end| *end <= FILE_SIZE_MAX);
        let end = end.ok_or(VolumeError::TooBig)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let sealed = self.seal_full(&node, offset, end, bytes)?;
        let mut content = node.data.write();
        let mut data = content.change();
        let before = data.dirty_bytes();
        let result = self.install(&node, &mut data, offset, end, bytes, sealed);
        self.count_dirty(before, data.dirty_bytes());
        drop(data);
        drop(content);
        result.map_err(|error| self.name_file(error, ino))?;
        if self.dirty_bytes.load(Ordering::Relaxed) > self.options.dirty_limit {
            self.flush_dirty()?;
        }
        Ok(bytes.len())
    }

    /// Makes a write visible: sealed chunks into the map, pieces into memory, then size and times.
    fn install(
        &self,
        node: &Node,
        data: &mut FileData,
        offset: u64,
        end: u64,
        bytes: &[u8],
        sealed: Vec<Placed>,
    ) -> Result<()> {
        self.mark(node.ino);
        let size = node.meta.lock().size;
        if self.write_inline(data, offset, end, bytes) {
            self.touch(node, size.max(end));
            return Ok(());
        }
        let covered = sealed
            .first()
            .map_or(0..0, |(first, _)| *first..*first + sealed.len() as u64);
        if end > size && !covered.contains(&(size / u64::from(self.chunk_size))) {
            self.unseal_tail(node, data, size)?;
        }
        for (index, entry) in sealed {
            data.dirty.remove(&index);
            self.place(data, size, index, Some(entry));
        }
        let mut position = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let index = position / u64::from(self.chunk_size);
            let within = usize::try_from(position % u64::from(self.chunk_size)).unwrap_or(0);
            let count = rest.len().min(self.chunk_size as usize - within);
            let (piece, tail) = rest.split_at(count);
            if !covered.contains(&index) {
                self.write_piece(node, data, size, index, within, piece)?;
            }
            position += count as u64;
            rest = tail;
        }
        self.touch(node, size.max(end));
        Ok(())
    }

    /// Keeps a small file inside its inode; `false` when it is, or now becomes, one of chunks.
    #[allow(clippy::unused_self)]
    fn write_inline(&self, data: &mut FileData, offset: u64, end: u64, bytes: &[u8]) -> bool {
        let Some(inline) = data.inline.as_mut() else {
            return false;
        };
        let (Ok(from), Ok(to)) = (usize::try_from(offset), usize::try_from(end)) else {
            return false;
        };
        if to <= INLINE_MAX {
            if inline.len() < to {
                inline.resize(to, 0);
            }
            if let Some(place) = inline.get_mut(from..to) {
                place.copy_from_slice(bytes);
            }
            return true;
        }
        move_out(data);
        false
    }

    /// Changes a piece of a chunk in memory.
    pub(crate) fn write_piece(
        &self,
        node: &Node,
        data: &mut FileData,
        size: u64,
        index: u64,
        within: usize,
        piece: &[u8],
    ) -> Result<()> {
        let end = within + piece.len();
        if !data.dirty.contains_key(&index) {
            let length = plain_len(size, index, self.chunk_size) as usize;
            let replaced = within == 0 && end >= length;
            let buffer = match data.map.get(index) {
                Some(entry) if !replaced => {
                    self.open_whole(node, View::Open(data), index, entry, length)?
                }
                _ => Vec::with_capacity(end),
            };
            data.dirty.insert(index, buffer);
        }
        let Some(buffer) = data.dirty.get_mut(&index) else {
            return Ok(());
        };
        if buffer.len() < end {
            buffer.resize(end, 0);
        }
        if let Some(place) = buffer.get_mut(within..end) {
            place.copy_from_slice(piece);
        }
        Ok(())
    }

    /// Takes a sealed last chunk that is not full into memory, because the file's size is about to change.
    fn unseal_tail(&self, node: &Node, data: &mut FileData, size: u64) -> Result<()> {
        let index = size / u64::from(self.chunk_size);
        let length = plain_len(size, index, self.chunk_size);
        let Some(entry) = data.map.get(index).filter(|_| length > 0) else {
            return Ok(());
        };
        if !data.dirty.contains_key(&index) {
            let buffer = self.open_whole(node, View::Open(data), index, entry, length as usize)?;
            data.dirty.insert(index, buffer);
        }
        self.place(data, size, index, None);
        Ok(())
    }

    /// Sets an entry of the map; the one it replaces is dead once a commit without it is anchored.
    pub(crate) fn place(&self, data: &mut FileData, size: u64, index: u64, entry: Option<Entry>) {
        data.changed.insert(index);
        let old = data.map.set(index, entry);
        if let Some(old) = old.filter(|_| self.protection == Protection::Encrypted) {
            let bytes = plain_len(size, index, self.chunk_size);
            self.pending.lock().superseded.push(Dead {
                segment: old.segment,
                slot: old.slot,
                bytes,
            });
        }
    }

    /// Sets size and times after a change of content.
    pub(crate) fn touch(&self, node: &Node, size: u64) {
        let now = self.now();
        let mut meta = node.meta.lock();
        (meta.size, meta.mtime, meta.ctime) = (size, now, now);
        meta.drop_capabilities();
    }

    /// Cuts or extends a file.
    pub(crate) fn resize(&self, node: &Node, target: u64) -> Result<()> {
        self.reach(node, |_| Some(target))
    }

    /// Extends a file to a size that it may have already: what another thread writes beyond it meanwhile stays.
    pub(crate) fn grow(&self, node: &Node, target: u64) -> Result<()> {
        self.reach(node, |size| (target > size).then_some(target))
    }

    /// Gives a file the size that follows from the one it has, if one does; nothing else writes it in between.
    fn reach(&self, node: &Node, target: impl FnOnce(u64) -> Option<u64>) -> Result<()> {
        let mut content = node.data.write();
        let data = &mut *content.change();
        let before = data.dirty_bytes();
        let size = node.meta.lock().size;
        let Some(target) = target(size) else {
            return Ok(());
        };
        if target > FILE_SIZE_MAX {
            return Err(VolumeError::TooBig);
        }
        self.mark(node.ino);
        let result = self.resize_locked(node, data, size, target);
        if result.is_ok() {
            self.touch(node, target);
        }
        self.count_dirty(before, data.dirty_bytes());
        result
    }

    fn resize_locked(
        &self,
        node: &Node,
        data: &mut FileData,
        size: u64,
        target: u64,
    ) -> Result<()> {
        if let Some(inline) = data.inline.as_mut() {
            match usize::try_from(target) {
                Ok(length) if length <= INLINE_MAX => inline.resize(length, 0),
                _ => move_out(data),
            }
            return Ok(());
        }
        if target > size {
            return self.unseal_tail(node, data, size);
        }
        let chunk_size = u64::from(self.chunk_size);
        let (index, within) = (
            target / chunk_size,
            usize::try_from(target % chunk_size).unwrap_or(0),
        );
        if within > 0
            && target < size
            && !data.dirty.contains_key(&index)
            && data.map.get(index).is_some()
        {
            self.write_piece(node, data, size, index, 0, &[])?;
        }
        if within > 0 && target < size && data.map.get(index).is_some() {
            self.place(data, size, index, None);
        }
        let keep = target.div_ceil(chunk_size);
        drop(data.dirty.split_off(&keep));
        if within > 0
            && let Some(buffer) = data.dirty.get_mut(&index)
        {
            buffer.truncate(within);
        }
        self.cut_map(data, size, keep);
        Ok(())
    }

    /// Drops all chunks from `keep` on.
    fn cut_map(&self, data: &mut FileData, size: u64, keep: u64) {
        drop(data.changed.split_off(&keep));
        data.cut = Some(data.cut.map_or(keep, |cut| cut.min(keep)));
        let mut pending = self.pending.lock();
        let last = plain_len(
            size,
            size.saturating_sub(1) / u64::from(self.chunk_size),
            self.chunk_size,
        );
        let segments = self.segments.lock();
        data.map.cut(keep, |entry| {
            if self.protection == Protection::Authenticated {
                return;
            }
            let kind = segments.get(entry.segment).map(|segment| segment.kind);
            let bytes = if kind == Some(crate::ops::SegmentKind::Pack) {
                last
            } else {
                self.chunk_size
            };
            pending.superseded.push(Dead {
                segment: entry.segment,
                slot: entry.slot,
                bytes,
            });
        });
    }

    /// Drops the content of a file that no name and no open refers to any more.
    pub(crate) fn discard(&self, node: &Node) {
        let mut content = node.data.write();
        let mut data = content.change();
        self.count_dirty(data.dirty_bytes(), 0);
        data.dirty.clear();
        let size = node.meta.lock().size;
        self.cut_map(&mut data, size, 0);
    }

    /// Makes a small file one of chunks, which go into a pack; a tiny one stays where it is.
    pub(crate) fn leave_inline(&self, node: &Node, data: &mut FileData) {
        let tiny = data
            .inline
            .as_ref()
            .is_none_or(|inline| inline.len() <= INLINE_TINY);
        if node.kind == FileType::File && !tiny {
            move_out(data);
            self.count_dirty(0, data.dirty_bytes());
        }
    }

    pub(crate) fn count_dirty(&self, before: u64, after: u64) {
        if after >= before {
            self.dirty_bytes
                .fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.dirty_bytes
                .fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

/// Turns an inline file into one of chunks, its content waiting in memory.
fn move_out(data: &mut FileData) {
    if let Some(inline) = data.inline.take().filter(|inline| !inline.is_empty()) {
        data.dirty.insert(0, inline);
    }
}
