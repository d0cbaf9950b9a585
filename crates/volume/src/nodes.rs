//! All inodes by number. Numbers are given out in order, so neighbours share a page, and the map is in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::inode::Node;
use crate::types::Ino;

/// Numbers of one page.
const PAGE: u64 = 64;

/// The inodes of one page that exist, in order.
#[derive(Default)]
struct Page {
    /// A bit for each number.
    present: u64,
    nodes: Vec<Arc<Node>>,
}

impl Page {
    /// Where the node of this bit is, or belongs.
    fn place(&self, bit: u64) -> usize {
        (self.present & (bit - 1)).count_ones() as usize
    }
}

/// The map.
#[derive(Default)]
pub struct Nodes {
    pages: BTreeMap<u64, Page>,
    len: usize,
}

impl Nodes {
    pub fn get(&self, ino: Ino) -> Option<&Arc<Node>> {
        let (page, bit) = (self.pages.get(&(ino / PAGE))?, bit(ino));
        let found = page.present & bit != 0;
        found.then(|| page.nodes.get(page.place(bit))).flatten()
    }

    pub fn contains(&self, ino: Ino) -> bool {
        self.get(ino).is_some()
    }

    /// Puts a node, also in the place of another one.
    pub fn insert(&mut self, node: Arc<Node>) {
        let bit = bit(node.ino);
        let page = self.pages.entry(node.ino / PAGE).or_default();
        let place = page.place(bit);
        if page.present & bit == 0 {
            page.present |= bit;
            page.nodes.insert(place, node);
            self.len += 1;
        } else if let Some(old) = page.nodes.get_mut(place) {
            *old = node;
        }
    }

    pub fn remove(&mut self, ino: Ino) {
        let bit = bit(ino);
        let Some(page) = self.pages.get_mut(&(ino / PAGE)) else {
            return;
        };
        if page.present & bit == 0 {
            return;
        }
        page.nodes.remove(page.place(bit));
        page.present &= !bit;
        self.len -= 1;
        if page.present == 0 {
            self.pages.remove(&(ino / PAGE));
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All nodes, by ascending number.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.pages.values().flat_map(|page| &page.nodes)
    }

    /// All numbers, ascending.
    pub fn inos(&self) -> impl Iterator<Item = Ino> {
        self.iter().map(|node| node.ino)
    }
}

fn bit(ino: Ino) -> u64 {
    1 << (ino % PAGE)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ops::InodeRecord;
    use crate::types::{FileType, Protection};

    fn node(ino: Ino, size: u64) -> Arc<Node> {
        Arc::new(Node::from_record(InodeRecord {
            ino,
            file_id: [0; 16],
            kind: FileType::File,
            protection: Protection::Encrypted,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            key_version: 1,
            chunk_log2: 16,
            device: 0,
            size,
            atime: 0,
            mtime: 0,
            ctime: 0,
            xattrs: BTreeMap::new(),
            body: None,
        }))
    }

    #[test]
    fn nodes_are_found_replaced_removed_and_listed_as_in_an_ordered_map() {
        let (mut nodes, mut model) = (Nodes::default(), BTreeMap::new());
        let mut draw = 1_u64;
        for step in 0..20_000_u64 {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let ino = match step % 3 {
                0 => draw >> 56,
                1 => draw >> 48,
                _ => u64::MAX - (draw >> 57),
            };
            if (draw >> 32).is_multiple_of(4) {
                nodes.remove(ino);
                model.remove(&ino);
            } else {
                nodes.insert(node(ino, step));
                model.insert(ino, step);
            }
            let found = nodes.get(ino).map(|node| node.meta.lock().size);
            assert_eq!(found, model.get(&ino).copied());
            assert_eq!(nodes.len(), model.len());
        }
        assert!(nodes.inos().eq(model.keys().copied()));
        for ino in model.into_keys() {
            nodes.remove(ino);
        }
        assert!(nodes.is_empty() && nodes.pages.is_empty());
    }
}
