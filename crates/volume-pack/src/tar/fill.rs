//! Members into a volume. Every name is looked up from the volume's root, and no symbolic link is followed.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use volume::{Attr, FileType, Ino, NodeKind, ROOT_INO, SetAttr, Volume, VolumeError, XattrMode};

use super::member::{Kind, Member};
use super::stream::{Stream, refused};
use crate::error::PackError;
use crate::pack::clear;
use crate::progress::{Meter, Tally};

const BUFFER: usize = 1 << 20;

/// Fills a volume whose commits are held; commits at the end.
pub(super) fn fill(
    volume: &Volume,
    source: impl Read,
    named: &Path,
    meter: &Meter,
) -> Result<Tally, PackError> {
    clear(volume, ROOT_INO)?;
    let mut filling = Filling {
        volume,
        meter,
        directories: HashMap::new(),
        tally: Tally::default(),
        buffer: vec![0; BUFFER],
    };
    let mut stream = Stream::new(source, named);
    while let Some(member) = stream.next()? {
        filling.member(&mut stream, &member)?;
    }
    for (ino, attributes) in &filling.directories {
        volume
            .set_attr(*ino, attributes)
            .map_err(|error| PackError::volume(b"", error))?;
    }
    volume
        .sync(None)
        .map_err(|error| PackError::volume(b"", error))?;
    Ok(Tally {
        bytes: meter.bytes(),
        ..filling.tally
    })
}

struct Filling<'a> {
    volume: &'a Volume,
    meter: &'a Meter,
    /// What directories get at the end, when nothing is made in them any more.
    directories: HashMap<Ino, SetAttr>,
    tally: Tally,
    buffer: Vec<u8>,
}

impl Filling<'_> {
    fn member(
        &mut self,
        stream: &mut Stream<'_, impl Read>,
        member: &Member,
    ) -> Result<(), PackError> {
        let failed = |error| PackError::volume(&member.path, error);
        let names = names(&member.path).map_err(|what| refused(&member.path, &what))?;
        let Some((name, above)) = names.split_last() else {
            if member.kind != Kind::Directory {
                return Err(refused(&member.path, "has no name"));
            }
            self.directories.insert(ROOT_INO, member.attributes);
            return self.set_xattrs(ROOT_INO, member);
        };
        let parent = self.parent(member, above)?;
        if member.kind == Kind::Directory {
            return self.directory(parent, name, member);
        }
        let linked = match &member.kind {
            Kind::Link(target) => Some(self.linked(member, target)?),
            _ => None,
        };
        self.remove_older(parent, name, member, linked)?;
        let made = match &member.kind {
            Kind::Link(_) => {
                if self.volume.lookup(parent, name).is_err() {
                    let first = linked.unwrap_or_default();
                    self.volume.link(first, parent, name).map_err(failed)?;
                }
                self.tally.hard_links += 1;
                return Ok(());
            }
            Kind::Symlink(target) => {
                stays_inside(above.len(), target).map_err(|what| refused(&member.path, &what))?;
                self.tally.symlinks += 1;
                self.make(parent, name, NodeKind::Symlink(target), member)?
            }
            Kind::Fifo => {
                self.tally.specials += 1;
                self.make(parent, name, NodeKind::Fifo, member)?
            }
            Kind::File | Kind::Directory => {
                self.tally.files += 1;
                let ino = self.make(parent, name, NodeKind::File, member)?;
                self.contents(stream, ino, member)?;
                ino
            }
        };
        self.set_xattrs(made, member)?;
        let mut attributes = member.attributes;
        if matches!(member.kind, Kind::Symlink(_)) {
            attributes.mode = None;
        }
        self.volume.set_attr(made, &attributes).map_err(failed)?;
        self.meter.add_file();
        Ok(())
    }

    /// The directory of a member; made when no member came for it.
    fn parent(&mut self, member: &Member, above: &[&[u8]]) -> Result<Ino, PackError> {
        let failed = |error| PackError::volume(&member.path, error);
        let mut at = ROOT_INO;
        for name in above {
            let found = match self.volume.lookup(at, name) {
                Err(VolumeError::NotFound) => {
                    self.tally.directories += 1;
                    let made = self.volume.make_node(at, name, NodeKind::Dir, 0o755, 0, 0);
                    made.map_err(failed)?
                }
                other => other.map_err(failed)?,
            };
            if found.kind != FileType::Dir {
                let name = String::from_utf8_lossy(name);
                let what = format!("leads through {name}, which is no directory");
                return Err(refused(&member.path, &what));
            }
            at = found.ino;
        }
        Ok(at)
    }

    fn directory(&mut self, parent: Ino, name: &[u8], member: &Member) -> Result<(), PackError> {
        let ino = match self.volume.lookup(parent, name) {
            Ok(found) if found.kind == FileType::Dir => found.ino,
            Ok(_) => {
                return Err(refused(
                    &member.path,
                    "is a directory, and was something else before",
                ));
            }
            Err(VolumeError::NotFound) => {
                self.tally.directories += 1;
                self.make(parent, name, NodeKind::Dir, member)?
            }
            Err(error) => return Err(PackError::volume(&member.path, error)),
        };
        self.directories.insert(ino, member.attributes);
        self.set_xattrs(ino, member)
    }

    /// The node that a hard link names: a member that came before.
    fn linked(&self, member: &Member, target: &[u8]) -> Result<Ino, PackError> {
        let shown = String::from_utf8_lossy(target);
        let names = names(target).map_err(|what| {
            refused(
                &member.path,
                &format!("is a hard link to {shown}, which {what}"),
            )
        })?;
        let mut found: Result<Attr, VolumeError> = self.volume.attr(ROOT_INO);
        for name in names {
            found = found.and_then(|at| self.volume.lookup(at.ino, name));
        }
        match found {
            Ok(attr) if attr.kind != FileType::Dir => Ok(attr.ino),
            Ok(_) => Err(refused(
                &member.path,
                &format!("is a hard link to {shown}, a directory"),
            )),
            Err(VolumeError::NotFound | VolumeError::NotDirectory) => Err(refused(
                &member.path,
                &format!("is a hard link to {shown}, which no member before it has made"),
            )),
            Err(error) => Err(PackError::volume(&member.path, error)),
        }
    }

    /// A later member of the same name replaces the earlier one, as where a stream was appended to; a link to itself stays.
    fn remove_older(
        &mut self,
        parent: Ino,
        name: &[u8],
        member: &Member,
        linked: Option<Ino>,
    ) -> Result<(), PackError> {
        let failed = |error| PackError::volume(&member.path, error);
        match self.volume.lookup(parent, name) {
            Err(VolumeError::NotFound) => Ok(()),
            Err(error) => Err(failed(error)),
            Ok(found) if found.kind == FileType::Dir => Err(refused(
                &member.path,
                "was a directory before, and is something else",
            )),
            Ok(found) if Some(found.ino) == linked => Ok(()),
            Ok(_) => self.volume.remove_file(parent, name).map_err(failed),
        }
    }

    fn make(
        &self,
        parent: Ino,
        name: &[u8],
        kind: NodeKind<'_>,
        member: &Member,
    ) -> Result<Ino, PackError> {
        self.volume
            .make_node(parent, name, kind, 0o700, 0, 0)
            .map(|made| made.ino)
            .map_err(|error| PackError::volume(&member.path, error))
    }

    fn contents(
        &mut self,
        stream: &mut Stream<'_, impl Read>,
        ino: Ino,
        member: &Member,
    ) -> Result<(), PackError> {
        let failed = |error| PackError::volume(&member.path, error);
        let size = SetAttr {
            size: Some(member.size),
            ..SetAttr::default()
        };
        self.volume.set_attr(ino, &size).map_err(failed)?;
        for part in &member.parts {
            let mut done = 0;
            while done < part.length {
                let most = usize::try_from(part.length - done)
                    .unwrap_or(usize::MAX)
                    .min(self.buffer.len());
                let window = self.buffer.get_mut(..most).unwrap_or_default();
                let got = stream.read(window)?;
                self.volume
                    .write(ino, part.offset + done, window)
                    .map_err(failed)?;
                self.meter.add_bytes(got);
                done += got as u64;
            }
        }
        Ok(())
    }

    fn set_xattrs(&self, ino: Ino, member: &Member) -> Result<(), PackError> {
        for (name, value) in &member.xattrs {
            self.volume
                .xattr_set(ino, name, value, XattrMode::Set)
                .map_err(|error| PackError::volume(&member.path, error))?;
        }
        Ok(())
    }
}

/// The names of a path from the root on.
fn names(path: &[u8]) -> Result<Vec<&[u8]>, String> {
    if path.starts_with(b"/") {
        return Err("is an absolute path".to_owned());
    }
    let parts = path.split(|byte| *byte == b'/');
    let names: Vec<_> = parts
        .filter(|name| !name.is_empty() && *name != b".")
        .collect();
    if names.contains(&b"..".as_slice()) {
        return Err("has `..` in its path".to_owned());
    }
    if path.contains(&0) {
        return Err("has a zero byte in its path".to_owned());
    }
    Ok(names)
}

/// Whether the target of a symbolic link, by its text, stays below the root of the stream.
fn stays_inside(mut depth: usize, target: &[u8]) -> Result<(), String> {
    let out = || {
        let shown = String::from_utf8_lossy(target);
        format!("is a symbolic link that leads out of the stream, to {shown}")
    };
    if target.starts_with(b"/") {
        return Err(out());
    }
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => depth = depth.checked_sub(1).ok_or_else(out)?,
            _ => depth += 1,
        }
    }
    Ok(())
}
