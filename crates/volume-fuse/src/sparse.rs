//! Holes as programs ask for them: fallocate(2), and lseek(2) with `SEEK_DATA` and `SEEK_HOLE`.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use nix::errno::Errno;
use volume::{Seek, VolumeError};

use crate::notify::Notifier;
use crate::service::Server;

const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// A question of lseek(2) whose answer needs what the kernel has not written yet: which inode, and who waits until that
/// is written.
pub(crate) struct Ask {
    ino: u64,
    written: SyncSender<()>,
}

/// The way to [`serve`]. Of the threads that serve one queue of the kernel, all but one may wait there: the last one
/// answers the writes that the others wait for.
pub(crate) struct Seeks {
    queue: Mutex<Sender<Ask>>,
    seats: AtomicUsize,
}

impl Seeks {
    /// For queues that are served by at least `threads` threads each.
    pub(crate) fn new(threads: usize) -> (Self, Receiver<Ask>) {
        let (queue, asked) = channel();
        let (queue, seats) = (
            Mutex::new(queue),
            AtomicUsize::new(threads.saturating_sub(1)),
        );
        (Self { queue, seats }, asked)
    }

    /// Waits until the kernel has written its pages of this inode; false if too many wait for that.
    fn written(&self, ino: u64) -> bool {
        let take = |seats: usize| seats.checked_sub(1);
        let (took, looked) = (Ordering::AcqRel, Ordering::Acquire);
        if self.seats.fetch_update(took, looked, take).is_err() {
            return false;
        }
        let (written, answer) = sync_channel(1);
        let queue = self
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let outcome = queue.send(Ask { ino, written }).is_ok() && answer.recv().is_ok();
        self.seats.fetch_add(1, Ordering::Release);
        outcome
    }
}

impl Server {
    /// fallocate(2); `None` for a mode that no volume has.
    pub(crate) fn reserve(
        &self,
        ino: u64,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Option<Result<(), VolumeError>> {
        let keep_size = mode & KEEP_SIZE != 0;
        match mode & !KEEP_SIZE {
            0 => Some(self.volume.allocate(ino, offset, length, keep_size)),
            PUNCH_HOLE if keep_size => Some(self.volume.zero(ino, offset, length, true)),
            ZERO_RANGE => Some(self.volume.zero(ino, offset, length, keep_size)),
            _ => None,
        }
    }

    /// lseek(2): answered at once, or when the kernel has written the pages that it may have of the file. Where too many
    /// wait for that, all of the file counts as data, which is always a right answer: holes are an optimisation.
    pub(crate) fn find(&self, ino: u64, offset: i64, whence: i32) -> Result<u64, Errno> {
        let what = match whence {
            SEEK_DATA => Seek::Data,
            SEEK_HOLE => Seek::Hole,
            _ => return Err(Errno::EINVAL),
        };
        let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        let unwritten = self.seeks.as_ref().filter(|_| self.writers.any(ino));
        let known = unwritten.is_none_or(|seeks| seeks.written(ino));
        let found = self.on(ino, |place| {
            if known {
                return place.volume.seek(place.ino, offset, what);
            }
            let size = place.volume.attr(place.ino)?.size;
            match what {
                _ if offset >= size && !self.writers.gathering => Err(VolumeError::NoMore),
                Seek::Data => Ok(offset),
                Seek::Hole => Ok(size.max(offset)), // the kernel may know of a later end where it gathers writes
            }
        })?;
        i64::try_from(found).map_err(|_| Errno::EOVERFLOW)?;
        Ok(found)
    }
}

/// Has the kernel write its pages of each file that is asked for, until the server is gone. Needs a thread of its own:
/// the kernel's writes are answered by the server's.
pub(crate) fn serve(notifier: &Notifier, asked: &Receiver<Ask>) {
    for ask in asked {
        // Fails only for an inode that the kernel does not have, whose pages it has not either.
        let _ = notifier.invalidate(ask.ino);
        let _ = ask.written.send(());
    }
}
