//! What a file of a plain tree has beside its contents, as the volume says.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use volume::{Attr, Ino, Volume};

use crate::error::PackError;

pub(crate) fn times(attr: &Attr) -> Timestamps {
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
pub(crate) fn own(at: &OwnedFd, name: &[u8], attr: &Attr) -> rustix::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(attr.uid), Gid::from_raw(attr.gid));
    rustix::fs::chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// modes: the bits that are kept.
pub(crate) fn set_attributes(
    at: impl std::os::fd::AsFd,
    attr: &Attr,
    modes: u32,
) -> io::Result<()> {
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

pub(crate) fn copy_xattrs(
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
