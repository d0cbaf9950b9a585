//! Checking: every chunk of every file is read and opened, and names are counted against links.

use std::collections::HashMap;

use crate::error::VolumeError;
use crate::tree::Tree;
use crate::types::{FileType, Finding, Ino, ROOT_INO};
use crate::volume::{Result, Volume};

/// Bytes read at once.
const STEP: usize = 1 << 20;

impl Volume {
    /// Reads everything and names each damaged file; an empty list means that all is well.
    ///
    /// # Errors
    /// `Io` when the store itself fails.
    pub fn check(&self) -> Result<Vec<Finding>> {
        let files: Vec<Ino> = {
            let tree = self.tree.read();
            let files = tree.nodes.iter().filter(|node| node.kind == FileType::File);
            files.map(|node| node.ino).collect()
        };
        let mut findings = self.tree.read().miscounted();
        let mut buffer = vec![0; STEP];
        for ino in files {
            match self.check_file(ino, &mut buffer) {
                Ok(()) | Err(VolumeError::NotFound) => {}
                Err(VolumeError::Integrity { what, problem }) => findings.push(Finding {
                    path: what,
                    what: problem,
                }),
                Err(VolumeError::Key(problem)) => {
                    findings.push(Finding {
                        path: self.tree.read().path_of(ino),
                        what: problem,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(findings)
    }

    fn check_file(&self, ino: Ino, buffer: &mut [u8]) -> Result<()> {
        self.check_plain(ino)?;
        let mut offset = 0;
        loop {
            let got = self.read(ino, offset, buffer)?;
            if got == 0 {
                return Ok(());
            }
            offset += got as u64;
        }
    }
}

impl Tree {
    /// Inodes whose links are not as many as their names, and names without an inode.
    fn miscounted(&self) -> Vec<Finding> {
        let mut links: HashMap<Ino, u32> = HashMap::from([(ROOT_INO, 1)]);
        for (parent, dir) in &self.dirs {
            for (_, _, child) in dir.after(0) {
                *links.entry(child).or_default() += 1;
                if self.dirs.contains_key(&child) {
                    *links.entry(*parent).or_default() += 1;
                }
            }
        }
        let said = |ino: Ino| {
            let node = self.nodes.get(ino)?;
            let own = u32::from(node.kind == FileType::Dir);
            let nlink = node.meta.lock().nlink;
            Some(if nlink == 0 {
                0
            } else {
                nlink.saturating_sub(own)
            })
        };
        let mut inos: Vec<Ino> = self.nodes.inos().chain(links.keys().copied()).collect();
        inos.sort_unstable();
        inos.dedup();
        let mut findings = Vec::new();
        for ino in inos {
            let counted = links.get(&ino).copied().unwrap_or(0);
            let what = match said(ino) {
                Some(said) if said == counted => continue,
                Some(said) => {
                    format!("{counted} names and directories refer to it, its inode says {said}")
                }
                None => "it has a name and no inode".to_owned(),
            };
            findings.push(Finding {
                path: self.path_of(ino),
                what,
            });
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{InodeRecord, Op};
    use crate::segment::Segments;
    use crate::types::Protection;

    fn inode(ino: Ino, kind: FileType, nlink: u32) -> Op {
        Op::Inode(Box::new(InodeRecord {
            ino,
            file_id: [0; 16],
            kind,
            protection: Protection::Encrypted,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink,
            key_version: 1,
            chunk_log2: 16,
            device: 0,
            size: 0,
            atime: 0,
            mtime: 0,
            ctime: 0,
            xattrs: std::collections::BTreeMap::new(),
            body: None,
        }))
    }

    fn name(parent: Ino, name: &str, ino: Ino) -> Op {
        let name = name.as_bytes().to_vec();
        Op::Name { parent, name, ino }
    }

    fn findings(ops: Vec<Op>) -> Vec<(String, String)> {
        let (mut tree, mut segments) = (Tree::empty(), Segments::new(1, 1 << 16));
        for op in ops {
            tree.apply(op, &mut segments).expect("operations apply");
        }
        let found = tree.miscounted().into_iter();
        found.map(|finding| (finding.path, finding.what)).collect()
    }

    #[test]
    fn links_that_are_as_many_as_the_names_are_no_finding() {
        let ops = vec![
            inode(ROOT_INO, FileType::Dir, 3),
            inode(2, FileType::Dir, 2),
            name(ROOT_INO, "dir", 2),
            inode(3, FileType::Fifo, 2),
            name(ROOT_INO, "a", 3),
            name(2, "b", 3),
            inode(4, FileType::File, 0), // open and without a name
        ];
        assert_eq!(findings(ops), []);
    }

    #[test]
    fn a_file_with_another_count_and_a_directory_with_too_many_links_are_named() {
        let ops = vec![
            inode(ROOT_INO, FileType::Dir, 3),
            inode(3, FileType::File, 2),
            name(ROOT_INO, "a", 3),
        ];
        let word = |counted, said| {
            format!("{counted} names and directories refer to it, its inode says {said}")
        };
        let expected = [("/".to_owned(), word(1, 2)), ("/a".to_owned(), word(1, 2))];
        assert_eq!(findings(ops), expected);
    }

    #[test]
    fn a_name_without_an_inode_is_named() {
        let ops = vec![inode(ROOT_INO, FileType::Dir, 2), name(ROOT_INO, "a", 9)];
        let expected = [("/a".to_owned(), "it has a name and no inode".to_owned())];
        assert_eq!(findings(ops), expected);
    }
}
