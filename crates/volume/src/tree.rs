//! The name space in memory, and how it is built from operations.

use std::collections::HashMap;
use std::sync::Arc;

use crate::chunkmap::is_present;
use crate::codec::malformed;
use crate::dir::Dir;
use crate::error::VolumeError;
use crate::inode::Node;
use crate::nodes::Nodes;
use crate::ops::Op;
use crate::segment::Segments;
use crate::types::{FileType, Ino, Protection, ROOT_INO};

/// All inodes and names.
pub struct Tree {
    pub nodes: Nodes,
    pub dirs: HashMap<Ino, Dir>,
    pub next_ino: Ino,
}

impl Tree {
    pub fn empty() -> Self {
        Self {
            nodes: Nodes::default(),
            dirs: HashMap::new(),
            next_ino: ROOT_INO + 1,
        }
    }

    pub fn node(&self, ino: Ino) -> Result<&Arc<Node>, VolumeError> {
        self.nodes.get(ino).ok_or(VolumeError::NotFound)
    }

    pub fn dir(&self, ino: Ino) -> Result<&Dir, VolumeError> {
        match self.dirs.get(&ino) {
            Some(dir) => Ok(dir),
            None if self.nodes.contains(ino) => Err(VolumeError::NotDirectory),
            None => Err(VolumeError::NotFound),
        }
    }

    pub fn dir_mut(&mut self, ino: Ino) -> Result<&mut Dir, VolumeError> {
        let known = self.nodes.contains(ino);
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
                self.nodes.remove(ino);
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
                    .get(ino)
                    .ok_or_else(|| contradiction("chunks of an unknown inode"))?;
                node.data.write().change().map.cut(from, |_| ());
            }
            Op::MapSet {
                ino,
                first,
                entries,
            } => {
                let node = self
                    .nodes
                    .get(ino)
                    .ok_or_else(|| contradiction("chunks of an unknown inode"))?;
                let mut content = node.data.write();
                let mut data = content.change();
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
        if let Some(old) = self.nodes.get(ino)
            && node.data.read().view().inline().is_none()
        {
            let mut kept = old.data.write();
            let map = std::mem::take(&mut kept.change().map);
            node.data.write().change().map = map;
        }
        self.nodes.insert(Arc::new(node));
    }

    /// After all operations: checks that everything refers to something, counts live slots, drops orphans.
    pub fn finish(
        &mut self,
        segments: &mut Segments,
        chunk_size: u32,
    ) -> Result<Vec<Ino>, VolumeError> {
        let is_dir = |ino: &Ino| {
            self.nodes
                .get(*ino)
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
                    .get(child)
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
            .iter()
            .filter(|node| node.meta.lock().nlink == 0)
            .map(|n| n.ino)
            .collect();
        for ino in &orphans {
            self.nodes.remove(*ino);
            self.dirs.remove(ino);
        }
        self.name_plain_files()?;
        for node in self.nodes.iter() {
            count_chunks(node, segments, chunk_size)?;
        }
        self.dirs.values_mut().for_each(Dir::shrink);
        Ok(orphans)
    }
}

fn count_chunks(node: &Node, segments: &mut Segments, chunk_size: u32) -> Result<(), VolumeError> {
    let content = node.data.read();
    let size = node.meta.lock().size;
    for (index, entry) in content.view().entries() {
        let length = plain_len(size, index, chunk_size);
        let lies = node.protection == Protection::Authenticated
            || segments.count_live(entry.segment, entry.slot, length);
        if length == 0 || !lies {
            return Err(contradiction(
                "a chunk outside of its file or in an unknown segment",
            ));
        }
    }
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
