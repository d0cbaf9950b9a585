//! A plain tree into a volume, on all cores.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{Mode, OFlags};
use volume::{Ino, NodeKind, ROOT_INO, SetAttr, Volume, VolumeError, XattrMode};

use crate::contents::{Copier, Failed};
use crate::error::PackError;
use crate::plan::{Leaf, Plan, attributes, differing, scan};
use crate::progress::{Meter, Progress, Tally};
use crate::resume::MARKER;
use crate::update::{Keep, Kept, prune, prune_to_compare};
use crate::view::children;

const XATTR_PREFIX: &[u8] = b"user.";

/// Makes the tree of `volume` equal to the one under the directory `source`, commits and anchors it. What the volume
/// held before is removed. Keeps modes, owners, times, symbolic links, hard links and `user.` attributes.
///
/// # Errors
/// [`PackError::Usage`] for devices, before anything is written; else as the source or the volume says.
pub fn pack(volume: &Volume, source: &Path, progress: Progress<'_>) -> Result<Tally, PackError> {
    fill(volume, source, Keep::Nothing, progress)
}

/// As [`pack`], but a file that the volume has with the same size and time of change stays as it is: after an
/// interruption, or when little has changed.
///
/// # Errors
/// As [`pack`].
pub fn update(volume: &Volume, source: &Path, progress: Progress<'_>) -> Result<Tally, PackError> {
    fill(volume, source, Keep::SameTime, progress)
}

pub(crate) fn fill(
    volume: &Volume,
    source: &Path,
    keep: Keep,
    progress: Progress<'_>,
) -> Result<Tally, PackError> {
    if keep != Keep::SameContents {
        refuse_unfinished(source)?; // what a program wrote under that name is a file like any other
    }
    let plan = scan(source, keep == Keep::SameContents)?;
    let kept = match keep {
        Keep::Nothing => clear(volume, ROOT_INO).map(|()| Kept::default())?,
        Keep::SameTime => prune(volume, &plan)?,
        Keep::SameContents => prune_to_compare(volume, &plan)?,
    };
    let work = Work {
        volume,
        plan: &plan,
        inodes: &make_directories(volume, &plan)?,
        keep,
        kept: &kept,
        next: AtomicUsize::new(0),
        meter: Meter::default(),
        done: Mutex::default(),
        failure: Mutex::default(),
    };
    for leaf in &plan.symlinks {
        work.symlink(leaf)?;
    }
    for leaf in &plan.specials {
        work.special(leaf)?;
    }
    work.meter.watch(workers(), &|| work.run(), progress);
    let bytes = work.meter.bytes();
    let done = work.finish()?;
    Ok(Tally {
        files: plan.files.len() as u64,
        directories: plan.directories.len().saturating_sub(1) as u64,
        symlinks: plan.symlinks.len() as u64,
        hard_links: plan.links.len() as u64,
        specials: plan.specials.len() as u64,
        bytes,
        kept: done.kept,
    })
}

fn refuse_unfinished(source: &Path) -> Result<(), PackError> {
    if fs::symlink_metadata(source.join(MARKER)).is_ok() {
        return Err(PackError::usage(
            format!("{} is an unpack that was not finished", source.display()),
            "run that unpack again, or remove its file .securetf-unpack to pack what is there",
        ));
    }
    Ok(())
}

pub(crate) fn workers() -> usize {
    std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 16)
}

/// Removes everything below a directory of the volume.
pub(crate) fn clear(volume: &Volume, directory: Ino) -> Result<(), PackError> {
    for (name, ino) in children(volume, directory, b"")? {
        let failed = |error| PackError::volume(&name, error);
        if volume.attr(ino).map_err(failed)?.kind == volume::FileType::Dir {
            clear(volume, ino)?;
            volume.remove_dir(directory, &name).map_err(failed)?;
        } else {
            volume.remove_file(directory, &name).map_err(failed)?;
        }
    }
    Ok(())
}

fn make_directories(volume: &Volume, plan: &Plan) -> Result<Vec<Ino>, PackError> {
    let mut inodes = Vec::with_capacity(plan.directories.len());
    for directory in &plan.directories {
        let Some(parent) = inodes.get(directory.parent).copied() else {
            inodes.push(ROOT_INO);
            continue;
        };
        let made = volume
            .lookup(parent, &directory.name)
            .or_else(|error| match error {
                VolumeError::NotFound => {
                    volume.make_node(parent, &directory.name, NodeKind::Dir, 0o700, 0, 0)
                }
                other => Err(other),
            })
            .map_err(|error| PackError::volume(directory.path.as_os_str().as_bytes(), error))?;
        inodes.push(made.ino);
    }
    Ok(inodes)
}

/// A plan on its way into a volume. The files are taken one by one by the workers.
struct Work<'a> {
    volume: &'a Volume,
    plan: &'a Plan,
    inodes: &'a [Ino],
    keep: Keep,
    kept: &'a Kept,
    next: AtomicUsize,
    meter: Meter,
    done: Mutex<Done>,
    failure: Mutex<Option<PackError>>,
}

#[derive(Default)]
struct Done {
    /// Inodes of what has several names, by device and inode of the source.
    linked: HashMap<(u64, u64), Ino>,
    /// Files whose contents were there already.
    kept: u64,
}

impl Work<'_> {
    fn parent(&self, leaf: &Leaf) -> Ino {
        self.inodes.get(leaf.directory).copied().unwrap_or_default()
    }

    /// The inode that the volume has under this name and keeps.
    fn older(&self, leaf: &Leaf) -> Option<Ino> {
        self.kept.get(&leaf.key()).copied()
    }

    fn note(&self, leaf: &Leaf, ino: Ino, kept: bool) {
        let several = leaf.metadata.nlink() > 1;
        if (kept || several)
            && let Ok(mut done) = self.done.lock()
        {
            done.kept += u64::from(kept);
            if several {
                done.linked.insert(leaf.source(), ino);
            }
        }
    }

    fn symlink(&self, leaf: &Leaf) -> Result<(), PackError> {
        if let Some(ino) = self.older(leaf) {
            self.note(leaf, ino, false);
            return self.refresh(ino, &leaf.metadata, &self.plan.path(leaf));
        }
        let path = self.plan.path(leaf);
        let target = fs::read_link(&path).map_err(|error| PackError::io("read", &path, &error))?;
        let kind = NodeKind::Symlink(target.as_os_str().as_bytes());
        let (uid, gid) = (leaf.metadata.uid(), leaf.metadata.gid());
        let made = self
            .volume
            .make_node(self.parent(leaf), &leaf.name, kind, 0o777, uid, gid)
            .and_then(|made| {
                let attributes = SetAttr {
                    mode: None,
                    ..attributes(&leaf.metadata)
                };
                self.volume.set_attr(made.ino, &attributes)
            })
            .map_err(|error| self.plan.failed(leaf, error))?;
        self.note(leaf, made.ino, false);
        Ok(())
    }

    /// Makes a FIFO, the name of a socket, or a device, which opens nothing.
    fn special(&self, leaf: &Leaf) -> Result<(), PackError> {
        if let Some(ino) = self.older(leaf) {
            self.note(leaf, ino, false);
            return self.refresh(ino, &leaf.metadata, &self.plan.path(leaf));
        }
        let kind = match leaf.metadata.file_type() {
            kind if kind.is_fifo() => NodeKind::Fifo,
            kind if kind.is_char_device() => NodeKind::CharDevice(leaf.device()),
            kind if kind.is_block_device() => NodeKind::BlockDevice(leaf.device()),
            _ => NodeKind::Socket,
        };
        let made = self
            .volume
            .make_node(self.parent(leaf), &leaf.name, kind, 0o600, 0, 0)
            .and_then(|made| self.volume.set_attr(made.ino, &attributes(&leaf.metadata)))
            .map_err(|error| self.plan.failed(leaf, error))?;
        self.note(leaf, made.ino, false);
        Ok(())
    }

    fn run(&self) {
        let mut copier = Copier::new(self.volume, &self.meter);
        while !self.meter.stopped() {
            let Some(leaf) = self
                .plan
                .files
                .get(self.next.fetch_add(1, Ordering::Relaxed))
            else {
                return;
            };
            if let Err(error) = self.file(leaf, &mut copier) {
                self.meter.stop();
                if let Ok(mut failure) = self.failure.lock() {
                    failure.get_or_insert(error);
                }
            }
        }
    }

    fn file(&self, leaf: &Leaf, copier: &mut Copier<'_>) -> Result<(), PackError> {
        let path = self.plan.path(leaf);
        let older = self.older(leaf);
        let (ino, changed) = match older {
            Some(ino) if self.keep == Keep::SameTime => (ino, false),
            Some(ino) => (ino, self.contents(leaf, &path, ino, copier)?),
            None => {
                let (parent, kind) = (self.parent(leaf), NodeKind::File);
                let made = self.volume.make_node(parent, &leaf.name, kind, 0o600, 0, 0);
                let ino = made.map_err(|error| self.plan.failed(leaf, error))?.ino;
                self.contents(leaf, &path, ino, copier)?;
                (ino, true)
            }
        };
        self.refresh(ino, &leaf.metadata, &path)?;
        self.note(leaf, ino, !changed);
        self.meter.add_file();
        Ok(())
    }

    /// Brings the contents of a file; whether they were others.
    fn contents(
        &self,
        leaf: &Leaf,
        path: &Path,
        ino: Ino,
        copier: &mut Copier<'_>,
    ) -> Result<bool, PackError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Failed::Plain(errno.into()))
            .and_then(|file| copier.bring(&File::from(file), ino))
            .map_err(|failed| match failed {
                Failed::Plain(error) => PackError::io("read", path, &error),
                Failed::Volume(error) => self.plan.failed(leaf, error),
            })
    }

    fn refresh(&self, ino: Ino, metadata: &Metadata, path: &Path) -> Result<(), PackError> {
        let failed = |error| PackError::volume(path.as_os_str().as_bytes(), error);
        let foreign = self.keep == Keep::SameContents; // a tree that was laid out has only those that we put there
        refresh_xattrs(self.volume, ino, path, foreign)?;
        let attr = self.volume.attr(ino).map_err(failed)?;
        if let Some(change) = differing(metadata, &attr) {
            self.volume.set_attr(ino, &change).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes further names, finishes directories and commits, once all files are there.
    fn finish(self) -> Result<Done, PackError> {
        match self.failure.lock().map(|mut failure| failure.take()) {
            Ok(Some(error)) => return Err(error),
            _ if self.meter.files() < self.plan.files.len() as u64 => {
                return Err(PackError::Cancelled);
            }
            _ => {}
        }
        let done = std::mem::take(&mut *self.done.lock().map_err(|_| PackError::Cancelled)?);
        for leaf in &self.plan.links {
            if self.older(leaf).is_some() {
                continue; // it names the same inode as the first one
            }
            let first = done.linked.get(&leaf.source()).copied();
            let first = first.unwrap_or_default();
            self.volume
                .link(first, self.parent(leaf), &leaf.name)
                .map_err(|error| self.plan.failed(leaf, error))?;
        }
        for (directory, ino) in self.plan.directories.iter().zip(self.inodes).rev() {
            self.refresh(*ino, &directory.metadata, &directory.path)?;
        }
        self.volume
            .sync(None)
            .map_err(|error| PackError::volume(b"", error))?;
        Ok(done)
    }
}

/// Gives what may be an older inode the attributes of the source, and no others; `foreign` ones, which are not carried,
/// may stay. What it has already is not touched.
fn refresh_xattrs(volume: &Volume, ino: Ino, path: &Path, foreign: bool) -> Result<(), PackError> {
    let failed = |error| PackError::volume(path.as_os_str().as_bytes(), error);
    let wanted =
        read_xattrs(path).map_err(|error| PackError::io("read the attributes of", path, &error))?;
    for name in volume.xattr_list(ino).map_err(failed)? {
        let stays = foreign && !name.starts_with(XATTR_PREFIX);
        if !stays && wanted.iter().all(|(other, _)| *other != name) {
            volume.xattr_remove(ino, &name).map_err(failed)?;
        }
    }
    for (name, value) in wanted {
        if volume.xattr_get(ino, &name).as_ref() != Ok(&value) {
            volume
                .xattr_set(ino, &name, &value, XattrMode::Set)
                .map_err(failed)?;
        }
    }
    Ok(())
}

fn read_xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0; 65536];
    let length = match rustix::fs::llistxattr(path, &mut list[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let mut found = Vec::new();
    for name in list
        .get(..length)
        .unwrap_or_default()
        .split(|byte| *byte == 0)
    {
        if name.starts_with(XATTR_PREFIX) {
            let mut value = vec![0; 65536];
            let size = rustix::fs::lgetxattr(path, name, &mut value[..])?;
            value.truncate(size);
            found.push((name.to_vec(), value));
        }
    }
    Ok(found)
}
