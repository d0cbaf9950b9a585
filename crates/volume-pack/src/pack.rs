//! A plain tree into a volume, on all cores.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{Mode, OFlags};
use volume::{Ino, NodeKind, ROOT_INO, SetAttr, Volume, VolumeError, XattrMode};

use crate::error::PackError;
use crate::plan::{Leaf, Plan, attributes, scan};
use crate::progress::{Meter, Progress, Tally};
use crate::update::{Kept, prune};
use crate::view::children;

const BUFFER: usize = 1 << 20;
const XATTR_PREFIX: &[u8] = b"user.";

/// Makes the tree of `volume` equal to the one under the directory `source`, commits and anchors it. What the volume
/// held before is removed. Keeps modes, owners, times, symbolic links, hard links and `user.` attributes.
///
/// # Errors
/// [`PackError::Usage`] for devices, before anything is written; else as the source or the volume says.
pub fn pack(volume: &Volume, source: &Path, progress: Progress<'_>) -> Result<Tally, PackError> {
    fill(volume, source, false, progress)
}

/// As [`pack`], but a file that the volume has with the same size and time of change stays as it is: after an
/// interruption, or when little has changed.
///
/// # Errors
/// As [`pack`].
pub fn update(volume: &Volume, source: &Path, progress: Progress<'_>) -> Result<Tally, PackError> {
    fill(volume, source, true, progress)
}

fn fill(
    volume: &Volume,
    source: &Path,
    keep: bool,
    progress: Progress<'_>,
) -> Result<Tally, PackError> {
    let plan = scan(source)?;
    let kept = if keep {
        prune(volume, &plan)?
    } else {
        clear(volume, ROOT_INO)?;
        Kept::default()
    };
    let inodes = make_directories(volume, &plan)?;
    for leaf in &plan.symlinks {
        make_symlink(volume, &plan, &inodes, leaf)?;
    }
    let work = Work {
        volume,
        plan: &plan,
        inodes: &inodes,
        kept: &kept,
        next: AtomicUsize::new(0),
        meter: Meter::default(),
        shared: Mutex::new(make_specials(volume, &plan, &inodes)?),
        failure: Mutex::default(),
    };
    work.meter.watch(workers(), &|| work.run(), progress);
    let files = work.finish()?;
    for leaf in &plan.links {
        let first = files
            .0
            .get(&(leaf.metadata.dev(), leaf.metadata.ino()))
            .copied()
            .unwrap_or_default();
        let parent = inodes.get(leaf.directory).copied().unwrap_or_default();
        volume
            .link(first, parent, &leaf.name)
            .map_err(|error| plan.failed(leaf, error))?;
    }
    for (directory, ino) in plan.directories.iter().zip(&inodes).rev() {
        let failed = |error| PackError::volume(directory.path.as_os_str().as_bytes(), error);
        replace_xattrs(volume, *ino, &directory.path)?;
        volume
            .set_attr(*ino, &attributes(&directory.metadata))
            .map_err(failed)?;
    }
    volume
        .sync(None)
        .map_err(|error| PackError::volume(b"", error))?;
    Ok(Tally {
        files: plan.files.len() as u64,
        directories: plan.directories.len().saturating_sub(1) as u64,
        symlinks: plan.symlinks.len() as u64,
        hard_links: plan.links.len() as u64,
        specials: plan.specials.len() as u64,
        bytes: files.1,
        kept: kept.len() as u64,
    })
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

fn make_symlink(
    volume: &Volume,
    plan: &Plan,
    inodes: &[Ino],
    leaf: &Leaf,
) -> Result<(), PackError> {
    let path = plan.path(leaf);
    let target = fs::read_link(&path).map_err(|error| PackError::io("read", &path, &error))?;
    let kind = NodeKind::Symlink(target.as_os_str().as_bytes());
    let parent = inodes.get(leaf.directory).copied().unwrap_or_default();
    let (uid, gid) = (leaf.metadata.uid(), leaf.metadata.gid());
    volume
        .make_node(parent, &leaf.name, kind, 0o777, uid, gid)
        .and_then(|made| {
            volume.set_attr(
                made.ino,
                &SetAttr {
                    mode: None,
                    ..attributes(&leaf.metadata)
                },
            )
        })
        .map_err(|error| plan.failed(leaf, error))?;
    Ok(())
}

/// Makes FIFOs and sockets; returns those with several names.
fn make_specials(volume: &Volume, plan: &Plan, inodes: &[Ino]) -> Result<Linked, PackError> {
    let mut linked = Linked::new();
    for leaf in &plan.specials {
        let kind = if leaf.metadata.file_type().is_fifo() {
            NodeKind::Fifo
        } else {
            NodeKind::Socket
        };
        let parent = inodes.get(leaf.directory).copied().unwrap_or_default();
        let made = volume
            .make_node(parent, &leaf.name, kind, 0o600, 0, 0)
            .and_then(|made| volume.set_attr(made.ino, &attributes(&leaf.metadata)))
            .map_err(|error| plan.failed(leaf, error))?;
        if leaf.metadata.nlink() > 1 {
            linked.insert((leaf.metadata.dev(), leaf.metadata.ino()), made.ino);
        }
    }
    Ok(linked)
}

/// The files of a plan, taken one by one by the workers.
struct Work<'a> {
    volume: &'a Volume,
    plan: &'a Plan,
    inodes: &'a [Ino],
    kept: &'a Kept,
    next: AtomicUsize,
    meter: Meter,
    /// Inodes of files with several names, by device and inode of the source.
    shared: Mutex<HashMap<(u64, u64), Ino>>,
    failure: Mutex<Option<PackError>>,
}

type Linked = HashMap<(u64, u64), Ino>;

impl Work<'_> {
    fn run(&self) {
        let mut buffer = vec![0; BUFFER];
        while !self.meter.stopped() {
            let Some(leaf) = self
                .plan
                .files
                .get(self.next.fetch_add(1, Ordering::Relaxed))
            else {
                return;
            };
            if let Err(error) = self.file(leaf, &mut buffer) {
                self.meter.stop();
                if let Ok(mut failure) = self.failure.lock() {
                    failure.get_or_insert(error);
                }
            }
        }
    }

    fn file(&self, leaf: &Leaf, buffer: &mut [u8]) -> Result<(), PackError> {
        let failed = |error| self.plan.failed(leaf, error);
        let path = self.plan.path(leaf);
        if let Some(ino) = self.kept.get(&(leaf.directory, leaf.name.clone())) {
            return self.refresh(*ino, leaf);
        }
        let unreadable = |error: io::Error| PackError::io("read", &path, &error);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = File::from(
            rustix::fs::open(&path, flags, Mode::empty())
                .map_err(|errno| unreadable(errno.into()))?,
        );
        let parent = self.inodes.get(leaf.directory).copied().unwrap_or_default();
        let (mode, uid, gid) = (
            leaf.metadata.mode() & 0o7777,
            leaf.metadata.uid(),
            leaf.metadata.gid(),
        );
        let ino = self
            .volume
            .make_node(parent, &leaf.name, NodeKind::File, mode, uid, gid)
            .map_err(failed)?
            .ino;
        let mut offset = 0;
        loop {
            let count = read_full(&mut file, buffer).map_err(unreadable)?;
            let data = buffer.get(..count).unwrap_or_default();
            if count > 0 {
                self.volume.write(ino, offset, data).map_err(failed)?;
                self.meter.add_bytes(count);
            }
            if count < buffer.len() || self.meter.stopped() {
                break;
            }
            offset += count as u64;
        }
        copy_xattrs(self.volume, ino, &path)?;
        self.volume
            .set_attr(ino, &attributes(&leaf.metadata))
            .map_err(failed)?;
        if leaf.metadata.nlink() > 1
            && let Ok(mut shared) = self.shared.lock()
        {
            shared.insert((leaf.metadata.dev(), leaf.metadata.ino()), ino);
        }
        self.meter.add_file();
        Ok(())
    }

    /// Sets the attributes of a file whose contents stay.
    fn refresh(&self, ino: Ino, leaf: &Leaf) -> Result<(), PackError> {
        let failed = |error| self.plan.failed(leaf, error);
        replace_xattrs(self.volume, ino, &self.plan.path(leaf))?;
        self.volume
            .set_attr(ino, &attributes(&leaf.metadata))
            .map_err(failed)?;
        self.meter.add_file();
        Ok(())
    }

    fn finish(self) -> Result<(Linked, u64), PackError> {
        match self.failure.into_inner() {
            Ok(Some(error)) => Err(error),
            _ if self.meter.files() < self.plan.files.len() as u64 => Err(PackError::Cancelled),
            _ => Ok((
                self.shared.into_inner().unwrap_or_default(),
                self.meter.bytes(),
            )),
        }
    }
}

/// Fills the buffer; less only at the end of the file.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Gives what may be an older inode the attributes of the source, and no others.
fn replace_xattrs(volume: &Volume, ino: Ino, path: &Path) -> Result<(), PackError> {
    let failed = |error| PackError::volume(path.as_os_str().as_bytes(), error);
    for name in volume.xattr_list(ino).map_err(failed)? {
        volume.xattr_remove(ino, &name).map_err(failed)?;
    }
    copy_xattrs(volume, ino, path)
}

fn copy_xattrs(volume: &Volume, ino: Ino, path: &Path) -> Result<(), PackError> {
    for (name, value) in
        read_xattrs(path).map_err(|error| PackError::io("read the attributes of", path, &error))?
    {
        volume
            .xattr_set(ino, &name, &value, XattrMode::Set)
            .map_err(|error| PackError::volume(path.as_os_str().as_bytes(), error))?;
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
