//! One mounted volume: from `/dev/fuse` to the last reply.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{Config, Notifier, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::SigSet;
use volume::{Protection, Volume};

use crate::device;
use crate::error::MountError;
use crate::generations::Generations;
use crate::namespace::{Namespace, leave_for_main, unmount};
use crate::prefetch::{self, Prefetch};
use crate::service::Server;
use crate::sparse;
use crate::stats::{Counters, Stats};

/// How long a mount that is still in use may take before it is detached, and a server to end after that.
const PATIENCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(2);

/// How a volume is mounted.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether the volume was opened for writing; else the mount is read-only.
    pub writable: bool,
    /// Whether newer states may follow ([`Mount::follow`]); for read-only mounts.
    pub following: bool,
    /// Threads that answer requests, each with its own descriptor of `/dev/fuse`.
    pub threads: usize,
    /// Let the kernel gather writes before it sends them; for writable volumes only. Ten times faster for unbuffered
    /// writes of 100 bytes, but a third slower for large ones (the kernel throttles dirty pages of FUSE), and
    /// ENOSPC then shows at close or fsync instead of write.
    pub writeback: bool,
    /// Read-ahead of the mount in KiB.
    pub read_ahead_kib: u32,
}

/// A mount that is served by threads of this process. Dropping it unmounts.
///
/// If this process dies, the kernel answers the program with ENOTCONN.
pub struct Mount {
    path: PathBuf,
    namespace: Namespace,
    server: Option<JoinHandle<io::Result<()>>>,
    counters: Arc<Counters>,
    generations: Arc<Generations>,
}

impl Mount {
    /// Mounts `volume` at the directory `mountpoint` in the calling thread's mount namespace and serves it from
    /// threads outside of that namespace. Returns when the kernel has its answer to INIT and the root is readable.
    ///
    /// # Errors
    /// [`MountError::FuseUnavailable`] without device or right; [`MountError::MountPoint`] for a bad directory.
    pub fn start(
        volume: Arc<Volume>,
        mountpoint: &Path,
        options: Options,
    ) -> Result<Self, MountError> {
        if options.writable && volume.protection() == Protection::Authenticated {
            return Err(MountError::unwritable());
        }
        let path = device::directory(mountpoint)?;
        let fd = device::open()?;
        let read_only = !options.writable;
        let namespace = Namespace::of_this_thread().map_err(|error| MountError::Unfit {
            problem: format!("/proc is not usable: {error}"),
            fix: "mount /proc in this environment".to_owned(),
        })?;
        device::attach(&fd, &path, read_only)?;
        let counters = Arc::new(Counters::default());
        let generations = Arc::new(Generations::new(
            Arc::clone(&volume),
            read_only && options.following,
        ));
        let (prefetch, wanted) = Prefetch::new();
        let unchanging = read_only && !options.following;
        let (seeks, asked) = channel();
        let aside = Arc::clone(&volume);
        let helper: Helper = if unchanging {
            Box::new(move |notifier| prefetch::serve(&aside, notifier, &wanted))
        } else {
            Box::new(move |notifier| sparse::serve(&aside, notifier, &asked))
        };
        let server = Server::new(
            volume,
            Arc::clone(&generations),
            read_only,
            options.writeback && !read_only,
            Arc::clone(&counters),
            unchanging.then_some(prefetch),
            (!read_only).then_some(seeks),
        );
        let threads =
            serve(server, fd, options.threads, helper).inspect_err(|_| drop(unmount(&path)))?;
        let mount = Self {
            path,
            namespace,
            server: Some(threads),
            counters,
            generations,
        };
        if let Err(error) = device::raise_read_ahead(&mount.path, options.read_ahead_kib) {
            mount.counters.note_read_ahead(&error);
        }
        Ok(mount)
    }

    /// Where the volume is mounted: absolute, without symlinks.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was served until now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counters.read()
    }

    /// Shows `volume`, a newer state of the same volume, to every path that is opened from now on. Files and
    /// directories that are open stay in the state in which they were opened.
    ///
    /// # Errors
    /// [`MountError::MountPoint`] if the mount does not follow, or the state is not newer than the one it shows;
    /// [`MountError::Unfit`] after 16 million states.
    pub fn follow(&self, volume: Arc<Volume>) -> Result<(), MountError> {
        self.generations
            .follow(volume)
            .map_err(|why| MountError::unfollowed(&why))?;
        self.counters.note_replaced();
        Ok(())
    }

    /// Unmounts, from any thread: waits a moment for users to leave, then detaches. Returns when the server's threads
    /// have ended, or after two seconds if a process still holds files of the detached mount.
    ///
    /// # Errors
    /// [`MountError::Unfit`] if the kernel refuses to unmount.
    pub fn unmount(&mut self) -> Result<(), MountError> {
        let Some(server) = self.server.take() else {
            return Ok(());
        };
        let path = self.path.clone();
        let outcome = self.namespace.run(move || unmount_patiently(&path));
        let deadline = Instant::now() + PATIENCE;
        while !server.is_finished() && Instant::now() < deadline {
            std::thread::sleep(STEP);
        }
        if server.is_finished() {
            let _ = server.join(); // the session's own error is the end of the connection, which is what was asked for
        }
        match outcome {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()), // EINVAL: someone else unmounted it
            Err(errno) => Err(MountError::unfit(
                &format!("cannot unmount {}", self.path.display()),
                errno,
                "end the programs that use the mount",
            )),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.unmount();
    }
}

fn unmount_patiently(path: &Path) -> Result<(), Errno> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
            Err(Errno::EBUSY) if Instant::now() < deadline => std::thread::sleep(STEP),
            Err(Errno::EBUSY) => {
                return umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
            }
            outcome => return outcome,
        }
    }
}

/// What a thread of its own does beside the server until that is gone: it may wait for the kernel, which may wait for
/// the server.
type Helper = Box<dyn FnOnce(&Notifier) + Send>;

/// Answers INIT on the calling thread, then serves on threads of their own.
fn serve(
    server: Server,
    fd: OwnedFd,
    threads: usize,
    helper: Helper,
) -> Result<JoinHandle<io::Result<()>>, MountError> {
    let failed = |error: io::Error| MountError::FuseUnavailable {
        problem: format!("the kernel did not start the FUSE connection: {error}"),
        fix: "check that the kernel is 5.4 or newer and see its log (dmesg)".to_owned(),
    };
    let mut config = Config::default();
    config.n_threads = Some(threads.max(1));
    config.clone_fd = true;
    let session = Session::from_fd(server, fd, SessionACL::All, config).map_err(failed)?;
    std::thread::Builder::new()
        .name("securetf-fuse".to_owned())
        .spawn(move || {
            let _ = SigSet::all().thread_block(); // signals are the launcher's
            leave_for_main();
            let notifier = session.notifier();
            let helper = std::thread::spawn(move || helper(&notifier));
            let outcome = session.run(); // drops the server, which ends the helper
            let _ = helper.join();
            outcome
        })
        .map_err(failed)
}
