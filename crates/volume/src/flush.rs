//! Sealing chunks into slots: whole ones at once, what waits in memory with the next flush.

use std::cell::RefCell;
use std::sync::Arc;

use crate::chunkmap::Entry;
use crate::content::FileData;
use crate::error::VolumeError;
use crate::inode::Node;
use crate::plain::digest;
use crate::sealer::Job;
use crate::segment::{Dead, Lane};
use crate::tree::plain_len;
use crate::types::{Ino, Protection};
use crate::volume::{Result, Volume};

/// Most bytes sealed and written at once.
const WRITE_RUN: usize = 256 << 10;

/// Least bytes of half a write for which a second thread is worth waking.
const HALF_FROM: usize = 256 << 10;

thread_local! {
    /// A short chunk on its way out: plain until sealed in place; overwritten by each use.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A sealed chunk and its place.
pub(crate) type Placed = (u64, Entry);

impl Volume {
    /// Seals the full chunks inside of a write, in place, before the file is locked.
    pub(crate) fn seal_full(
        &self,
        node: &Arc<Node>,
        offset: u64,
        end: u64,
        bytes: &mut [u8],
    ) -> Result<Vec<Placed>> {
        let chunk_size = u64::from(self.chunk_size);
        let (first, last) = (offset.div_ceil(chunk_size), end / chunk_size);
        if last <= first {
            return Ok(Vec::new());
        }
        let from = usize::try_from(first * chunk_size - offset).map_err(|_| VolumeError::TooBig)?;
        let to = usize::try_from(last * chunk_size - offset).map_err(|_| VolumeError::TooBig)?;
        let size = node.meta.lock().size.max(end);
        let mut placed = Vec::with_capacity((to - from) / self.chunk_size as usize);
        let full = bytes.get_mut(from..to).unwrap_or_default();
        let result = self.seal_by_halves(node, size, first, full, &mut placed);
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

    /// As [`Self::seal_chunks`]; many chunks by two threads.
    fn seal_by_halves(
        &self,
        node: &Arc<Node>,
        size: u64,
        first: u64,
        plain: &mut [u8],
        placed: &mut Vec<Placed>,
    ) -> Result<()> {
        let chunks = plain.len() / self.chunk_size as usize;
        let (count, rest) = (chunks / 2, first + (chunks / 2) as u64);
        let job = || Job {
            node: Arc::clone(node),
            size,
            first: rest,
        };
        let (front, back) = plain.split_at_mut(count * self.chunk_size as usize);
        let given = back.len() >= HALF_FROM && self.sealer.give(job(), back);
        let here = self.seal_chunks(node, size, first, front, Lane::First, placed);
        match given.then(|| self.sealer.take_back()).flatten() {
            Some((mut later, there)) => {
                placed.append(&mut later);
                here.and(there)
            }
            None => {
                here.and_then(|()| self.seal_chunks(node, size, rest, back, Lane::First, placed))
            }
        }
    }

    /// Seals full chunks in place and writes them into fresh slots; `placed` gets those that are written, also when a
    /// later one fails.
    pub(crate) fn seal_chunks(
        &self,
        node: &Node,
        size: u64,
        first: u64,
        plain: &mut [u8],
        lane: Lane,
        placed: &mut Vec<Placed>,
    ) -> Result<()> {
        let step = self.chunk_size as usize;
        if node.protection == Protection::Authenticated {
            for (index, chunk) in (first..).zip(plain.chunks(step)) {
                placed.push((index, digest(chunk)?));
            }
            return Ok(());
        }
        let keys = self.keys.newest();
        let key = self.hot.key(node, keys)?;
        let mut index = first;
        let mut rest = plain;
        while !rest.is_empty() {
            let wanted = u32::try_from((rest.len().min(WRITE_RUN) / step).max(1)).unwrap_or(1);
            let run = self
                .segments
                .lock()
                .allocate_chunks(node.ino, size, wanted, lane)?;
            let bytes = run.count as usize * step;
            let (head, tail) = rest.split_at_mut(bytes.min(rest.len()));
            let start = placed.len();
            let mut seal_run = || {
                for ((chunk, slot), index) in head.chunks_mut(step).zip(run.slot..).zip(index..) {
                    let aad = keys.chunk_aad(&node.file_id, index, self.chunk_size);
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
                self.put(run.segment, run.slot, head)
            };
            if let Err(error) = seal_run() {
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
        if node.protection == Protection::Authenticated {
            let mut whole = plain.to_vec();
            whole.resize(length as usize, 0);
            return digest(&whole);
        }
        let keys = self.keys.newest();
        let key = self.hot.key(node, keys)?;
        let run = self.segments.lock().allocate_short(length)?;
        let result = SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            scratch.extend_from_slice(plain.get(..length as usize).unwrap_or(plain));
            scratch.resize(length as usize, 0);
            let aad = keys.chunk_aad(&node.file_id, index, length);
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

    /// Seals and writes what waits in memory; the caller holds `data`. Stops at the first failure, losing nothing.
    pub(crate) fn flush(&self, node: &Node, data: &mut FileData) -> Result<()> {
        let before = data.dirty_bytes();
        let size = node.meta.lock().size;
        let result = self.flush_chunks(node, data, size);
        self.count_dirty(before, data.dirty_bytes());
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
                let result =
                    self.seal_chunks(node, size, index, &mut plain, Lane::First, &mut placed);
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
            let mut content = node.data.write();
            let mut data = content.change();
            if !data.dirty.is_empty() {
                self.flush(&node, &mut data)?;
            }
        }
        Ok(())
    }
}
