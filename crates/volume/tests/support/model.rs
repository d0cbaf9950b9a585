//! A file system as a program expects it, to compare with.

use std::collections::BTreeMap;

use securetf_volume::{
    FileType, Ino, NodeKind, ROOT_INO, RenameFlags, SetAttr, Volume, VolumeError, XattrMode,
};

pub use super::program::{Op, Place};
pub use super::view::{read_all, view};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelNode {
    pub content: Vec<u8>,
    pub symlink: bool,
    /// FIFO, socket or device, and its number.
    pub special: Option<(FileType, u32)>,
    pub mode: u32,
    pub xattr: Option<Vec<u8>>,
    pub nlink: u32,
}

/// Everything a program can see, by path.
pub type View = BTreeMap<String, Option<ModelNode>>;

#[derive(Clone, Debug, Default)]
pub struct Model {
    names: BTreeMap<Place, u64>,
    nodes: BTreeMap<u64, ModelNode>,
    dirs: Vec<String>,
    next: u64,
}

type Outcome = Result<(), VolumeError>;

impl Model {
    /// Does what the volume should do.
    pub fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Write { at, offset, data } => {
                let id = self.file_or_new(at)?;
                let content = &mut self.nodes.get_mut(&id).unwrap().content;
                let end = *offset as usize + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset as usize..end].copy_from_slice(data);
            }
            Op::Truncate { at, size } => {
                let id = self.file_or_new(at)?;
                self.nodes
                    .get_mut(&id)
                    .unwrap()
                    .content
                    .resize(*size as usize, 0);
            }
            Op::Zero {
                at,
                offset,
                length,
                grow,
            } => {
                let id = self.file_or_new(at)?;
                let content = &mut self.nodes.get_mut(&id).unwrap().content;
                let (from, to) = (*offset as usize, (offset + length) as usize);
                if *grow && content.len() < to {
                    content.resize(to, 0);
                }
                let to = to.min(content.len());
                content[from.min(to)..to].fill(0);
            }
            Op::Special { at, kind, device } => {
                self.check_free(at)?;
                let number = if numbered(*kind) { *device } else { 0 };
                let node = ModelNode {
                    special: Some((*kind, number)),
                    mode: 0o640,
                    nlink: 1,
                    ..ModelNode::default()
                };
                self.insert(at, node);
            }
            Op::Unlink(at) => {
                let id = self.find(at)?;
                self.names.remove(at);
                self.drop_link(id);
            }
            Op::MakeDir(name) if self.dirs.contains(name) => return Err(VolumeError::Exists),
            Op::MakeDir(name) => self.dirs.push(name.clone()),
            Op::RemoveDir(name) => {
                self.check_dir(name)?;
                if self.names.keys().any(|(dir, _)| dir == name) {
                    return Err(VolumeError::NotEmpty);
                }
                self.dirs.retain(|dir| dir != name);
            }
            Op::Rename { from, to, exchange } => return self.rename(from, to, *exchange),
            Op::Link { from, to } => {
                let id = self.find(from)?;
                self.check_free(to)?;
                self.names.insert(to.clone(), id);
                self.nodes.get_mut(&id).unwrap().nlink += 1;
            }
            Op::Symlink { at, target } => {
                self.check_free(at)?;
                let node = ModelNode {
                    content: target.clone(),
                    symlink: true,
                    mode: 0o777,
                    nlink: 1,
                    ..ModelNode::default()
                };
                self.insert(at, node);
            }
            Op::Xattr { at, value } => {
                let id = self.find(at)?;
                self.nodes.get_mut(&id).unwrap().xattr = Some(value.clone());
            }
            Op::Mode { at, mode } => {
                let id = self.find(at)?;
                self.nodes.get_mut(&id).unwrap().mode = *mode;
            }
            Op::Sync | Op::Compact => {}
        }
        Ok(())
    }

    fn rename(&mut self, from: &Place, to: &Place, exchange: bool) -> Outcome {
        let source = self.find(from)?;
        self.check_dir(&to.0)?;
        let target = self.names.get(to).copied();
        if exchange {
            let target = target.ok_or(VolumeError::NotFound)?;
            self.names.insert(from.clone(), target);
        } else if target == Some(source) {
            return Ok(());
        } else {
            self.names.remove(from);
            if let Some(target) = target {
                self.drop_link(target);
            }
        }
        self.names.insert(to.clone(), source);
        Ok(())
    }

    fn check_dir(&self, dir: &str) -> Outcome {
        if dir.is_empty() || self.dirs.iter().any(|known| known == dir) {
            Ok(())
        } else {
            Err(VolumeError::NotFound)
        }
    }

    fn check_free(&self, at: &Place) -> Outcome {
        self.check_dir(&at.0)?;
        if self.names.contains_key(at) {
            Err(VolumeError::Exists)
        } else {
            Ok(())
        }
    }

    fn find(&self, at: &Place) -> Result<u64, VolumeError> {
        self.check_dir(&at.0)?;
        self.names.get(at).copied().ok_or(VolumeError::NotFound)
    }

    fn file_or_new(&mut self, at: &Place) -> Result<u64, VolumeError> {
        match self.find(at) {
            Ok(id) if self.nodes[&id].symlink => {
                Err(VolumeError::Invalid("a symbolic link has no content"))
            }
            Ok(id) if self.nodes[&id].special.is_some() => Err(VolumeError::Invalid(
                "a special file has no content of its own",
            )),
            Ok(id) => Ok(id),
            Err(_) => {
                self.check_dir(&at.0)?;
                Ok(self.insert(
                    at,
                    ModelNode {
                        mode: 0o644,
                        nlink: 1,
                        ..ModelNode::default()
                    },
                ))
            }
        }
    }

    fn insert(&mut self, at: &Place, node: ModelNode) -> u64 {
        self.next += 1;
        self.names.insert(at.clone(), self.next);
        self.nodes.insert(self.next, node);
        self.next
    }

    fn drop_link(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.nlink -= 1;
        if node.nlink == 0 {
            self.nodes.remove(&id);
        }
    }

    pub fn view(&self) -> View {
        let mut view: View = self.dirs.iter().map(|dir| (dir.clone(), None)).collect();
        for ((dir, name), id) in &self.names {
            view.insert(join(dir, name), Some(self.nodes[id].clone()));
        }
        view
    }
}

pub fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

/// Does it in the volume.
pub fn apply(volume: &Volume, op: &Op) -> Outcome {
    let dir = |name: &str| -> Result<Ino, VolumeError> {
        if name.is_empty() {
            Ok(ROOT_INO)
        } else {
            Ok(volume.lookup(ROOT_INO, name.as_bytes())?.ino)
        }
    };
    let find = |at: &Place| Ok::<_, VolumeError>(volume.lookup(dir(&at.0)?, at.1.as_bytes())?.ino);
    let file = |at: &Place| match find(at) {
        Err(VolumeError::NotFound) => Ok(volume
            .make_node(dir(&at.0)?, at.1.as_bytes(), NodeKind::File, 0o644, 0, 0)?
            .ino),
        other => other,
    };
    match op {
        Op::Write { at, offset, data } => volume.write(file(at)?, *offset, data).map(|_| ()),
        Op::Truncate { at, size } => {
            let change = SetAttr {
                size: Some(*size),
                ..SetAttr::default()
            };
            volume.set_attr(file(at)?, &change).map(|_| ())
        }
        Op::Zero {
            at,
            offset,
            length,
            grow,
        } => volume.zero(file(at)?, *offset, *length, !grow),
        Op::Special { at, kind, device } => {
            let kind = match kind {
                FileType::Fifo => NodeKind::Fifo,
                FileType::Socket => NodeKind::Socket,
                FileType::CharDevice => NodeKind::CharDevice(*device),
                _ => NodeKind::BlockDevice(*device),
            };
            volume
                .make_node(dir(&at.0)?, at.1.as_bytes(), kind, 0o640, 0, 0)
                .map(|_| ())
        }
        Op::Unlink(at) => volume.remove_file(dir(&at.0)?, at.1.as_bytes()),
        Op::MakeDir(name) => volume
            .make_node(ROOT_INO, name.as_bytes(), NodeKind::Dir, 0o755, 0, 0)
            .map(|_| ()),
        Op::RemoveDir(name) => volume.remove_dir(ROOT_INO, name.as_bytes()),
        Op::Rename { from, to, exchange } => {
            let swap = [RenameFlags::Replace, RenameFlags::Exchange];
            let flags = swap[usize::from(*exchange)];
            find(from)?;
            volume.rename(
                dir(&from.0)?,
                from.1.as_bytes(),
                dir(&to.0)?,
                to.1.as_bytes(),
                flags,
            )
        }
        Op::Link { from, to } => volume
            .link(find(from)?, dir(&to.0)?, to.1.as_bytes())
            .map(|_| ()),
        Op::Symlink { at, target } => {
            let kind = NodeKind::Symlink(target);
            volume
                .make_node(dir(&at.0)?, at.1.as_bytes(), kind, 0o777, 0, 0)
                .map(|_| ())
        }
        Op::Xattr { at, value } => volume.xattr_set(find(at)?, b"user.x", value, XattrMode::Set),
        Op::Mode { at, mode } => {
            let change = SetAttr {
                mode: Some(*mode),
                ..SetAttr::default()
            };
            volume.set_attr(find(at)?, &change).map(|_| ())
        }
        Op::Compact => volume.compact(&mut |_| true).map(|_| ()),
        Op::Sync => volume.sync(None),
    }
}

fn numbered(kind: FileType) -> bool {
    matches!(kind, FileType::CharDevice | FileType::BlockDevice)
}
