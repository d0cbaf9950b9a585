//! An inode in memory. Lock order: tree, then `data`, then `meta`.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::{Mutex, RwLock};

use crate::chunkmap::ChunkMap;
use crate::ops::InodeRecord;
use crate::types::{Attr, FileType, Ino, Protection};

/// The attribute in which Linux keeps the capabilities of a program.
const CAPABILITY: &[u8] = b"security.capability";

/// One file, directory, symbolic link or special file.
pub struct Node {
    pub ino: Ino,
    pub file_id: [u8; 16],
    pub kind: FileType,
    pub protection: Protection,
    pub chunk_log2: u8,
    /// Number of a device; 0 for anything else.
    pub device: u32,
    pub meta: Mutex<Meta>,
    /// Content of a regular file, target of a symbolic link.
    pub data: RwLock<FileData>,
}

/// What `stat` shows, and the open count. `size` changes only under the write lock of `data`.
#[derive(Clone)]
pub struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub size: u64,
    pub blocks: u64,
    pub atime: i64,
    pub mtime: i64,
    pub ctime: i64,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub opens: u32,
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
}

impl Node {
    pub fn from_record(record: InodeRecord) -> Self {
        let InodeRecord {
            ino,
            file_id,
            kind,
            protection,
            mode,
            uid,
            gid,
            nlink,
            chunk_log2,
            device,
            size,
            ..
        } = record;
        let (atime, mtime, ctime, xattrs) =
            (record.atime, record.mtime, record.ctime, record.xattrs);
        let meta = Meta {
            mode,
            uid,
            gid,
            nlink,
            size,
            blocks: 0,
            atime,
            mtime,
            ctime,
            xattrs,
            opens: 0,
        };
        let data = RwLock::new(FileData {
            inline: record.body,
            ..FileData::default()
        });
        Self {
            ino,
            file_id,
            kind,
            protection,
            chunk_log2,
            device,
            meta: Mutex::new(meta),
            data,
        }
    }

    /// The inode as it is written under this version of the key; the caller holds `data`.
    pub fn to_record(&self, data: &FileData, key_version: u32) -> InodeRecord {
        let meta = self.meta.lock();
        InodeRecord {
            ino: self.ino,
            file_id: self.file_id,
            kind: self.kind,
            protection: self.protection,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            nlink: meta.nlink,
            key_version,
            chunk_log2: self.chunk_log2,
            device: self.device,
            size: meta.size,
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
            xattrs: meta.xattrs.clone(),
            body: data.inline.clone(),
        }
    }

    pub fn attr(&self) -> Attr {
        let meta = self.meta.lock();
        Attr {
            ino: self.ino,
            kind: self.kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            nlink: meta.nlink,
            device: self.device,
            size: if self.kind == FileType::Dir {
                4096
            } else {
                meta.size
            },
            blocks: meta.blocks,
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
        }
    }

    /// Recounts `blocks` (from above while chunks wait in memory); the caller holds `data`.
    pub fn count_blocks(&self, data: &FileData, chunk_size: u32) {
        let chunks = data.map.present().saturating_add(data.dirty.len() as u64);
        let mut meta = self.meta.lock();
        let inline = u64::from(data.inline.is_some() && self.kind == FileType::File);
        let most = meta.size.div_ceil(4096) * 8;
        meta.blocks = (chunks.saturating_mul(u64::from(chunk_size)) / 512 + inline * 8).min(most);
    }
}

impl Meta {
    /// Capabilities of a program do not survive a change of its content or owner.
    pub fn drop_capabilities(&mut self) {
        if !self.xattrs.is_empty() {
            self.xattrs.remove(CAPABILITY);
        }
    }
}

impl FileData {
    /// Plain bytes waiting to be sealed.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty.values().map(|buffer| buffer.len() as u64).sum()
    }
}
