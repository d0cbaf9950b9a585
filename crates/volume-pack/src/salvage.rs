//! What can be read of a damaged volume, into a new one.

use std::collections::HashMap;

use volume::{
    Attr, FileType, Finding, Ino, NodeKind, ROOT_INO, SetAttr, SetTime, Volume, VolumeError,
    XattrMode,
};

use crate::error::PackError;
use crate::progress::{Progress, Tally};
use crate::tree::{paths, split};

const CHUNK: usize = 1 << 20;

/// Copies every file of `from` that can be read whole into the empty volume `to`, with names, attributes and links,
/// and commits. The files that cannot be read are returned: nothing of them is copied.
///
/// # Errors
/// [`PackError::Usage`] when `to` is not empty; what `to` says; of `from` all but damage.
pub fn salvage(
    from: &Volume,
    to: &Volume,
    progress: Progress<'_>,
) -> Result<(Tally, Vec<Finding>), PackError> {
    if !paths(to)?.is_empty() {
        return Err(PackError::usage(
            "the volume to salvage into is not empty".to_owned(),
            "name a new one",
        ));
    }
    let mut work = Work {
        from,
        to,
        made: HashMap::from([(Vec::new(), ROOT_INO)]),
        copies: HashMap::new(),
        tally: Tally::default(),
        lost: Vec::new(),
        buffer: vec![0; CHUNK],
    };
    let all = paths(from)?;
    for (path, attr) in &all {
        work.take(path, attr)?;
        if !progress(work.tally.files, work.tally.bytes) {
            return Err(PackError::Cancelled);
        }
    }
    // Times of directories last: each name in them has changed these.
    for (path, attr) in all
        .iter()
        .rev()
        .filter(|(_, attr)| attr.kind == FileType::Dir)
    {
        if let Some(ino) = work.made.get(path) {
            let set = to.set_attr(*ino, &attributes(attr));
            set.map_err(|error| PackError::volume(path, error))?;
        }
    }
    let root = from
        .attr(ROOT_INO)
        .map_err(|error| PackError::volume(b"", error))?;
    to.set_attr(ROOT_INO, &attributes(&root))
        .and_then(|_| to.sync(None))
        .map_err(|error| PackError::volume(b"", error))?;
    Ok((work.tally, work.lost))
}

struct Work<'a> {
    from: &'a Volume,
    to: &'a Volume,
    /// New inodes of directories, by path.
    made: HashMap<Vec<u8>, Ino>,
    /// New inodes by old ones, of files with several names; `None` for lost ones.
    copies: HashMap<Ino, Option<Ino>>,
    tally: Tally,
    lost: Vec<Finding>,
    buffer: Vec<u8>,
}

impl Work<'_> {
    fn take(&mut self, path: &[u8], attr: &Attr) -> Result<(), PackError> {
        let (directory, name) = split(path);
        let parent = self.made.get(directory).copied().unwrap_or(ROOT_INO);
        let failed = |error| PackError::volume(path, error);
        match attr.kind {
            FileType::Dir => {
                let ino = self
                    .make(parent, name, NodeKind::Dir, attr)
                    .map_err(failed)?;
                self.made.insert(path.to_vec(), ino);
                self.tally.directories += 1;
            }
            FileType::Symlink => {
                let target = self.from.read_link(attr.ino).map_err(failed)?;
                let made = self.make(parent, name, NodeKind::Symlink(&target), attr);
                made.map_err(failed)?;
                self.tally.symlinks += 1;
            }
            FileType::Fifo | FileType::Socket | FileType::CharDevice | FileType::BlockDevice => {
                self.special(path, parent, name, attr)?;
            }
            FileType::File => match self.copies.get(&attr.ino).copied() {
                Some(Some(copy)) => {
                    self.to.link(copy, parent, name).map_err(failed)?;
                    self.tally.hard_links += 1;
                }
                Some(None) => self.lose(path, "another name of a file that is damaged"),
                None => self.file(path, parent, name, attr)?,
            },
        }
        Ok(())
    }

    fn special(
        &mut self,
        path: &[u8],
        parent: Ino,
        name: &[u8],
        attr: &Attr,
    ) -> Result<(), PackError> {
        let failed = |error| PackError::volume(path, error);
        if let Some(Some(copy)) = self.copies.get(&attr.ino).copied() {
            self.to.link(copy, parent, name).map_err(failed)?;
            self.tally.hard_links += 1;
            return Ok(());
        }
        let kind = match attr.kind {
            FileType::Fifo => NodeKind::Fifo,
            FileType::CharDevice => NodeKind::CharDevice(attr.device),
            FileType::BlockDevice => NodeKind::BlockDevice(attr.device),
            _ => NodeKind::Socket,
        };
        let ino = self.make(parent, name, kind, attr).map_err(failed)?;
        self.copies.insert(attr.ino, Some(ino));
        self.tally.specials += 1;
        Ok(())
    }

    fn lose(&mut self, path: &[u8], what: &str) {
        self.lost.push(Finding {
            path: format!("/{}", String::from_utf8_lossy(path)),
            what: what.to_owned(),
        });
    }

    fn make(
        &self,
        parent: Ino,
        name: &[u8],
        kind: NodeKind<'_>,
        attr: &Attr,
    ) -> Result<Ino, VolumeError> {
        let ino = self
            .to
            .make_node(parent, name, kind, attr.mode, attr.uid, attr.gid)?
            .ino;
        for name in self.from.xattr_list(attr.ino)? {
            let value = self.from.xattr_get(attr.ino, &name)?;
            self.to.xattr_set(ino, &name, &value, XattrMode::Set)?;
        }
        if attr.kind != FileType::Dir {
            self.to.set_attr(ino, &attributes(attr))?;
        }
        Ok(ino)
    }

    fn file(
        &mut self,
        path: &[u8],
        parent: Ino,
        name: &[u8],
        attr: &Attr,
    ) -> Result<(), PackError> {
        let failed = |error| PackError::volume(path, error);
        let ino = self
            .make(parent, name, NodeKind::File, attr)
            .map_err(failed)?;
        let copied = self.content(path, attr, ino)?;
        if let Some(problem) = &copied {
            self.to.remove_file(parent, name).map_err(failed)?;
            self.lose(path, problem);
        } else {
            self.to.set_attr(ino, &attributes(attr)).map_err(failed)?;
            self.tally.files += 1;
            self.tally.bytes += attr.size;
        }
        if attr.nlink > 1 {
            self.copies
                .insert(attr.ino, copied.is_none().then_some(ino));
        }
        Ok(())
    }

    /// Copies the contents; returns what is wrong with them, if anything. Blocks of zeros stay holes.
    fn content(&mut self, path: &[u8], attr: &Attr, ino: Ino) -> Result<Option<String>, PackError> {
        let failed = |error| PackError::volume(path, error);
        let mut offset = 0;
        loop {
            let got = match self.from.read(attr.ino, offset, &mut self.buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(VolumeError::Integrity { problem, .. }) => return Ok(Some(problem)),
                Err(error) => return Err(failed(error)),
            };
            let bytes = self.buffer.get(..got).unwrap_or_default();
            if bytes.iter().any(|byte| *byte != 0) {
                self.to.write(ino, offset, bytes).map_err(failed)?;
            }
            offset += got as u64;
        }
        let size = SetAttr {
            size: Some(attr.size),
            ..SetAttr::default()
        };
        self.to.set_attr(ino, &size).map_err(failed)?;
        Ok(None)
    }
}

fn attributes(attr: &Attr) -> SetAttr {
    SetAttr {
        mode: (attr.kind != FileType::Symlink).then_some(attr.mode),
        uid: Some(attr.uid),
        gid: Some(attr.gid),
        size: None,
        atime: Some(SetTime::At(attr.atime)),
        mtime: Some(SetTime::At(attr.mtime)),
    }
}
