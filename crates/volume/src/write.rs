//! Writing: full chunks are sealed and written at once, pieces of chunks wait in memory for the next flush.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use crate::chunkmap::Entry;
use crate::error::VolumeError;
use crate::inode::{FileData, Node};
use crate::ops::INLINE_MAX;
use crate::segment::Dead;
use crate::tree::plain_len;
use crate::types::Ino;
use crate::volume::{FILE_SIZE_MAX, Result, Volume};

/// Most bytes sealed and written at once.
const WRITE_RUN: usize = 256 << 10;

thread_local! {
    /// Chunks on their way out: plain until sealed in place; overwritten by each use.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A sealed chunk and its place.
type Placed = (u64, Entry);

impl Volume {
    /// Writes all of `bytes` at `offset`; the state is durable and anchored after the next commit.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, `TooBig` above 256 TiB, `ReadOnly`, `LeaseLost`.
    pub fn write(&self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<usize> {
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
        let mut data = node.data.write();
        let before = data.dirty_bytes();
        let result = self.install(&node, &mut data, offset, end, bytes, sealed);
        self.count_dirty(before, data.dirty_bytes());
        drop(data);
        result.map_err(|error| self.name_file(error, ino))?;
        if self.dirty_bytes.load(Ordering::Relaxed) > self.options.dirty_limit {
            self.flush_dirty()?;
        }
        Ok(bytes.len())
    }

    /// Seals the full chunks inside of a write, before the file is locked.
    fn seal_full(&self, node: &Node, offset: u64, end: u64, bytes: &[u8]) -> Result<Vec<Placed>> {
        let chunk_size = u64::from(self.chunk_size);
        let (first, last) = (offset.div_ceil(chunk_size), end / chunk_size);
        if last <= first {
            return Ok(Vec::new());
        }
        let from = usize::try_from(first * chunk_size - offset).map_err(|_| VolumeError::TooBig)?;
        let to = usize::try_from(last * chunk_size - offset).map_err(|_| VolumeError::TooBig)?;
        let size = node.meta.lock().size.max(end);
        let mut placed = Vec::with_capacity((to - from) / self.chunk_size as usize);
        let result = self.seal_chunks(
            node,
            size,
            first,
            bytes.get(from..to).unwrap_or_default(),
            &mut placed,
        );
        if let Err(error) = result {
            for (_, entry) in placed {
                self.give_back(Dead {
                    segment: entry.segment,
                    slot: entry.slot,
                    bytes: self.chunk_size,
                });
            }
            return Err(error);
        }
        Ok(placed)
    }

    /// Seals full chunks into fresh slots; `placed` gets those that are written, also when a later one fails.
    fn seal_chunks(
        &self,
        node: &Node,
        size: u64,
        first: u64,
        plain: &[u8],
        placed: &mut Vec<Placed>,
    ) -> Result<()> {
        let step = self.chunk_size as usize;
        let key = node.key(&self.keys)?;
        let mut index = first;
        let mut rest = plain;
        while !rest.is_empty() {
            let wanted = u32::try_from((rest.len().min(WRITE_RUN) / step).max(1)).unwrap_or(1);
            let run = self
                .segments
                .lock()
                .allocate_chunks(node.ino, size, wanted)?;
            let bytes = run.count as usize * step;
            let (head, tail) = rest.split_at(bytes.min(rest.len()));
            let start = placed.len();
            let result = SCRATCH.with_borrow_mut(|scratch| {
                scratch.clear();
                scratch.extend_from_slice(head);
                for ((chunk, slot), index) in scratch.chunks_mut(step).zip(run.slot..).zip(index..)
                {
                    let aad = self.keys.chunk_aad(&node.file_id, index, self.chunk_size);
                    let seal = self.nonces.seal(&key, &aad, chunk)?;
                    placed.push((
                        index,
                        Entry {
                            segment: run.segment,
                            slot,
                            seal,
                        },
                    ));
                }
                self.put(run.segment, run.slot, scratch)
            });
            if let Err(error) = result {
                placed.truncate(start);
                for slot in (run.slot..).take(run.count as usize) {
                    self.give_back(Dead {
                        segment: run.segment,
                        slot,
                        bytes: self.chunk_size,
                    });
                }
                return Err(error);
            }
            index += u64::from(run.count);
            rest = tail;
        }
        Ok(())
    }

    /// Writes sealed bytes to a slot and notes that the segment must be synced.
    fn put(&self, segment: u32, slot: u32, sealed: &[u8]) -> Result<()> {
        let (path, _, offset) = self.locate(segment, slot)?;
        self.store.write_at(&path, offset, sealed)?;
        self.pending.lock().unsynced.insert(segment);
        Ok(())
    }

    /// Seals a short chunk into a pack.
    fn seal_short(&self, node: &Node, index: u64, length: u32, plain: &[u8]) -> Result<Entry> {
        let key = node.key(&self.keys)?;
        let run = self.segments.lock().allocate_short(length)?;
        let result = SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            scratch.extend_from_slice(plain.get(..length as usize).unwrap_or(plain));
            scratch.resize(length as usize, 0);
            let aad = self.keys.chunk_aad(&node.file_id, index, length);
            let seal = self.nonces.seal(&key, &aad, scratch)?;
            self.put(run.segment, run.slot, scratch)?;
            Ok(Entry {
                segment: run.segment,
                slot: run.slot,
                seal,
            })
        });
        if result.is_err() {
            self.give_back(Dead {
                segment: run.segment,
                slot: run.slot,
                bytes: length,
            });
        }
        result
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
            self.touch(node, data, size.max(end));
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
        self.touch(node, data, size.max(end));
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
        leave_inline(data);
        false
    }

    /// Changes a piece of a chunk in memory.
    fn write_piece(
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
                    let key = node.key(&self.keys)?;
                    self.open_whole(node, &key, index, entry, length)?
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
            let key = node.key(&self.keys)?;
            let plain = self.open_whole(node, &key, index, entry, length as usize)?;
            data.dirty.insert(index, plain);
        }
        self.place(data, size, index, None);
        Ok(())
    }

    /// Sets an entry of the map; the one it replaces is dead once a commit without it is anchored.
    fn place(&self, data: &mut FileData, size: u64, index: u64, entry: Option<Entry>) {
        data.changed.insert(index);
        if let Some(old) = data.map.set(index, entry) {
            let bytes = plain_len(size, index, self.chunk_size);
            self.pending.lock().superseded.push(Dead {
                segment: old.segment,
                slot: old.slot,
                bytes,
            });
        }
    }

    /// Sets size, blocks and times after a change of content.
    fn touch(&self, node: &Node, data: &FileData, size: u64) {
        let now = self.now();
        {
            let mut meta = node.meta.lock();
            (meta.size, meta.mtime, meta.ctime) = (size, now, now);
        }
        node.count_blocks(data, self.chunk_size);
    }

    /// Cuts or extends a file.
    pub(crate) fn resize(&self, node: &Node, target: u64) -> Result<()> {
        if target > FILE_SIZE_MAX {
            return Err(VolumeError::TooBig);
        }
        let mut guard = node.data.write();
        let data = &mut *guard;
        let before = data.dirty_bytes();
        self.mark(node.ino);
        let size = node.meta.lock().size;
        let result = self.resize_locked(node, data, size, target);
        if result.is_ok() {
            self.touch(node, data, target);
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
                _ => leave_inline(data),
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
        let mut data = node.data.write();
        self.count_dirty(data.dirty_bytes(), 0);
        data.dirty.clear();
        let size = node.meta.lock().size;
        self.cut_map(&mut data, size, 0);
    }

    /// Seals and writes what waits in memory; the caller holds `data`. Stops at the first failure, losing nothing.
    pub(crate) fn flush(&self, node: &Node, data: &mut FileData) -> Result<()> {
        let before = data.dirty_bytes();
        let size = node.meta.lock().size;
        let result = self.flush_chunks(node, data, size);
        self.count_dirty(before, data.dirty_bytes());
        if before > 0 {
            node.count_blocks(data, self.chunk_size);
        }
        result
    }

    fn flush_chunks(&self, node: &Node, data: &mut FileData, size: u64) -> Result<()> {
        let step = self.chunk_size as usize;
        while let Some((&index, buffer)) = data.dirty.first_key_value() {
            let length = plain_len(size, index, self.chunk_size);
            if length == 0 {
                data.dirty.remove(&index);
            } else if length < self.chunk_size {
                let entry = self.seal_short(node, index, length, buffer)?;
                data.dirty.remove(&index);
                self.place(data, size, index, Some(entry));
            } else {
                let mut plain = Vec::with_capacity(WRITE_RUN.min(step * data.dirty.len()));
                for (next, buffer) in (index..).zip(data.dirty.range(index..)) {
                    let full = plain_len(size, next, self.chunk_size) == self.chunk_size;
                    if *buffer.0 != next || !full || plain.len() + step > WRITE_RUN.max(step) {
                        break;
                    }
                    let end = plain.len() + step;
                    plain.extend_from_slice(buffer.1);
                    plain.resize(end, 0);
                }
                let mut placed = Vec::new();
                let result = self.seal_chunks(node, size, index, &plain, &mut placed);
                for (index, entry) in placed {
                    data.dirty.remove(&index);
                    self.place(data, size, index, Some(entry));
                }
                result?;
            }
        }
        Ok(())
    }

    /// Seals what waits in memory, of all files.
    pub(crate) fn flush_dirty(&self) -> Result<()> {
        let inos: Vec<Ino> = self.pending.lock().nodes.iter().copied().collect();
        for ino in inos {
            let Ok(node) = self.node(ino) else { continue };
            let mut data = node.data.write();
            if !data.dirty.is_empty() {
                self.flush(&node, &mut data)?;
            }
        }
        Ok(())
    }

    fn count_dirty(&self, before: u64, after: u64) {
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
fn leave_inline(data: &mut FileData) {
    if let Some(inline) = data.inline.take().filter(|inline| !inline.is_empty()) {
        data.dirty.insert(0, inline);
    }
}
