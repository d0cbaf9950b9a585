//! A volume into a plain tree. Every name is opened relative to its directory's descriptor and never through a
//! symbolic link, so that nothing is written outside of the target.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use volume::{Attr, FileType, Ino, ROOT_INO, Volume};

use crate::attributes::{copy_xattrs, own, set_attributes, times};
use crate::contents::{Copier, Failed};
use crate::error::PackError;
use crate::pack::workers;
use crate::progress::{Meter, Progress, Tally};
use crate::resume::{Target, enter};
use crate::view::children;

/// Set-user-id and set-group-id.
pub(crate) const SET_ID: u32 = 0o6000;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Writes the whole tree of `volume`, every byte verified, into `target`: a directory that is missing or empty, or where
/// an earlier call for the same state was interrupted. Then what is there is compared, and only what differs is written.
/// Keeps modes (without set-user-id and set-group-id), times, links and attributes; owners when run as root.
///
/// # Errors
/// [`PackError::Usage`] if the target holds something else; else as the volume or the target's file system says.
pub fn unpack(volume: &Volume, target: &Path, progress: Progress<'_>) -> Result<Tally, PackError> {
    unpack_with(volume, target, 0o1777, false, progress)
}

/// The same with the bits of modes that `modes` has, and with devices if they are wanted.
pub(crate) fn unpack_with(
    volume: &Volume,
    target: &Path,
    modes: u32,
    devices: bool,
    progress: Progress<'_>,
) -> Result<Tally, PackError> {
    let opened = Target::open(target, &volume.status().root)?;
    let mut plan = Plan::new(volume, target, &opened, (modes, devices));
    plan.directory(&opened.root, ROOT_INO, Path::new(""))?;
    let work = Work {
        plan: &plan,
        next: AtomicUsize::new(0),
        meter: Meter::default(),
        kept: AtomicU64::new(0),
        kept_bytes: AtomicU64::new(0),
        failure: Mutex::default(),
    };
    work.meter.watch(workers(), &|| work.run(), progress);
    let (bytes, kept) = work.finish()?;
    for (path, first) in &plan.links {
        plan.link(path, first)?;
    }
    for (path, attr) in plan.directories.iter().rev() {
        let failed =
            |error: io::Error| PackError::io("set attributes of", &target.join(path), &error);
        let directory = plan
            .beneath(path, DIRECTORY, Mode::empty())
            .map_err(failed)?;
        if path.as_os_str().is_empty() {
            opened.unmark().map_err(failed)?;
        }
        set_attributes(directory, attr, modes).map_err(failed)?;
    }
    Ok(Tally {
        bytes,
        kept,
        ..plan.tally
    })
}

struct Leaf {
    path: PathBuf,
    attr: Attr,
}

/// Directories and symbolic links are made while the plan is drawn; files follow on all cores.
struct Plan<'a> {
    volume: &'a Volume,
    target: &'a Path,
    opened: &'a Target,
    /// Bits of modes that are kept.
    modes: u32,
    /// Whether devices are made.
    devices: bool,
    tally: Tally,
    files: Vec<Leaf>,
    /// Further names of files with several, each with the first one.
    links: Vec<(PathBuf, PathBuf)>,
    first_names: HashMap<Ino, PathBuf>,
    /// With what they get at the end; parents first.
    directories: Vec<(PathBuf, Attr)>,
}

impl<'a> Plan<'a> {
    fn new(
        volume: &'a Volume,
        target: &'a Path,
        opened: &'a Target,
        (modes, devices): (u32, bool),
    ) -> Self {
        Self {
            volume,
            target,
            opened,
            modes,
            devices,
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
            &self.opened.root,
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
        let children = children(self.volume, ino, path.as_os_str().as_bytes())?;
        let names = children.iter().map(|(name, _)| name.as_slice());
        self.opened.check_names(at, path, names)?;
        for (name, child) in children {
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
                FileType::CharDevice | FileType::BlockDevice if !self.devices => {
                    return Err(device(&below));
                }
                _ => {
                    if !self.has_first_name(&below, &attr) {
                        self.make_special(at, &name, &attr, &below)?;
                        self.tally.specials += 1;
                    }
                }
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
        let kind = match attr.kind {
            FileType::Fifo => rustix::fs::FileType::Fifo,
            FileType::CharDevice => rustix::fs::FileType::CharacterDevice,
            FileType::BlockDevice => rustix::fs::FileType::BlockDevice,
            _ => rustix::fs::FileType::Socket,
        };
        rustix::fs::mknodat(at, name, kind, Mode::RUSR | Mode::WUSR, attr.device.into())
            .or_else(|errno| self.opened.has(at, name, kind, errno))
            .and_then(|()| own(at, name, attr))
            .and_then(|()| {
                let mode = Mode::from_raw_mode(attr.mode & self.modes);
                rustix::fs::chmodat(at, name, mode, AtFlags::empty())
            })
            .and_then(|()| rustix::fs::utimensat(at, name, &times(attr), AtFlags::SYMLINK_NOFOLLOW))
            .map_err(|errno| self.unmade(path, errno))
    }

    fn make_directory(&self, at: &OwnedFd, name: &[u8], path: &Path) -> Result<OwnedFd, PackError> {
        rustix::fs::mkdirat(at, name, Mode::RWXU)
            .or_else(|errno| {
                let kind = rustix::fs::FileType::Directory;
                self.opened.has(at, name, kind, errno)
            })
            .and_then(|()| enter(at, name))
            .map_err(|errno| self.unmade(path, errno))
    }

    /// Why something could not be made: in a resumed unpack, what exists and is something else was not made by one.
    fn unmade(&self, path: &Path, errno: Errno) -> PackError {
        if errno == Errno::EXIST && self.opened.resumed {
            return self.opened.stranger(path);
        }
        PackError::io("make", &self.target.join(path), &errno.into())
    }

    /// Makes a further name of a file that has its first.
    fn link(&self, path: &Path, first: &Path) -> Result<(), PackError> {
        let root = &self.opened.root;
        let is_first = || {
            let stat = |path| rustix::fs::statat(root, path, AtFlags::SYMLINK_NOFOLLOW);
            let (one, other) = (stat(path)?, stat(first)?);
            if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino) {
                return Ok(());
            }
            Err(Errno::EXIST)
        };
        match rustix::fs::linkat(root, first, root, path, AtFlags::empty()) {
            Err(Errno::EXIST) if self.opened.resumed => is_first(),
            other => other,
        }
        .map_err(|errno| self.unmade(path, errno))
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
            .or_else(|errno| {
                let kind = rustix::fs::FileType::Symlink;
                self.opened.has(at, name, kind, errno)?;
                let found = rustix::fs::readlinkat(at, name, Vec::new())?;
                let same = found.as_bytes() == target.as_slice();
                same.then_some(()).ok_or(Errno::EXIST)
            })
            .and_then(|()| own(at, name, attr))
            .and_then(|()| rustix::fs::utimensat(at, name, &times(attr), AtFlags::SYMLINK_NOFOLLOW))
            .map_err(|errno| self.unmade(path, errno))
    }
}

struct Work<'a> {
    plan: &'a Plan<'a>,
    next: AtomicUsize,
    meter: Meter,
    /// Files that an earlier run had finished but for their attributes, and bytes that it had written.
    kept: AtomicU64,
    kept_bytes: AtomicU64,
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
        let (file, existed) = self.open(leaf)?;
        let failed = |failed| match failed {
            Failed::Plain(error) => unwritable(error),
            Failed::Volume(error) => PackError::volume(leaf.path.as_os_str().as_bytes(), error),
        };
        if existed {
            let (kept, written) = copier.go_on(&leaf.attr, &file).map_err(failed)?;
            self.kept_bytes.fetch_add(kept, Ordering::Relaxed);
            self.kept.fetch_add(u64::from(!written), Ordering::Relaxed);
        } else {
            copier.restore(&leaf.attr, &file).map_err(failed)?;
        }
        if self.meter.stopped() {
            return Ok(());
        }
        copy_xattrs(self.plan.volume, leaf.attr.ino, &file, &leaf.path)?;
        set_attributes(&file, &leaf.attr, self.plan.modes).map_err(unwritable)?;
        self.meter.add_file();
        Ok(())
    }

    /// Makes a file, or opens one that an earlier run made.
    fn open(&self, leaf: &Leaf) -> Result<(File, bool), PackError> {
        let plan = self.plan;
        let unwritable =
            |error: io::Error| PackError::io("write", &plan.target.join(&leaf.path), &error);
        let mode = Mode::RUSR | Mode::WUSR;
        let fresh = plan.beneath(
            &leaf.path,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
            mode,
        );
        match fresh {
            Err(error) if plan.opened.resumed && error.kind() == io::ErrorKind::AlreadyExists => {}
            fresh => return Ok((fresh.map_err(unwritable)?.into(), false)),
        }
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let opened = match plan.beneath(&leaf.path, flags, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                rustix::fs::chmodat(&plan.opened.root, &leaf.path, mode, AtFlags::empty())
                    .map_err(|errno| unwritable(errno.into()))?;
                plan.beneath(&leaf.path, flags, Mode::empty())
            }
            other => other,
        };
        let stranger = |_| plan.opened.stranger(&leaf.path);
        let file = File::from(opened.map_err(stranger)?);
        plan.opened.check_file(&file, &leaf.path, &leaf.attr)?;
        Ok((file, true))
    }

    /// Bytes that were written, and files that were there.
    fn finish(self) -> Result<(u64, u64), PackError> {
        match self.failure.into_inner() {
            Ok(Some(error)) => Err(error),
            _ if self.meter.stopped() => Err(PackError::Cancelled),
            _ => Ok((
                self.meter.bytes() - self.kept_bytes.into_inner(),
                self.kept.into_inner(),
            )),
        }
    }
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
