//! An inode in memory, compact: a volume of a million files keeps a million of them. Lock order: tree, then `data`,
//! then `meta`.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::content::{Content, View};
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
    /// How often it is open; changes only under the lock of `meta`.
    opens: AtomicU32,
    pub meta: Mutex<Meta>,
    pub data: RwLock<Content>,
}

/// What `stat` shows. `size` changes only under the write lock of `data`.
pub struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub size: u64,
    pub atime: i64,
    pub mtime: i64,
    pub ctime: i64,
    pub xattrs: Xattrs,
}

/// Extended attributes: most inodes have none.
#[derive(Default)]
#[allow(clippy::box_collection)] // 8 bytes in each inode, not 24
pub struct Xattrs(Option<Box<BTreeMap<Vec<u8>, Vec<u8>>>>);

static NO_XATTRS: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();

impl Xattrs {
    pub fn insert(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.0.get_or_insert_default().insert(name, value);
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        let removed = self.0.as_mut()?.remove(name);
        if self.is_empty() {
            self.0 = None;
        }
        removed
    }
}

impl From<BTreeMap<Vec<u8>, Vec<u8>>> for Xattrs {
    fn from(all: BTreeMap<Vec<u8>, Vec<u8>>) -> Self {
        Self((!all.is_empty()).then(|| Box::new(all)))
    }
}

impl Deref for Xattrs {
    type Target = BTreeMap<Vec<u8>, Vec<u8>>;

    fn deref(&self) -> &Self::Target {
        self.0.as_deref().unwrap_or(&NO_XATTRS)
    }
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
            size,
            ..
        } = record;
        let (atime, mtime, ctime) = (record.atime, record.mtime, record.ctime);
        let meta = Meta {
            mode,
            uid,
            gid,
            nlink,
            size,
            atime,
            mtime,
            ctime,
            xattrs: record.xattrs.into(),
        };
        let content = Content::new(record.body.as_deref(), record.device);
        Self {
            ino,
            file_id,
            kind,
            protection,
            chunk_log2,
            opens: AtomicU32::new(0),
            meta: Mutex::new(meta),
            data: RwLock::new(content),
        }
    }

    /// The inode as it is written under this version of the key; the caller holds `data`.
    pub fn to_record(&self, content: View<'_>, key_version: u32) -> InodeRecord {
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
            device: content.device(),
            size: meta.size,
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
            xattrs: meta.xattrs.clone(),
            body: content.inline().map(<[u8]>::to_vec),
        }
    }

    pub fn attr(&self) -> Attr {
        let (stored, device) = match self.kind {
            FileType::File => (self.stored_blocks(), 0),
            _ => (0, self.data.read().view().device()),
        };
        let meta = self.meta.lock();
        Attr {
            ino: self.ino,
            kind: self.kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            nlink: meta.nlink,
            device,
            size: if self.kind == FileType::Dir {
                4096
            } else {
                meta.size
            },
            blocks: stored.min(meta.size.div_ceil(4096) * 8),
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
        }
    }

    /// 512-byte blocks of a file's content by its chunks, from above: also those that wait in memory count, and nobody
    /// waits for who is writing to it.
    fn stored_blocks(&self) -> u64 {
        let Some(content) = self.data.try_read() else {
            return u64::MAX;
        };
        match content.view() {
            view if view.inline().is_some() => 8,
            view => view.chunks().saturating_mul(1 << self.chunk_log2) / 512,
        }
    }

    /// How often it is open; only who holds `meta` may rely on it.
    pub fn opens(&self) -> u32 {
        self.opens.load(Ordering::Relaxed)
    }

    /// Counts an open, or the end of one; returns how often it is open now.
    pub fn count_open(&self, opened: bool) -> u32 {
        let _meta = self.meta.lock();
        let opens = if opened {
            self.opens().saturating_add(1)
        } else {
            self.opens().saturating_sub(1)
        };
        self.opens.store(opens, Ordering::Relaxed);
        opens
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
