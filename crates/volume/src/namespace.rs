//! Names: making, removing, renaming, linking, listing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dir::Dir;
use crate::error::VolumeError;
use crate::inode::Node;
use crate::ops::InodeRecord;
use crate::tree::Tree;
use crate::types::{
    Attr, DirEntry, FileType, Ino, NAME_MAX, NodeKind, Protection, ROOT_INO, SetAttr, SetTime,
    TARGET_MAX,
};
use crate::volume::{Result, Volume};

/// Most hard links of one file.
const LINK_MAX: u32 = 65_000;

impl Volume {
    /// The inode behind a name; "." of any inode that has one is itself.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        let tree = self.tree.read();
        if name == b"." {
            let found = tree.node(parent)?.attr();
            return if found.nlink == 0 {
                Err(VolumeError::NotFound)
            } else {
                Ok(found)
            };
        }
        let dir = tree.dir(parent)?;
        let ino = match name {
            b".." => dir.parent,
            _ => dir.get(name).ok_or(VolumeError::NotFound)?,
        };
        Ok(tree.node(ino)?.attr())
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn attr(&self, ino: Ino) -> Result<Attr> {
        Ok(self.node(ino)?.attr())
    }

    /// Changes attributes; a change of size cuts or extends the content.
    ///
    /// # Errors
    /// `ReadOnly`, `NotFound`, `IsDirectory` or `Invalid` for a size of anything but a file, `Integrity`, `Io`.
    pub fn set_attr(&self, ino: Ino, change: &SetAttr) -> Result<Attr> {
        self.require_writable()?;
        if let Some(size) = change.size {
            let node = self.file_node(ino)?;
            self.resize(&node, size)
                .map_err(|error| self.name_file(error, ino))?;
        }
        let tree = self.tree.read();
        let node = tree.node(ino)?;
        let now = self.now();
        let time = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        {
            let mut meta = node.meta.lock();
            meta.mode = change.mode.map_or(meta.mode, |mode| mode & 0o7777);
            meta.uid = change.uid.unwrap_or(meta.uid);
            meta.gid = change.gid.unwrap_or(meta.gid);
            if change.uid.is_some() || change.gid.is_some() {
                meta.drop_capabilities();
            }
            meta.atime = change.atime.map_or(meta.atime, time);
            meta.mtime = change.mtime.map_or(meta.mtime, time);
            meta.ctime = now;
        }
        self.mark(ino);
        Ok(node.attr())
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for anything else.
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        if node.kind == FileType::Symlink {
            Ok(node
                .data
                .read()
                .view()
                .inline()
                .unwrap_or_default()
                .to_vec())
        } else {
            Err(VolumeError::Invalid("not a symbolic link"))
        }
    }

    /// Makes a file, directory, symbolic link or special file.
    ///
    /// # Errors
    /// `Exists`, `NotFound`, `NotDirectory`, `NameTooLong`, `Invalid`, `ReadOnly`.
    pub fn make_node(
        &self,
        parent: Ino,
        name: &[u8],
        kind: NodeKind<'_>,
        mode: u32,
        uid: u32,
        gid: u32,
    ) -> Result<Attr> {
        self.require_writable()?;
        check_name(name, self.protection)?;
        let (kind, mut body, device) = contents(kind)?;
        if kind == FileType::File && self.protection == Protection::Authenticated {
            body = None;
        }
        let now = self.now();
        let mut file_id = [0; 16];
        self.environment.random(&mut file_id);
        let mut tree = self.tree.write();
        Self::check_free(&tree, parent, name)?;
        let ino = Self::next_ino(&mut tree)?;
        let node = Arc::new(Node::from_record(InodeRecord {
            ino,
            file_id,
            kind,
            protection: self.protection,
            mode: mode & 0o7777,
            uid,
            gid,
            nlink: if kind == FileType::Dir { 2 } else { 1 },
            key_version: self.keys.newest().version,
            chunk_log2: self.chunk_log2(),
            device,
            size: body.as_ref().map_or(0, |body| body.len() as u64),
            atime: now,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
            body,
        }));
        let attr = node.attr();
        tree.nodes.insert(node);
        if kind == FileType::Dir {
            tree.dirs.insert(ino, Dir::new(parent));
            change_links(&tree, parent, 1);
        }
        self.mark(ino);
        self.insert_name(&mut tree, parent, name, ino)?;
        Ok(attr)
    }

    /// Removes the name of a file or symbolic link; the content goes with the last name and the last open.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `ReadOnly`.
    pub fn remove_file(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.require_writable()?;
        let mut tree = self.tree.write();
        let ino = tree.dir(parent)?.get(name).ok_or(VolumeError::NotFound)?;
        if tree.dirs.contains_key(&ino) {
            return Err(VolumeError::IsDirectory);
        }
        self.remove_name(&mut tree, parent, name)?;
        self.unlink(&mut tree, ino)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NotEmpty`, `ReadOnly`.
    pub fn remove_dir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.require_writable()?;
        let mut tree = self.tree.write();
        let ino = tree.dir(parent)?.get(name).ok_or(VolumeError::NotFound)?;
        if !tree.dir(ino)?.is_empty() {
            return Err(VolumeError::NotEmpty);
        }
        self.remove_name(&mut tree, parent, name)?;
        self.drop_dir(&mut tree, parent, ino);
        Ok(())
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// `Exists`, `NotFound`, `NotDirectory`, `IsDirectory`, `NameTooLong`, `TooManyLinks`, `ReadOnly`.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.require_writable()?;
        check_name(name, self.protection)?;
        let mut tree = self.tree.write();
        let node = Arc::clone(tree.node(ino)?);
        if node.kind == FileType::Dir {
            return Err(VolumeError::IsDirectory);
        }
        Self::check_free(&tree, parent, name)?;
        {
            let mut meta = node.meta.lock();
            if meta.nlink >= LINK_MAX {
                return Err(VolumeError::TooManyLinks);
            }
            meta.nlink += 1;
            meta.ctime = self.now();
        }
        self.mark(ino);
        self.insert_name(&mut tree, parent, name, ino)?;
        Ok(node.attr())
    }

    /// Counts an open: the content of a removed file stays until the last one is released.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn open_file(&self, ino: Ino) -> Result<()> {
        // Under the tree's lock: a file that nothing refers to goes under it, too.
        self.tree.read().node(ino)?.count_open(true);
        Ok(())
    }

    /// Ends an open of [`Volume::open_file`].
    pub fn release(&self, ino: Ino) {
        let Ok(node) = self.node(ino) else { return };
        if node.count_open(false) > 0 {
            return;
        }
        let mut tree = self.tree.write();
        let (nlink, opens) = {
            let meta = node.meta.lock();
            (meta.nlink, node.opens())
        };
        if opens == 0 {
            self.hot.forget(ino);
            if nlink == 0 {
                tree.nodes.remove(ino);
                tree.dirs.remove(&ino);
                self.mark(ino);
                drop(tree);
                self.discard(&node);
            }
        }
    }

    /// Hands the entries after `cookie` (0: from the start) to `emit` until it returns `false`. Entries made or
    /// removed meanwhile may or may not appear; all others appear exactly once.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`.
    pub fn read_dir(
        &self,
        ino: Ino,
        cookie: u64,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let tree = self.tree.read();
        let dir = tree.dir(ino)?;
        let dots: [(u64, &[u8], Ino); 2] = [(1, b".", ino), (2, b"..", dir.parent)];
        let dots = dots.into_iter().filter(|(own, _, _)| *own > cookie);
        for (cookie, name, ino) in dots.chain(dir.after(cookie.max(Dir::FIRST - 1))) {
            let Ok(node) = tree.node(ino) else { continue };
            if !emit(DirEntry {
                cookie,
                ino,
                kind: node.kind,
                name,
            }) {
                break;
            }
        }
        Ok(())
    }

    fn check_free(tree: &Tree, parent: Ino, name: &[u8]) -> Result<()> {
        let dir = tree.dir(parent)?;
        if parent != ROOT_INO && tree.node(parent)?.meta.lock().nlink == 0 {
            return Err(VolumeError::NotFound);
        }
        if dir.get(name).is_some() {
            Err(VolumeError::Exists)
        } else {
            Ok(())
        }
    }

    pub(crate) fn insert_name(
        &self,
        tree: &mut Tree,
        parent: Ino,
        name: &[u8],
        ino: Ino,
    ) -> Result<()> {
        tree.dir_mut(parent)?.insert(name, ino);
        self.pending.lock().names.insert((parent, Arc::from(name)));
        self.touch_dir(tree, parent);
        Ok(())
    }

    pub(crate) fn remove_name(&self, tree: &mut Tree, parent: Ino, name: &[u8]) -> Result<()> {
        tree.dir_mut(parent)?
            .remove(name)
            .ok_or(VolumeError::NotFound)?;
        self.pending.lock().names.insert((parent, Arc::from(name)));
        self.touch_dir(tree, parent);
        Ok(())
    }

    /// Takes one link from a file.
    pub(crate) fn unlink(&self, tree: &mut Tree, ino: Ino) -> Result<()> {
        let node = Arc::clone(tree.node(ino)?);
        let unused = {
            let mut meta = node.meta.lock();
            meta.nlink = meta.nlink.saturating_sub(1);
            meta.ctime = self.now();
            meta.nlink == 0 && node.opens() == 0
        };
        if unused {
            tree.nodes.remove(ino);
        }
        self.mark(ino);
        if unused {
            self.discard(&node);
        }
        Ok(())
    }

    pub(crate) fn drop_dir(&self, tree: &mut Tree, parent: Ino, ino: Ino) {
        change_links(tree, parent, -1);
        let opens = tree.nodes.get(ino).map_or(0, |node| {
            let mut meta = node.meta.lock();
            meta.nlink = 0;
            node.opens()
        });
        if opens == 0 {
            tree.nodes.remove(ino);
            tree.dirs.remove(&ino);
        }
        self.mark(ino);
        self.mark(parent);
    }

    fn touch_dir(&self, tree: &Tree, ino: Ino) {
        if let Some(node) = tree.nodes.get(ino) {
            let mut meta = node.meta.lock();
            meta.mtime = self.now();
            meta.ctime = meta.mtime;
        }
        self.mark(ino);
    }
}

/// Type, inline content and device number of a new node.
fn contents(kind: NodeKind<'_>) -> Result<(FileType, Option<Vec<u8>>, u32)> {
    Ok(match kind {
        NodeKind::File => (FileType::File, Some(Vec::new()), 0),
        NodeKind::Dir => (FileType::Dir, None, 0),
        NodeKind::Symlink(target) if target.len() > TARGET_MAX => {
            return Err(VolumeError::NameTooLong);
        }
        NodeKind::Symlink(target) => (FileType::Symlink, Some(target.to_vec()), 0),
        NodeKind::Fifo => (FileType::Fifo, None, 0),
        NodeKind::Socket => (FileType::Socket, None, 0),
        NodeKind::CharDevice(number) => (FileType::CharDevice, None, number),
        NodeKind::BlockDevice(number) => (FileType::BlockDevice, None, number),
    })
}

pub(crate) fn change_links(tree: &Tree, ino: Ino, by: i32) {
    if let Some(node) = tree.nodes.get(ino) {
        let mut meta = node.meta.lock();
        meta.nlink = meta.nlink.saturating_add_signed(by);
    }
}

pub(crate) fn check_name(name: &[u8], protection: Protection) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(VolumeError::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0)
    {
        return Err(VolumeError::Invalid(
            "a name may not be empty, '.' or '..', nor contain '/' or NUL",
        ));
    }
    if protection == Protection::Authenticated && std::str::from_utf8(name).is_err() {
        return Err(VolumeError::Invalid(
            "a name in an authenticated volume must be UTF-8",
        ));
    }
    Ok(())
}
