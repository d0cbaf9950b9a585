//! Mount namespaces: the program sees the mounts, nothing else on the machine does (`mount_namespaces(7)`).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::error::MountError;

const NEEDS_ADMIN: &str =
    "run as root, or give the process CAP_SYS_ADMIN (in a container: --cap-add SYS_ADMIN)";
const SWAPS: &str = "/proc/swaps";
const THIS_THREAD: &str = "/proc/thread-self/ns/mnt";
const MAIN_THREAD: &str = "/proc/self/ns/mnt";

/// Gives the calling thread a mount namespace of its own, in which nothing propagates from or to the outside.
/// A process forked from this thread inherits it; the other threads of this process stay where they are.
///
/// # Errors
/// [`MountError::Unfit`] without `CAP_SYS_ADMIN`.
pub fn enter() -> Result<(), MountError> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).map_err(|errno| {
        MountError::unfit(
            "no mount namespace of its own for the program",
            errno,
            NEEDS_ADMIN,
        )
    })?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .map_err(|errno| {
        MountError::unfit(
            "the mounts of the new namespace cannot be made private",
            errno,
            NEEDS_ADMIN,
        )
    })
}

/// Mounts an empty memory file system at `path` (a directory), of at most `size_bytes`, mode as in chmod(2). Nothing in it is
/// written to swap space, which lies on the host's disk.
///
/// # Errors
/// [`MountError`] says what the kernel refused; one that cannot promise that much must have no swap space.
pub fn mount_tmpfs(path: &Path, size_bytes: u64, mode: u32) -> Result<(), MountError> {
    let options = format!("size={size_bytes},mode={mode:o}");
    tmpfs(path, &format!("{options},noswap"))
        .or_else(|errno| match errno {
            // Linux has `noswap` since 6.4, outside of user namespaces; tmpfs(5).
            Errno::EINVAL if nothing_swaps(Path::new(SWAPS)) => tmpfs(path, &options),
            other => Err(other),
        })
        .map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR => MountError::MountPoint {
                problem: format!(
                    "mount point {} is not a directory that exists",
                    path.display()
                ),
                fix: "create the directory first".to_owned(),
            },
            Errno::EINVAL => MountError::unfit(
                &format!(
                    "a memory file system at {} could be written to the swap space of this machine",
                    path.display()
                ),
                errno,
                "switch swap off (`swapoff -a`), or use Linux 6.4 or newer outside of user namespaces",
            ),
            _ => MountError::unfit(
                &format!("cannot mount a memory file system at {}", path.display()),
                errno,
                NEEDS_ADMIN,
            ),
        })
}

fn tmpfs(path: &Path, options: &str) -> Result<(), Errno> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("securetf"), path, Some("tmpfs"), flags, Some(options))
}

/// Whether the kernel lists no swap space (`proc_swaps(5)`: a heading, and a line for each), or cannot swap at all.
fn nothing_swaps(list: &Path) -> bool {
    match fs::read_to_string(list) {
        Ok(text) => text.lines().count() <= 1,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Shows `source` at `path`, one of the same kind that exists, read-only, in the calling thread's namespace.
///
/// # Errors
/// [`MountError`] says what the kernel refused.
pub fn cover_file(source: &Path, path: &Path) -> Result<(), MountError> {
    let bind = MsFlags::MS_BIND;
    let read_only =
        bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some(source), path, None::<&str>, bind, None::<&str>)
        .and_then(|()| mount(None::<&str>, path, None::<&str>, read_only, None::<&str>))
        .map_err(|errno| {
            let what = format!("cannot cover {} by {}", path.display(), source.display());
            MountError::unfit(&what, errno, NEEDS_ADMIN)
        })
}

/// Shows `source` also at `path`, one of the same kind that exists, as it is and without what is mounted beneath it.
///
/// # Errors
/// [`MountError`] says what the kernel refused.
pub fn bind(source: &Path, path: &Path) -> Result<(), MountError> {
    mount(
        Some(source),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|errno| {
        let what = format!("cannot show {} at {}", source.display(), path.display());
        MountError::unfit(&what, errno, NEEDS_ADMIN)
    })
}

/// Removes the topmost mount at `path` from the calling thread's namespace; a mount in use is detached.
///
/// # Errors
/// [`MountError`] when there is no mount at `path`, or no right to remove it.
pub fn unmount(path: &Path) -> Result<(), MountError> {
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EBUSY) => umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW),
        outcome => outcome,
    }
    .map_err(|errno| match errno {
        Errno::EINVAL | Errno::ENOENT => MountError::MountPoint {
            problem: format!("nothing is mounted at {}", path.display()),
            fix: "unmount only what was mounted, from the thread that mounted it".to_owned(),
        },
        _ => MountError::unfit(
            &format!("cannot unmount {}", path.display()),
            errno,
            NEEDS_ADMIN,
        ),
    })
}

/// A handle on a mount namespace. Keeps it alive.
pub(crate) struct Namespace {
    handle: File,
    identity: (u64, u64),
}

impl Namespace {
    /// The namespace of the calling thread.
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        Self::open(THIS_THREAD)
    }

    fn open(path: &str) -> io::Result<Self> {
        let handle = File::open(path)?;
        let metadata = handle.metadata()?;
        Ok(Self {
            identity: (metadata.dev(), metadata.ino()),
            handle,
        })
    }

    /// Runs `action` in this namespace: at once if the calling thread is in it, else on a thread that joins it.
    pub(crate) fn run<T: Send>(
        &self,
        action: impl FnOnce() -> Result<T, Errno> + Send,
    ) -> Result<T, Errno> {
        if Self::of_this_thread().is_ok_and(|here| here.identity == self.identity) {
            return action();
        }
        std::thread::scope(|scope| {
            let visitor = scope.spawn(|| {
                self.join()?;
                action()
            });
            visitor.join().unwrap_or(Err(Errno::EFAULT))
        })
    }

    /// Moves the calling thread, which must be one of ours and run no other code, into this namespace.
    fn join(&self) -> Result<(), Errno> {
        unshare(CloneFlags::CLONE_FS)?; // setns(2): a thread that shares its file-system attributes cannot move
        setns(&self.handle, CloneFlags::CLONE_NEWNS)
    }
}

/// Moves the calling thread, which must be a new one of ours, to the mount namespace of the process's main thread, so
/// that it cannot reach a mount that it serves (and then wait for itself), and sees the machine's files, not the
/// program's. Without the right to move, the thread stays.
pub fn leave_for_main() {
    let (Ok(here), Ok(main)) = (Namespace::of_this_thread(), Namespace::open(MAIN_THREAD)) else {
        return;
    };
    if here.identity != main.identity {
        let _ = main.join();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::nothing_swaps;

    #[test]
    fn swap_space_when_listed_or_not_readable_counts_as_there() {
        let directory = tempfile::tempdir().expect("directory");
        let list = directory.path().join("swaps");
        assert!(nothing_swaps(&list), "a kernel without swap has no list");
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        std::fs::write(&list, heading).expect("write");
        assert!(nothing_swaps(&list));
        std::fs::write(&list, format!("{heading}/dev/vdb partition 1048572 0 -2\n"))
            .expect("write");
        assert!(!nothing_swaps(&list));
        assert!(!nothing_swaps(Path::new("/proc/self/mem")));
    }
}
