//! Reading: from the store into the caller's buffer, verified and decrypted there.

use std::sync::Arc;

use crate::chunkmap::Entry;
use crate::codec::damaged;
use crate::content::View;
use crate::error::{StoreError, VolumeError};
use crate::hot::CachedChunk;
use crate::inode::Node;
use crate::ops::SegmentKind;
use crate::seal;
use crate::tree::plain_len;
use crate::types::{Ino, Protection};
use crate::volume::{Result, Volume};

/// Most ciphertext read at once, in bytes: it stays in the processor's cache until it is decrypted.
const READ_RUN: u64 = 256 << 10;

impl Volume {
    /// Reads at `offset`; shorter than `buf` only at the end of the file. Sealed bytes are opened in `buf`, which
    /// nobody else may change meanwhile, and which means nothing after an error.
    ///
    /// # Errors
    /// `Integrity` naming the file when the store's bytes are not those that were written; `Io`.
    pub fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let node = self.file_node(ino)?;
        let result = self.read_node(&node, offset, buf);
        result.map_err(|error| self.name_file(error, ino))
    }

    /// Puts the file's path into an integrity error.
    pub(crate) fn name_file(&self, error: VolumeError, ino: Ino) -> VolumeError {
        match error {
            VolumeError::Integrity { what, problem } if !what.starts_with('/') => {
                VolumeError::Integrity {
                    what: self.tree.read().path_of(ino),
                    problem: format!("{what}: {problem}"),
                }
            }
            other => other,
        }
    }

    pub(crate) fn read_node(&self, node: &Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let content = node.data.read();
        let data = content.view();
        let size = node.meta.lock().size;
        let length = usize::try_from(size.saturating_sub(offset))
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let Some(mut out) = buf.get_mut(..length) else {
            return Ok(0);
        };
        if let Some(inline) = data.inline() {
            copy_or_zero(out, inline, usize::try_from(offset).unwrap_or(usize::MAX));
            return Ok(length);
        }
        let mut position = offset;
        while !out.is_empty() {
            let done = self.read_step(node, data, size, position, out)?;
            position += done as u64;
            out = out.get_mut(done..).unwrap_or_default();
        }
        Ok(length)
    }

    /// Fills the front of `out` from one chunk or one run of chunks; returns the bytes filled.
    fn read_step(
        &self,
        node: &Node,
        data: View<'_>,
        size: u64,
        position: u64,
        out: &mut [u8],
    ) -> Result<usize> {
        let chunk_size = u64::from(self.chunk_size);
        let index = position / chunk_size;
        let within = usize::try_from(position % chunk_size).unwrap_or(0);
        let plain = plain_len(size, index, self.chunk_size) as usize;
        let count = (plain - within).min(out.len());
        let target = out.get_mut(..count).unwrap_or_default();
        if let Some(buffer) = data.waiting(index) {
            copy_or_zero(target, buffer, within);
            return Ok(count);
        }
        let Some(entry) = data.entry(index) else {
            target.fill(0);
            return Ok(count);
        };
        if within == 0 && count == plain {
            if self.protection == Protection::Authenticated {
                return self.open_plain(data, size, index, out);
            }
            let run = self.run_from(data, size, index, entry, out.len() as u64);
            let bytes = plain + (run.len() - 1) * self.chunk_size as usize;
            self.open_run(node, index, &run, out.get_mut(..bytes).unwrap_or_default())?;
            return Ok(bytes);
        }
        let cached = self.cached_chunk(node, data, index, entry, plain)?;
        copy_or_zero(target, &cached.plain, within);
        Ok(count)
    }

    /// The chunks from `index` on that lie in consecutive slots and fit into `room` bytes: full ones when many.
    fn run_from(
        &self,
        data: View<'_>,
        size: u64,
        index: u64,
        first: Entry,
        room: u64,
    ) -> Vec<Entry> {
        let mut run = vec![first];
        let kind = self
            .segments
            .lock()
            .get(first.segment)
            .map(|segment| segment.kind);
        if kind != Some(SegmentKind::Chunks) {
            return run;
        }
        let most = room.min(READ_RUN) / u64::from(self.chunk_size);
        for (next, slot) in (index + 1..index + most.max(1)).zip(u64::from(first.slot) + 1..) {
            let full = plain_len(size, next, self.chunk_size) == self.chunk_size;
            match data.entry(next) {
                Some(entry)
                    if full
                        && entry.segment == first.segment
                        && u64::from(entry.slot) == slot
                        && data.waiting(next).is_none() =>
                {
                    run.push(entry);
                }
                _ => break,
            }
        }
        run
    }

    /// Opens chunks in consecutive slots into `out`: one of any length, or full ones.
    fn open_run(&self, node: &Node, index: u64, run: &[Entry], out: &mut [u8]) -> Result<()> {
        let Some(first) = run.first() else {
            return Ok(());
        };
        let (path, epoch, offset) = self.locate(first.segment, first.slot)?;
        let keys = self.keys.of(epoch)?;
        let key = self.hot.key(node, keys)?;
        let got = self
            .store
            .read_at(&path, offset, out)
            .map_err(|error| match error {
                StoreError::NotFound => damaged(chunk_name(index), format!("{path} is missing")),
                other => other.into(),
            })?;
        let step = self.chunk_size as usize;
        let mut end = 0;
        for ((text, entry), index) in out.chunks_mut(step).zip(run).zip(index..) {
            end += text.len();
            if end > got {
                return Err(damaged(chunk_name(index), format!("{path} ends too early")));
            }
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            let aad = keys.chunk_aad(&node.file_id, index, length);
            if !seal::open(&key, epoch, &entry.seal, &aad, text) {
                return Err(damaged(
                    chunk_name(index),
                    format!("its bytes in {path} do not authenticate"),
                ));
            }
        }
        Ok(())
    }

    /// One whole chunk, opened; kept for the next partial read.
    fn cached_chunk(
        &self,
        node: &Node,
        data: View<'_>,
        index: u64,
        entry: Entry,
        plain_len: usize,
    ) -> Result<Arc<CachedChunk>> {
        let current = |cached: &Arc<CachedChunk>| {
            cached.index == index
                && cached.segment == entry.segment
                && cached.counter == entry.seal.counter
        };
        let mut kept = self.hot.slot(node.ino);
        let last = kept.as_mut().and_then(|slot| slot.chunk.take());
        if let (Some(slot), Some(cached)) = (&mut kept, last.as_ref().filter(|it| current(it))) {
            slot.chunk.clone_from(&last);
            return Ok(Arc::clone(cached));
        }
        drop(kept);
        // The memory of the chunk before, unless another thread reads it: clean memory takes as long as decrypting into it.
        let memory = last.and_then(Arc::into_inner).map(|chunk| chunk.plain);
        let mut plain = memory.unwrap_or_default();
        plain.resize(plain_len, 0);
        self.open_into(node, data, index, entry, &mut plain)?;
        let cached = Arc::new(CachedChunk {
            index,
            segment: entry.segment,
            counter: entry.seal.counter,
            plain,
        });
        if let Some(mut slot) = self.hot.slot(node.ino) {
            slot.chunk = Some(Arc::clone(&cached));
        }
        Ok(cached)
    }

    /// One whole chunk of `plain_len` bytes.
    pub(crate) fn open_whole(
        &self,
        node: &Node,
        data: View<'_>,
        index: u64,
        entry: Entry,
        plain_len: usize,
    ) -> Result<Vec<u8>> {
        let mut plain = vec![0; plain_len];
        self.open_into(node, data, index, entry, &mut plain)?;
        Ok(plain)
    }

    fn open_into(
        &self,
        node: &Node,
        data: View<'_>,
        index: u64,
        entry: Entry,
        plain: &mut [u8],
    ) -> Result<()> {
        if self.protection == Protection::Authenticated {
            let size = node.meta.lock().size;
            self.open_plain(data, size, index, plain)?;
            return Ok(());
        }
        self.open_run(node, index, &[entry], plain)
    }
}

pub(crate) fn chunk_name(index: u64) -> String {
    format!("chunk {index}")
}

/// Copies `source[from..]` to `out` and fills what is beyond its end with zeros.
fn copy_or_zero(out: &mut [u8], source: &[u8], from: usize) {
    let source = source.get(from..).unwrap_or_default();
    let count = source.len().min(out.len());
    let (head, tail) = out.split_at_mut(count);
    head.copy_from_slice(source.get(..count).unwrap_or_default());
    tail.fill(0);
}
