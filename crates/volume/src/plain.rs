//! Authenticated volumes: contents lie in plain files in place, their digests in the sealed metadata.
//! docs/formats/volume-v1.md, "Authenticated volumes".
//!
//! What is verified is what is handed out: bytes are read once, into the caller's buffer, and compared there.

use aws_lc_rs::digest::{SHA256, digest as hash};

use crate::chunkmap::Entry;
use crate::codec::{Reader, damaged};
use crate::content::View;
use crate::error::{StoreError, VolumeError};
use crate::read::chunk_name;
use crate::tree::{Tree, contradiction, plain_len};
use crate::types::{FileType, Ino, Protection, ROOT_INO};
use crate::volume::{Result, Volume};

/// The store's directory of the plain files.
const DIRECTORY: &str = "plain";
/// Most bytes read at once: they stay in the processor's cache until they are hashed.
const READ_RUN: usize = 256 << 10;

/// The SHA-256 of a plain chunk, as an entry of the chunk map.
pub(crate) fn digest(chunk: &[u8]) -> Result<Entry> {
    Entry::decode(&mut Reader::new(hash(&SHA256, chunk).as_ref(), "a digest"))
}

impl Volume {
    /// Fills the front of `out`, which has room for the whole chunk `index`, with that chunk and those after it;
    /// returns the bytes. Nothing that is not what was sealed stays in `out`.
    pub(crate) fn open_plain(
        &self,
        data: View<'_>,
        size: u64,
        index: u64,
        out: &mut [u8],
    ) -> Result<usize> {
        let mut bytes = 0;
        let mut run = Vec::new();
        for next in index.. {
            let length = plain_len(size, next, self.chunk_size) as usize;
            let fits = bytes + length <= out.len() && (run.is_empty() || bytes < READ_RUN);
            let entry = data.entry(next).filter(|_| length > 0 && fits);
            match entry.filter(|_| run.is_empty() || data.waiting(next).is_none()) {
                Some(entry) => run.push(entry),
                None => break,
            }
            bytes += length;
        }
        let out = out.get_mut(..bytes).unwrap_or_default();
        self.verify_plain(data, size, index, &run, out)
            .inspect_err(|_| out.fill(0))?;
        Ok(bytes)
    }

    fn verify_plain(
        &self,
        data: View<'_>,
        size: u64,
        index: u64,
        run: &[Entry],
        out: &mut [u8],
    ) -> Result<()> {
        let path = self.plain_file(data, size, index)?;
        let offset = index.saturating_mul(u64::from(self.chunk_size));
        let got = self
            .store
            .read_at(path, offset, out)
            .map_err(|error| replaced(index, path, error))?;
        let step = self.chunk_size as usize;
        for ((chunk, entry), number) in out.chunks(step).zip(run).zip(0..) {
            let name = || chunk_name(index + number as u64);
            if number * step + chunk.len() > got {
                return Err(damaged(name(), format!("{path} ends too early")));
            }
            if digest(chunk)? != *entry {
                let problem = format!("its bytes in {path} are not those that were sealed");
                return Err(damaged(name(), problem));
            }
        }
        Ok(())
    }

    /// Where a file lies, if it has its sealed size there.
    fn plain_file<'a>(&self, data: View<'a>, size: u64, index: u64) -> Result<&'a str> {
        let path = data.plain().ok_or(VolumeError::Invalid(
            "a file of an authenticated volume is read by another open than the one that packed it",
        ))?;
        let found = self
            .store
            .size(path)
            .map_err(|error| replaced(index, path, error))?;
        if found == size {
            return Ok(path);
        }
        Err(damaged(
            chunk_name(index),
            format!("{path} has {found} bytes, {size} were sealed"),
        ))
    }

    /// Whether a file is there in its sealed size, also one without a byte to read. Files of other volumes are.
    pub(crate) fn check_plain(&self, ino: Ino) -> Result<()> {
        if self.protection != Protection::Authenticated {
            return Ok(());
        }
        let node = self.file_node(ino)?;
        let content = node.data.read();
        let size = node.meta.lock().size;
        self.plain_file(content.view(), size, 0)
            .map_err(|error| self.name_file(error, ino))?;
        Ok(())
    }
}

impl Tree {
    /// Says of each authenticated file where it lies: under the first of its names, in order.
    pub(crate) fn name_plain_files(&self) -> Result<()> {
        let mut todo = vec![(DIRECTORY.to_owned(), ROOT_INO)];
        let is_plain = |ino| {
            let root = self.nodes.get(ino);
            root.is_some_and(|node| node.protection == Protection::Authenticated)
        };
        if !is_plain(ROOT_INO) {
            return Ok(());
        }
        let mut seen = 0;
        while let Some((path, ino)) = todo.pop() {
            seen += 1;
            if seen > self.dirs.len() {
                return Err(contradiction("a directory with two names"));
            }
            for (_, name, child) in self.dir(ino)?.after(0) {
                let name = std::str::from_utf8(name)
                    .map_err(|_| contradiction("a name in an authenticated volume is not UTF-8"))?;
                let whole = format!("{path}/{name}");
                let node = self.node(child)?;
                match node.kind {
                    FileType::Dir => todo.push((whole, child)),
                    FileType::File => {
                        let mut content = node.data.write();
                        let mut data = content.change();
                        if data.plain.as_deref().is_none_or(|known| *whole < *known) {
                            data.plain = Some(whole.into_boxed_str());
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// What the store says of a plain file that is gone or not one any more; a failing disk stays a failing disk.
fn replaced(index: u64, path: &str, error: StoreError) -> VolumeError {
    match error {
        StoreError::NotFound => damaged(chunk_name(index), format!("{path} is missing")),
        error @ StoreError::NotRegular(_) => damaged(chunk_name(index), error.to_string()),
        error => error.into(),
    }
}
