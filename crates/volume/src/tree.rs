//! The name space in memory, and how it is built from operations.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::chunkmap::is_present;
use crate::codec::malformed;
use crate::error::VolumeError;
use crate::inode::Node;
use crate::ops::Op;
use crate::segment::Segments;
use crate::types::{FileType, Ino, Protection, ROOT_INO};

/// All inodes and names.
pub struct Tree {
    pub nodes: HashMap<Ino, Arc<Node>>,
    pub dirs: HashMap<Ino, Dir>,
    pub next_ino: Ino,
}

/// The entries of one directory. A cookie stays with its entry, and new ones are
/// higher, so a listing is stable under changes.
pub struct Dir {
    pub parent: Ino,
    names: HashMap<Arc<[u8]>, (Ino, u64)>,
    order: BTreeMap<u64, (Arc<[u8]>, Ino)>,
    next_cookie: u64,
}

impl Dir {
    /// First cookie of a real entry; "." and ".." come before.
    pub const FIRST: u64 = 3;

    pub fn new(parent: Ino) -> Self {
        Self {
            parent,
            names: HashMap::new(),
            order: BTreeMap::new(),
            next_cookie: Self::FIRST,
        }
    }

    pub fn get(&self, name: &[u8]) -> Option<Ino> {
        self.names.get(name).map(|(ino, _)| *ino)
    }

    /// Inserts an entry at the end, or replaces one in its place; returns its name for the set of changes.
    pub fn insert(&mut self, name: &[u8], ino: Ino) -> Arc<[u8]> {
        let kept = self.cookie(name);
        self.remove(name);
        let cookie = kept.unwrap_or(self.next_cookie);
        self.next_cookie = self.next_cookie.max(cookie + 1);
        self.put(name, ino, cookie)
    }

    /// Moves an entry to the place of one that was removed: a listing that goes on meets a renamed file once.
    pub fn move_to(&mut self, name: &[u8], cookie: u64) {
        if let Some(ino) = self.remove(name) {
            self.put(name, ino, cookie);
        }
    }

    /// The place of a name in listings.
    pub fn cookie(&self, name: &[u8]) -> Option<u64> {
        self.names.get(name).map(|(_, cookie)| *cookie)
    }

    fn put(&mut self, name: &[u8], ino: Ino, cookie: u64) -> Arc<[u8]> {
        let name: Arc<[u8]> = Arc::from(name);
        self.names.insert(Arc::clone(&name), (ino, cookie));
        self.order.insert(cookie, (Arc::clone(&name), ino));
        name
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<Ino> {
        let (ino, cookie) = self.names.remove(name)?;
        self.order.remove(&cookie);
        Some(ino)
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Entries after a cookie, in the order of their making.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &[u8], Ino)> {
        self.order
            .range(cookie + 1..)
            .map(|(cookie, (name, ino))| (*cookie, &**name, *ino))
    }
}

impl Tree {
    pub fn empty() -> Self {
        Self {
            nodes: HashMap::new(),
            dirs: HashMap::new(),
            next_ino: ROOT_INO + 1,
        }
    }

    pub fn node(&self, ino: Ino) -> Result<&Arc<Node>, VolumeError> {
        self.nodes.get(&ino).ok_or(VolumeError::NotFound)
    }

    pub fn dir(&self, ino: Ino) -> Result<&Dir, VolumeError> {
        match self.dirs.get(&ino) {
            Some(dir) => Ok(dir),
            None if self.nodes.contains_key(&ino) => Err(VolumeError::NotDirectory),
            None => Err(VolumeError::NotFound),
        }
    }

    pub fn dir_mut(&mut self, ino: Ino) -> Result<&mut Dir, VolumeError> {
        let known = self.nodes.contains_key(&ino);
        self.dirs.get_mut(&ino).ok_or(if known {
            VolumeError::NotDirectory
        } else {
            VolumeError::NotFound
        })
    }

    /// A path of the inode, for messages: searches, so only on errors.
    pub fn path_of(&self, ino: Ino) -> String {
        let mut parts = Vec::new();
        let mut current = ino;
        while current != ROOT_INO && parts.len() < 64 {
            let found = self.dirs.iter().find_map(|(parent, dir)| {
                let (_, name, _) = dir.after(0).find(|(_, _, child)| *child == current)?;
                Some((*parent, String::from_utf8_lossy(name).into_owned()))
            });
            let Some((parent, name)) = found else {
                return format!("inode {ino} (no name any more)");
            };
            parts.push(name);
            current = parent;
        }
        parts.reverse();
        format!("/{}", parts.join("/"))
    }

    /// Applies one operation of an authentic record or page.
    pub fn apply(&mut self, op: Op, segments: &mut Segments) -> Result<(), VolumeError> {
        match op {
            Op::Inode(record) => self.apply_inode(*record),
            Op::InodeGone(ino) => {
                self.nodes.remove(&ino);
                self.dirs.remove(&ino);
            }
            Op::Name { parent, name, ino } => {
                self.dirs
                    .entry(parent)
                    .or_insert_with(|| Dir::new(parent))
                    .insert(&name, ino);
            }
            Op::NameGone { parent, name } => {
                self.dirs.get_mut(&parent).and_then(|dir| dir.remove(&name));
            }
            Op::MapCut { ino, from } => {
                let node = self
                    .nodes
                    .get(&ino)
                    .ok_or_else(|| contradiction("chunks of an unknown inode"))?;
                node.data.write().map.cut(from, |_| ());
            }
            Op::MapSet {
                ino,
                first,
                entries,
            } => {
                let node = self
                    .nodes
                    .get(&ino)
                    .ok_or_else(|| contradiction("chunks of an unknown inode"))?;
                let mut data = node.data.write();
                for (index, entry) in (first..).zip(entries) {
                    data.map.set(index, is_present(&entry).then_some(entry));
                }
            }
            Op::Segment { id, epoch, kind } => segments.load(id, epoch, kind),
            Op::Mount { .. } => {}
            Op::Snapshot {
                next_ino,
                next_segment,
                ..
            } => {
                self.next_ino = self.next_ino.max(next_ino);
                segments.reserve_ids(next_segment);
            }
        }
        Ok(())
    }

    fn apply_inode(&mut self, record: crate::ops::InodeRecord) {
        let ino = record.ino;
        self.next_ino = self.next_ino.max(ino.saturating_add(1));
        if record.kind == FileType::Dir {
            self.dirs.entry(ino).or_insert_with(|| Dir::new(ino));
        }
        let node = Node::from_record(record);
        if let Some(old) = self.nodes.get(&ino)
            && node.data.read().inline.is_none()
        {
            std::mem::swap(&mut node.data.write().map, &mut old.data.write().map);
        }
        self.nodes.insert(ino, Arc::new(node));
    }

    /// After all operations: checks that everything refers to something, counts live slots, drops orphans.
    pub fn finish(
        &mut self,
        segments: &mut Segments,
        chunk_size: u32,
    ) -> Result<Vec<Ino>, VolumeError> {
        let is_dir = |ino: &Ino| {
            self.nodes
                .get(ino)
                .is_some_and(|node| node.kind == FileType::Dir)
        };
        if !is_dir(&ROOT_INO) || !self.dirs.keys().all(is_dir) {
            return Err(contradiction("a directory without an inode"));
        }
        let mut parents = Vec::new();
        for (parent, dir) in &self.dirs {
            for (_, _, child) in dir.after(0) {
                let node = self
                    .nodes
                    .get(&child)
                    .ok_or_else(|| contradiction("a name without an inode"))?;
                if node.kind == FileType::Dir {
                    parents.push((child, *parent));
                }
            }
        }
        for (child, parent) in parents {
            if let Some(dir) = self.dirs.get_mut(&child) {
                dir.parent = parent;
            }
        }
        let orphans: Vec<Ino> = self
            .nodes
            .values()
            .filter(|node| node.meta.lock().nlink == 0)
            .map(|n| n.ino)
            .collect();
        for ino in &orphans {
            self.nodes.remove(ino);
            self.dirs.remove(ino);
        }
        self.name_plain_files()?;
        for node in self.nodes.values() {
            count_chunks(node, segments, chunk_size)?;
        }
        Ok(orphans)
    }
}

fn count_chunks(node: &Node, segments: &mut Segments, chunk_size: u32) -> Result<(), VolumeError> {
    let data = node.data.read();
    let size = node.meta.lock().size;
    for (index, entry) in data.map.iter() {
        let length = plain_len(size, index, chunk_size);
        let lies = node.protection == Protection::Authenticated
            || segments.count_live(entry.segment, entry.slot, length);
        if length == 0 || !lies {
            return Err(contradiction(
                "a chunk outside of its file or in an unknown segment",
            ));
        }
    }
    node.count_blocks(&data, chunk_size);
    Ok(())
}

/// Plain bytes of the chunk `index` in a file of `size` bytes.
pub fn plain_len(size: u64, index: u64, chunk_size: u32) -> u32 {
    let start = index.saturating_mul(u64::from(chunk_size));
    u32::try_from(size.saturating_sub(start).min(u64::from(chunk_size))).unwrap_or(chunk_size)
}

pub(crate) fn contradiction(problem: &str) -> VolumeError {
    malformed("the metadata", problem)
}
