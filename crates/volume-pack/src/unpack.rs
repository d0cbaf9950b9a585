//! A volume into a plain tree. Every name is opened relative to its directory's descriptor and never through a
//! symbolic link, so that nothing is written outside of the target.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use volume::{Attr, FileType, Ino, ROOT_INO, Volume};

use crate::contents::{Copier, Failed};
use crate::error::PackError;
use crate::pack::workers;
use crate::progress::{Meter, Progress, Tally};
use crate::view::children;

/// Set-user-id and set-group-id.
pub(crate) const SET_ID: u32 = 0o6000;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Writes the whole tree of `volume`, every byte verified, into `target`: a directory that is missing or empty.
/// Keeps modes (without set-user-id and set-group-id), times, links and attributes; owners when run as root.
///
/// # Errors
/// [`PackError::Usage`] if the target is not empty; else as the volume or the target's file system says.
pub fn unpack(volume: &Volume, target: &Path, progress: Progress<'_>) -> Result<Tally, PackError> {
    unpack_with(volume, target, 0o1777, progress)
}

/// The same with the bits of modes that `modes` has.
pub(crate) fn unpack_with(
    volume: &Volume,
    target: &Path,
    modes: u32,
    progress: Progress<'_>,
) -> Result<Tally, PackError> {
    let root = open_target(target)?;
    let mut plan = Plan::new(volume, target, &root, modes);
    plan.directory(&root, ROOT_INO, Path::new(""))?;
    let work = Work {
        plan: &plan,
        next: AtomicUsize::new(0),
        meter: Meter::default(),
        failure: Mutex::default(),
    };
    work.meter.watch(workers(), &|| work.run(), progress);
    let bytes = work.finish()?;
    for (path, first) in &plan.links {
        let failed =
            |errno: rustix::io::Errno| PackError::io("link", &target.join(path), &errno.into());
        rustix::fs::linkat(&root, first, &root, path, AtFlags::empty()).map_err(failed)?;
    }
    for (path, attr) in plan.directories.iter().rev() {
        let failed =
            |error: io::Error| PackError::io("set attributes of", &target.join(path), &error);
        let directory = plan
            .beneath(path, DIRECTORY, Mode::empty())
            .map_err(failed)?;
        set_attributes(directory, attr, modes).map_err(failed)?;
    }
    Ok(Tally {
        bytes,
        ..plan.tally
    })
}

fn open_target(target: &Path) -> Result<OwnedFd, PackError> {
    let failed = |error: io::Error| PackError::io("use", target, &error);
    match fs::create_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    if fs::read_dir(target).map_err(failed)?.next().is_some() {
        return Err(PackError::usage(
            format!("{} is not empty", target.display()),
            "name a new directory",
        ));
    }
    rustix::fs::open(target, DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed(errno.into()))
}

struct Leaf {
    path: PathBuf,
    attr: Attr,
}

/// Directories and symbolic links are made while the plan is drawn; files follow on all cores.
struct Plan<'a> {
    volume: &'a Volume,
    target: &'a Path,
    root: &'a OwnedFd,
    /// Bits of modes that are kept.
    modes: u32,
    tally: Tally,
    files: Vec<Leaf>,
    /// Further names of files with several, each with the first one.
    links: Vec<(PathBuf, PathBuf)>,
    first_names: HashMap<Ino, PathBuf>,
    /// With what they get at the end; parents first.
    directories: Vec<(PathBuf, Attr)>,
}

impl<'a> Plan<'a> {
    fn new(volume: &'a Volume, target: &'a Path, root: &'a OwnedFd, modes: u32) -> Self {
        Self {
            volume,
            target,
            root,
            modes,
            tally: Tally::default(),
            files: Vec::new(),
            links: Vec::new(),
            first_names: HashMap::new(),
            directories: Vec::new(),
        }
    }

    /// Opens a path below the target that crosses no symbolic link.
    fn beneath(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(
            self.root,
            path,
            flags | OFlags::CLOEXEC,
            mode,
            resolve,
        )?)
    }

    fn directory(&mut self, at: &OwnedFd, ino: Ino, path: &Path) -> Result<(), PackError> {
        let failed = |error| PackError::volume(path.as_os_str().as_bytes(), error);
        let attr = self.volume.attr(ino).map_err(failed)?;
        self.directories.push((path.to_owned(), attr));
        copy_xattrs(self.volume, ino, at, path)?;
        for (name, child) in children(self.volume, ino, path.as_os_str().as_bytes())? {
            let below = path.join(std::ffi::OsStr::from_bytes(&name));
            if name.contains(&b'/') || name.contains(&0) {
                return Err(PackError::usage(
                    format!(
                        "the volume holds a name that is not one: {}",
                        below.display()
                    ),
                    "report this: an authentic volume has no such names",
                ));
            }
            let attr = self.volume.attr(child).map_err(failed)?;
            match attr.kind {
                FileType::Dir => {
                    let made = self.make_directory(at, &name, &below)?;
                    self.tally.directories += 1;
                    self.directory(&made, child, &below)?;
                }
                FileType::Symlink => {
                    self.make_symlink(at, &name, &attr, &below)?;
                    self.tally.symlinks += 1;
                }
                FileType::File => self.file(below, attr),
                FileType::Fifo | FileType::Socket => {
                    if !self.has_first_name(&below, &attr) {
                        self.make_special(at, &name, &attr, &below)?;
                        self.tally.specials += 1;
                    }
                }
                FileType::CharDevice | FileType::BlockDevice => return Err(device(&below)),
            }
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf, attr: Attr) {
        if !self.has_first_name(&path, &attr) {
            self.tally.files += 1;
            self.files.push(Leaf { path, attr });
        }
    }

    /// Whether another name of the same node came before; then this one becomes a link to it.
    fn has_first_name(&mut self, path: &Path, attr: &Attr) -> bool {
        if attr.nlink < 2 {
            return false;
        }
        if let Some(first) = self.first_names.get(&attr.ino) {
            self.tally.hard_links += 1;
            self.links.push((path.to_owned(), first.clone()));
            return true;
        }
        self.first_names.insert(attr.ino, path.to_owned());
        false
    }

    fn make_special(
        &self,
        at: &OwnedFd,
        name: &[u8],
        attr: &Attr,
        path: &Path,
    ) -> Result<(), PackError> {
        let kind = if attr.kind == FileType::Fifo {
            rustix::fs::FileType::Fifo
        } else {
            rustix::fs::FileType::Socket
        };
        rustix::fs::mknodat(at, name, kind, Mode::RUSR | Mode::WUSR, 0)
            .and_then(|()| own(at, name, attr))
            .and_then(|()| {
                let mode = Mode::from_raw_mode(attr.mode & self.modes);
                rustix::fs::chmodat(at, name, mode, AtFlags::empty())
            })
            .and_then(|()| rustix::fs::utimensat(at, name, &times(attr), AtFlags::SYMLINK_NOFOLLOW))
            .map_err(|errno| PackError::io("make", &self.target.join(path), &errno.into()))
    }

    fn make_directory(&self, at: &OwnedFd, name: &[u8], path: &Path) -> Result<OwnedFd, PackError> {
        rustix::fs::mkdirat(at, name, Mode::RWXU)
            .and_then(|()| {
                rustix::fs::openat(
                    at,
                    name,
                    DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )
            })
            .map_err(|errno| PackError::io("make", &self.target.join(path), &errno.into()))
    }

    fn make_symlink(
        &self,
        at: &OwnedFd,
        name: &[u8],
        attr: &Attr,
        path: &Path,
    ) -> Result<(), PackError> {
        let failed = |error| PackError::volume(path.as_os_str().as_bytes(), error);
        let target = self.volume.read_link(attr.ino).map_err(failed)?;
        rustix::fs::symlinkat(target.as_slice(), at, name)
            .and_then(|()| own(at, name, attr))
            .and_then(|()| rustix::fs::utimensat(at, name, &times(attr), AtFlags::SYMLINK_NOFOLLOW))
            .map_err(|errno| PackError::io("make", &self.target.join(path), &errno.into()))
    }
}

struct Work<'a> {
    plan: &'a Plan<'a>,
    next: AtomicUsize,
    meter: Meter,
    failure: Mutex<Option<PackError>>,
}

impl Work<'_> {
    fn run(&self) {
        let mut copier = Copier::new(self.plan.volume, &self.meter);
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
        let unwritable =
            |error: io::Error| PackError::io("write", &self.plan.target.join(&leaf.path), &error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let made = self
            .plan
            .beneath(&leaf.path, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(made.map_err(unwritable)?);
        copier
            .restore(&leaf.attr, &file)
            .map_err(|failed| match failed {
                Failed::Plain(error) => unwritable(error),
                Failed::Volume(error) => PackError::volume(leaf.path.as_os_str().as_bytes(), error),
            })?;
        copy_xattrs(self.plan.volume, leaf.attr.ino, &file, &leaf.path)?;
        set_attributes(&file, &leaf.attr, self.plan.modes).map_err(unwritable)?;
        self.meter.add_file();
        Ok(())
    }

    fn finish(self) -> Result<u64, PackError> {
        match self.failure.into_inner() {
            Ok(Some(error)) => Err(error),
            _ if self.meter.stopped() => Err(PackError::Cancelled),
            _ => Ok(self.meter.bytes()),
        }
    }
}

fn times(attr: &Attr) -> Timestamps {
    let time = |nanoseconds: i64| Timespec {
        tv_sec: nanoseconds.div_euclid(1_000_000_000),
        tv_nsec: nanoseconds.rem_euclid(1_000_000_000),
    };
    Timestamps {
        last_access: time(attr.atime),
        last_modification: time(attr.mtime),
    }
}

/// Gives what was made to its owner, when we are root.
fn own(at: &OwnedFd, name: &[u8], attr: &Attr) -> rustix::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(attr.uid), Gid::from_raw(attr.gid));
    rustix::fs::chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

fn device(path: &Path) -> PackError {
    PackError::usage(
        format!(
            "the volume holds a device, /{}, which opens nothing there",
            path.display()
        ),
        "remove it through a mount: unpack makes no devices, for outside of a volume they open hardware",
    )
}

fn set_attributes(at: impl std::os::fd::AsFd, attr: &Attr, modes: u32) -> io::Result<()> {
    let at = at.as_fd();
    if rustix::process::geteuid().is_root() {
        rustix::fs::fchown(
            at,
            Some(Uid::from_raw(attr.uid)),
            Some(Gid::from_raw(attr.gid)),
        )?;
    }
    rustix::fs::fchmod(at, Mode::from_raw_mode(attr.mode & modes))?;
    rustix::fs::futimens(at, &times(attr))?;
    Ok(())
}

fn copy_xattrs(
    volume: &Volume,
    ino: Ino,
    at: impl std::os::fd::AsFd,
    path: &Path,
) -> Result<(), PackError> {
    let failed = |error| PackError::volume(path.as_os_str().as_bytes(), error);
    for name in volume.xattr_list(ino).map_err(failed)? {
        if name.starts_with(b"user.") {
            let value = volume.xattr_get(ino, &name).map_err(failed)?;
            rustix::fs::fsetxattr(at.as_fd(), name.as_slice(), &value, XattrFlags::empty())
                .map_err(|errno| PackError::io("set attributes of", path, &errno.into()))?;
        }
    }
    Ok(())
}
