//! One mounted volume: from `/dev/fuse` to the last reply.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use volume::{Protection, Volume};

use crate::alarm::Alarm;
use crate::device;
use crate::error::MountError;
use crate::generations::Generations;
use crate::init::{self, OVER_IO_URING};
use crate::namespace::{Namespace, unmount};
use crate::prefetch::{self, Prefetch};
use crate::queues::DEPTH_MIN;
use crate::service::Server;
use crate::session::{self, Helper, Plan};
use crate::sparse::{self, Seeks};
use crate::stats::{Counters, Stats, Transport};

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
    server: Option<JoinHandle<()>>,
    counters: Arc<Counters>,
    generations: Arc<Generations>,
    alarm: Arc<Alarm>,
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
        // What is agreed with the kernel at INIT stays: where its io_uring then fails, another connection does without.
        Self::attempt(Arc::clone(&volume), &path, options, OVER_IO_URING)
            .or_else(|_| Self::attempt(volume, &path, options, 0))
    }

    /// Mounts at `path`, with these flags of INIT beside the usual ones.
    fn attempt(
        volume: Arc<Volume>,
        path: &Path,
        options: Options,
        flags: u64,
    ) -> Result<Self, MountError> {
        let fd = device::open()?;
        let read_only = !options.writable;
        let namespace = Namespace::of_this_thread().map_err(|error| MountError::no_proc(&error))?;
        device::attach(&fd, path, read_only)?;
        let counters = Arc::new(Counters::default());
        let generations = Arc::new(Generations::new(
            Arc::clone(&volume),
            read_only && options.following,
        ));
        let (prefetch, wanted) = Prefetch::new();
        let unchanging = read_only && !options.following;
        let (seeks, asked) = Seeks::new(options.threads.min(DEPTH_MIN));
        let aside = Arc::clone(&volume);
        let helper: Helper = if unchanging {
            Box::new(move |notifier| prefetch::serve(&aside, notifier, &wanted))
        } else {
            Box::new(move |notifier| sparse::serve(notifier, &asked))
        };
        let writeback = options.writeback && !read_only;
        let server = Server::new(
            volume,
            Arc::clone(&generations),
            read_only,
            writeback,
            Arc::clone(&counters),
            unchanging.then_some(prefetch),
            (!read_only).then_some(seeks),
        );
        let within = Namespace::of_this_thread().map_err(|error| MountError::no_proc(&error))?;
        let at = path.to_owned();
        let abort = move || within.run(|| device::abort(&at));
        let alarm = Arc::new(Alarm::new(Box::new(abort)));
        let plan = Plan {
            wanted: init::wanted(read_only, writeback) | flags,
            threads: options.threads,
            alarm: Arc::clone(&alarm),
        };
        let (threads, transport) = session::start(server, fd, plan, helper).map_err(|error| {
            drop(unmount(path));
            MountError::not_started(&error)
        })?;
        if transport == Transport::IoUring {
            counters.note_io_uring();
        }
        let mount = Self {
            path: path.to_owned(),
            namespace,
            server: Some(threads),
            counters,
            generations,
            alarm,
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
    /// [`MountError::Unfit`] if the kernel refuses to unmount, or the connection had to be aborted before.
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
            let _ = server.join();
        }
        match outcome {
            // EINVAL: someone else unmounted it
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => match self.alarm.why() {
                Some(why) => Err(MountError::aborted(&self.path, why)),
                None => Ok(()),
            },
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
