//! Snapshots: the whole state as operations in sealed pages, each pinned by its parent.
//! docs/formats/volume-v1.md, "Snapshot".

use crate::api::Store;
use crate::codec::{Reader, damaged, malformed};
use crate::error::VolumeError;
use crate::ops::Op;
use crate::seal::{self, Keys, Nonces, Seal};
use crate::types::Ino;

/// Plain bytes after which a leaf page is closed.
const PAGE_TARGET: usize = 64 << 10;
/// Most plain bytes in a page.
const PAGE_MAX: u32 = 1 << 20;
/// Entries of an index page.
const INDEX_FANOUT: usize = 1024;
/// Most levels above the leaves.
const LEVEL_MAX: u8 = 4;

/// Pins a page: location, nonce and tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRef {
    /// 0 for a leaf, else the height of an index page.
    pub level: u8,
    pub offset: u64,
    pub length: u32,
    pub seal: Seal,
}

impl PageRef {
    /// Encoded size in bytes.
    const SIZE: usize = 37;

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.level);
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
        out.extend_from_slice(&self.seal.counter.to_be_bytes());
        out.extend_from_slice(&self.seal.tag);
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, VolumeError> {
        let (level, offset, length) = (reader.u8()?, reader.u64()?, reader.u32()?);
        let seal = Seal {
            counter: reader.u64()?,
            tag: reader.array()?,
        };
        if level > LEVEL_MAX || length > PAGE_MAX {
            return Err(reader.bad("a page reference above its limits"));
        }
        Ok(Self {
            level,
            offset,
            length,
            seal,
        })
    }
}

/// The store's name of a snapshot.
pub fn path(seq: u64) -> String {
    format!("metadata/snapshot-{seq:016x}")
}

/// The sequence of a snapshot, by its name in the store's directory of metadata.
pub fn parse_name(name: &str) -> Option<u64> {
    let seq = u64::from_str_radix(name.strip_prefix("snapshot-")?, 16).ok()?;
    (path(seq).strip_prefix("metadata/") == Some(name)).then_some(seq)
}

/// Collects operations into sealed pages.
pub struct Writer<'a> {
    keys: &'a Keys,
    nonces: &'a Nonces,
    seq: u64,
    page: Vec<u8>,
    /// The sealed pages so far, as they go to the store.
    bytes: Vec<u8>,
    /// The leaves so far, each with the first inode in it.
    leaves: Vec<(Ino, PageRef)>,
    first: Ino,
}

impl<'a> Writer<'a> {
    pub fn new(keys: &'a Keys, nonces: &'a Nonces, seq: u64) -> Self {
        Self {
            keys,
            nonces,
            seq,
            page: Vec::new(),
            bytes: Vec::new(),
            leaves: Vec::new(),
            first: 0,
        }
    }

    /// Adds one encoded operation about the inode `ino`; these come in ascending order.
    pub fn add(&mut self, ino: Ino, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), VolumeError> {
        if self.page.is_empty() {
            self.first = ino;
        }
        encode(&mut self.page);
        if self.page.len() >= PAGE_TARGET {
            self.close_leaf()
        } else {
            Ok(())
        }
    }

    fn close_leaf(&mut self) -> Result<(), VolumeError> {
        let page = std::mem::take(&mut self.page);
        let leaf = self.seal_page(0, page)?;
        self.leaves.push((self.first, leaf));
        Ok(())
    }

    fn seal_page(&mut self, level: u8, mut page: Vec<u8>) -> Result<PageRef, VolumeError> {
        let length = u32::try_from(page.len())
            .ok()
            .filter(|length| *length <= PAGE_MAX);
        let length = length.ok_or(VolumeError::TooBig)?;
        let offset = self.bytes.len() as u64;
        let keys = self.keys.newest();
        let aad = keys.page_aad(self.seq, level, offset, length);
        let seal = self.nonces.seal(keys.metadata(), &aad, &mut page)?;
        self.bytes.append(&mut page);
        Ok(PageRef {
            level,
            offset,
            length,
            seal,
        })
    }

    /// Closes the tree of pages; returns its root and all sealed bytes.
    pub fn finish(mut self) -> Result<(PageRef, Vec<u8>), VolumeError> {
        if !self.page.is_empty() || self.leaves.is_empty() {
            self.close_leaf()?;
        }
        let mut refs = std::mem::take(&mut self.leaves);
        let mut level = 0;
        while refs.len() > 1 {
            level += 1;
            let mut parents = Vec::new();
            for children in refs.chunks(INDEX_FANOUT) {
                let mut page = Vec::with_capacity(children.len() * (8 + PageRef::SIZE));
                for (first, child) in children {
                    page.extend_from_slice(&first.to_be_bytes());
                    child.encode(&mut page);
                }
                let first = children.first().map_or(0, |(first, _)| *first);
                parents.push((first, self.seal_page(level, page)?));
            }
            refs = parents;
        }
        let (_, root) = refs.first().ok_or(VolumeError::TooBig)?;
        Ok((*root, self.bytes))
    }
}

/// Reads the pages below a root, in order.
pub struct SnapshotReader<'a> {
    pub store: &'a dyn Store,
    pub keys: &'a Keys,
    pub epoch: u32,
    pub seq: u64,
}

impl SnapshotReader<'_> {
    /// Hands every operation to `apply`; returns the number of sealed bytes.
    pub fn replay(
        &self,
        page: PageRef,
        apply: &mut dyn FnMut(Op) -> Result<(), VolumeError>,
    ) -> Result<u64, VolumeError> {
        let plain = self.open_page(page)?;
        let mut reader = Reader::new(&plain, "a snapshot page");
        let mut bytes = u64::from(page.length);
        while !reader.is_empty() {
            if page.level == 0 {
                apply(Op::decode(&mut reader)?)?;
                continue;
            }
            // The first inode below the child: for loading on demand, not needed to load everything.
            let _first = reader.u64()?;
            let child = PageRef::decode(&mut reader)?;
            if child.level + 1 != page.level {
                return Err(malformed("a snapshot page", "a child of the wrong level"));
            }
            bytes += self.replay(child, apply)?;
        }
        Ok(bytes)
    }

    fn open_page(&self, page: PageRef) -> Result<Vec<u8>, VolumeError> {
        let path = path(self.seq);
        let what = || format!("page at {} of snapshot {}", page.offset, self.seq);
        let length = page.length as usize;
        let mut text = vec![0; length];
        let got =
            self.store
                .read_at(&path, page.offset, &mut text)
                .map_err(|error| match error {
                    crate::error::StoreError::NotFound => {
                        damaged(what(), format!("{path} is missing"))
                    }
                    other => other.into(),
                })?;
        if got != length {
            return Err(damaged(what(), format!("{path} ends too early")));
        }
        let keys = self.keys.of(self.epoch)?;
        let aad = keys.page_aad(self.seq, page.level, page.offset, page.length);
        if seal::open(keys.metadata(), self.epoch, &page.seal, &aad, &mut text) {
            Ok(text)
        } else {
            Err(damaged(what(), "it does not authenticate"))
        }
    }
}
