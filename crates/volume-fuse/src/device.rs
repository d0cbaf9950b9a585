//! `/dev/fuse` and mount(2): the connection between the kernel and the server, made by ourselves so that the mount
//! lies in the calling thread's namespace and needs no helper program.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use crate::error::MountError;

/// Bytes of one read or write request; the kernel's limit is 256 pages (`fs.fuse.max_pages_limit`).
pub(crate) const MAX_REQUEST: u32 = 1 << 20;

const DEVICE: &str = "/dev/fuse";
const GET_DEVICE: &str =
    "load the module (modprobe fuse); in a container add --device /dev/fuse --cap-add SYS_ADMIN";
const GET_RIGHT: &str = "run as root, or give the process CAP_SYS_ADMIN (in a container: --cap-add SYS_ADMIN and an \
                         AppArmor profile that allows mount)";

/// Opens the device that carries the requests of one mount.
pub(crate) fn open() -> Result<File, MountError> {
    open_at(DEVICE)
}

fn open_at(device: &str) -> Result<File, MountError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            MountError::fuse(&format!("{device} cannot be opened"), errno, GET_DEVICE)
        })
}

/// Attaches `device` at `mountpoint` in the calling thread's mount namespace. The kernel then sends INIT.
pub(crate) fn attach(device: &File, mountpoint: &Path, read_only: bool) -> Result<(), MountError> {
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read={MAX_REQUEST}",
        device.as_raw_fd()
    );
    mount(
        Some("securetf"),
        mountpoint,
        Some("fuse.securetf"),
        flags,
        Some(options.as_str()),
    )
    .map_err(|errno| {
        let what = format!(
            "a FUSE file system cannot be mounted at {}",
            mountpoint.display()
        );
        match errno {
            Errno::ENODEV => MountError::fuse(&what, errno, GET_DEVICE),
            Errno::EPERM | Errno::EACCES => MountError::fuse(&what, errno, GET_RIGHT),
            _ => MountError::unfit(&what, errno, "see the kernel's log (dmesg) for the reason"),
        }
    })
}

/// Ends the connection of the mount at `path` in the calling thread's namespace: requests fail with ENOTCONN. The mount
/// stays, or a program would find what lies beneath it.
pub(crate) fn abort(path: &Path) -> Result<(), Errno> {
    // A mount in use is not unmounted; nothing is asked of its server for that.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let _in_use = nix::fcntl::open(path, flags, Mode::empty())?;
    match umount2(path, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EBUSY) => Ok(()),
        outcome => outcome,
    }
}

/// The mount point as an absolute path without symlinks.
pub(crate) fn directory(mountpoint: &Path) -> Result<std::path::PathBuf, MountError> {
    let absolute = mountpoint.canonicalize().and_then(|path| {
        if path.is_dir() {
            Ok(path)
        } else {
            Err(io::Error::from_raw_os_error(Errno::ENOTDIR as i32))
        }
    });
    absolute.map_err(|error| MountError::MountPoint {
        problem: format!(
            "mount point {} is not a usable directory: {error}",
            mountpoint.display()
        ),
        fix: "create the directory first, and name one that is not a dead mount".to_owned(),
    })
}

/// Raises the mount's read-ahead, which the kernel clamps to 128 KiB for FUSE. A matter of speed only: where sysfs is
/// missing or read-only, the mount works with the kernel's value.
pub(crate) fn raise_read_ahead(mountpoint: &Path, kib: u32) -> io::Result<()> {
    let number = mountpoint.metadata()?.dev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let mut knob = OpenOptions::new()
        .write(true)
        .open(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"))?;
    write_all(&mut knob, kib)
}

fn write_all(knob: &mut File, kib: u32) -> io::Result<()> {
    use std::io::Write;
    knob.write_all(kib.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_without_a_device_names_it_and_the_fix() {
        let error = open_at("/dev/fuse-of-nowhere").expect_err("there is no such device");
        assert_eq!(error.kind(), "FuseUnavailableError");
        assert!(
            error
                .problem()
                .contains("/dev/fuse-of-nowhere cannot be opened"),
            "{error}"
        );
        assert!(error.fix().contains("modprobe fuse"), "{error}");
    }

    #[test]
    fn directory_of_a_file_is_refused_with_the_reason() {
        let error =
            directory(Path::new("/proc/self/status")).expect_err("a file is no mount point");
        assert_eq!(error.kind(), "UsageError");
        assert!(
            error.problem().contains("not a usable directory"),
            "{error}"
        );
    }
}
