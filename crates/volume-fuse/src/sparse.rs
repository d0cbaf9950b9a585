//! Holes as programs ask for them: fallocate(2), and lseek(2) with `SEEK_DATA` and `SEEK_HOLE`.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use fuser::{Errno, INodeNo, Notifier, ReplyLseek};
use volume::{Seek, Volume, VolumeError};

use crate::convert::errno;
use crate::service::Server;

const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// A question of lseek(2) whose answer needs what the kernel has not written yet.
pub(crate) struct Ask {
    ino: u64,
    offset: u64,
    what: Seek,
    reply: ReplyLseek,
}

impl Server {
    /// fallocate(2); `None` for a mode that no volume has.
    pub(crate) fn reserve(
        &self,
        ino: INodeNo,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Option<Result<(), VolumeError>> {
        let keep_size = mode & KEEP_SIZE != 0;
        match mode & !KEEP_SIZE {
            0 => Some(self.volume.allocate(ino.0, offset, length, keep_size)),
            PUNCH_HOLE if keep_size => Some(self.volume.zero(ino.0, offset, length, true)),
            ZERO_RANGE => Some(self.volume.zero(ino.0, offset, length, keep_size)),
            _ => None,
        }
    }

    /// lseek(2): answered at once, or by [`serve`] when the kernel may have pages that are not written yet.
    pub(crate) fn find(&self, ino: INodeNo, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            SEEK_DATA => Seek::Data,
            SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        let ask = Ask {
            ino: ino.0,
            offset,
            what,
            reply,
        };
        match &self.seeks {
            Some(queue) if self.writers.any(ino.0) => {
                if let Err(unsent) = queue.send(ask) {
                    unsent.0.reply.error(Errno::EIO);
                }
            }
            _ => match self.on(ino, |place| Ok((Arc::clone(&place.volume), place.ino))) {
                Ok((volume, ino)) => Ask { ino, ..ask }.answer(&volume),
                Err(errno) => ask.reply.error(errno),
            },
        }
    }
}

impl Ask {
    fn answer(self, volume: &Volume) {
        let found = volume.seek(self.ino, self.offset, self.what);
        match found.map(i64::try_from) {
            Ok(Ok(place)) => self.reply.offset(place),
            Ok(Err(_)) => self.reply.error(Errno::EOVERFLOW),
            Err(error) => self.reply.error(errno(&error)),
        }
    }
}

/// Answers each question once the kernel has written its pages of the file, until the server is gone. Needs a thread of
/// its own: the kernel's writes are answered by the server's.
pub(crate) fn serve(volume: &Volume, notifier: &Notifier, asked: &Receiver<Ask>) {
    for ask in asked {
        // Fails only for an inode that the kernel does not have, whose pages it has not either.
        let _ = notifier.inval_inode(INodeNo(ask.ino), 0, 0);
        ask.answer(volume);
    }
}
