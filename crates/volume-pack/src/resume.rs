//! An unpack that was interrupted goes on. Nothing that lies in the target is believed: contents are compared byte by
//! byte with those of the volume, and what an unpack of this state never makes is refused.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use volume::Attr;

use crate::error::PackError;

/// Stands in the target until everything is there, and names the state that is being unpacked.
pub(crate) const MARKER: &str = ".securetf-unpack";
/// Most bytes of it that are read.
const MARKER_MAX: u64 = 256;
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// The directory that is unpacked into, locked.
pub(crate) struct Target {
    pub root: OwnedFd,
    path: PathBuf,
    /// An unpack of the same state began here.
    pub resumed: bool,
}

impl Target {
    /// Opens a directory that is missing (it is made), empty, or where an unpack of the state `root` was interrupted.
    pub fn open(path: &Path, root: &[u8; 32]) -> Result<Self, PackError> {
        let failed = |error: io::Error| PackError::io("use", path, &error);
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        let opened = rustix::fs::open(path, DIRECTORY, Mode::empty());
        let mut target = Self {
            root: opened.map_err(|errno| failed(errno.into()))?,
            path: path.to_owned(),
            resumed: false,
        };
        if rustix::fs::flock(&target.root, FlockOperation::NonBlockingLockExclusive)
            == Err(Errno::WOULDBLOCK)
        {
            return Err(PackError::usage(
                format!("another process unpacks into {}", path.display()),
                "wait for it, or name a new directory",
            ));
        }
        let names = names(&target.root).map_err(failed)?;
        if names.contains(MARKER.as_bytes()) {
            target.go_on(&text(root), names.len() == 1)?;
        } else if names.is_empty() {
            target.mark(&text(root)).map_err(failed)?;
        } else {
            return Err(PackError::usage(
                format!("{} is not empty", path.display()),
                "name a new directory",
            ));
        }
        Ok(target)
    }

    /// Finds out whether the marker is of the state that `text` names. One that stands alone may be half-written.
    fn go_on(&mut self, text: &str, alone: bool) -> Result<(), PackError> {
        let failed = |error: io::Error| PackError::io("use", &self.path, &error);
        let found = self.marker().map_err(failed)?;
        self.resumed = found == text.as_bytes();
        if self.resumed {
            return Ok(());
        }
        if alone && text.as_bytes().starts_with(&found) {
            self.unmark().map_err(failed)?;
            return self.mark(text).map_err(failed);
        }
        Err(PackError::usage(
            format!(
                "{} holds a part of another state than this one: {}",
                self.path.display(),
                String::from_utf8_lossy(&found).trim_end().escape_debug()
            ),
            "name a new directory, or remove this one",
        ))
    }

    fn marker(&self) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(
            &self.root,
            MARKER,
            flags,
            Mode::empty(),
        )?);
        let mut found = Vec::new();
        file.take(MARKER_MAX).read_to_end(&mut found)?;
        Ok(found)
    }

    fn mark(&self, text: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        File::from(rustix::fs::openat(&self.root, MARKER, flags, mode)?).write_all(text.as_bytes())
    }

    /// Everything is there.
    pub fn unmark(&self) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.root, MARKER, AtFlags::empty())?)
    }

    /// What to say of something that an unpack of this state does not leave.
    pub fn stranger(&self, path: &Path) -> PackError {
        PackError::usage(
            format!(
                "{} is not what an interrupted unpack of this state leaves there",
                self.path.join(path).display()
            ),
            "remove it, or unpack into a new directory",
        )
    }

    /// Checks the names of a directory, `path` from the root of the volume, against what the volume has there.
    pub fn check_names<'a>(
        &self,
        directory: &OwnedFd,
        path: &Path,
        wanted: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), PackError> {
        let wanted: HashSet<&[u8]> = wanted.collect();
        let at_root = path.as_os_str().is_empty();
        if at_root && wanted.contains(MARKER.as_bytes()) {
            return Err(PackError::usage(
                format!(
                    "the volume holds /{MARKER}: it was packed from an unpack that was not finished"
                ),
                "pack the whole tree anew; what is there can be read with `cat`, or as a tar stream",
            ));
        }
        if !self.resumed {
            return Ok(());
        }
        let failed = |error: io::Error| PackError::io("read", &self.path.join(path), &error);
        for name in names(directory).map_err(failed)? {
            let own = at_root && name == MARKER.as_bytes();
            if !own && !wanted.contains(name.as_slice()) {
                let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&name);
                return Err(self.stranger(&path.join(name)));
            }
        }
        Ok(())
    }

    /// Whether a name that could not be made because it exists is of this kind, and an earlier run may have made it.
    pub fn has(
        &self,
        at: &OwnedFd,
        name: &[u8],
        kind: FileType,
        made: Errno,
    ) -> rustix::io::Result<()> {
        let stat = match made {
            Errno::EXIST if self.resumed => {
                rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?
            }
            other => return Err(other),
        };
        if FileType::from_raw_mode(stat.st_mode) == kind {
            Ok(())
        } else {
            Err(Errno::EXIST)
        }
    }

    /// Opens a file that an earlier run made, if `file` is one; `attr` is what it will be.
    pub fn check_file(&self, file: &File, path: &Path, attr: &Attr) -> Result<(), PackError> {
        let metadata = file.metadata();
        let metadata =
            metadata.map_err(|error| PackError::io("read", &self.path.join(path), &error))?;
        // Another link to it could lead out of the target.
        if metadata.is_file() && metadata.nlink() <= u64::from(attr.nlink) {
            return Ok(());
        }
        Err(self.stranger(path))
    }
}

/// Opens a directory that an earlier run made, so that names can be made in it.
pub(crate) fn enter(at: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = DIRECTORY | OFlags::NOFOLLOW;
    let opened = match rustix::fs::openat(at, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(at, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(at, name, flags, Mode::empty())
        }
        other => other,
    }?;
    rustix::fs::fchmod(&opened, Mode::RWXU)?;
    Ok(opened)
}

/// Whether a file has these bytes at `offset`. `present` is where they are read to.
pub(crate) fn holds(file: &File, offset: u64, bytes: &[u8], present: &mut Vec<u8>) -> bool {
    present.resize(bytes.len(), 0);
    file.read_exact_at(present, offset).is_ok() && present == bytes
}

fn text(root: &[u8; 32]) -> String {
    use std::fmt::Write;
    let mut text = "securetf volume unpack: unfinished, of the state sha256:".to_owned();
    for byte in root {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    text
}

fn names(directory: impl AsFd) -> io::Result<HashSet<Vec<u8>>> {
    let mut names = HashSet::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}
