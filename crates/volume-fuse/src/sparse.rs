//! Holes as programs ask for them: fallocate(2), and lseek(2) with `SEEK_DATA` and `SEEK_HOLE`.

use std::collections::HashMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{Errno, FileHandle, INodeNo, Notifier, OpenAccMode, OpenFlags, ReplyLseek};
use volume::{Seek, Volume, VolumeError};

use crate::convert::errno;
use crate::service::Server;

const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// Handle of an open through which the kernel may keep pages back.
const WRITER: FileHandle = FileHandle(1);
const READER: FileHandle = FileHandle(0);

/// A question of lseek(2) whose answer needs what the kernel has not written yet.
pub(crate) struct Ask {
    ino: u64,
    offset: u64,
    what: Seek,
    reply: ReplyLseek,
}

/// Opens that can leave unwritten pages with the kernel, by inode: those that allow a shared mapping, and where the
/// kernel gathers writes, all that write.
pub(crate) struct Writers {
    opens: Mutex<HashMap<u64, u64>>,
    gathering: bool,
}

impl Writers {
    pub(crate) fn new(gathering: bool) -> Self {
        Self {
            opens: Mutex::default(),
            gathering,
        }
    }

    /// Notes an open; its handle is for [`Writers::closed`].
    pub(crate) fn opened(&self, ino: u64, flags: OpenFlags) -> FileHandle {
        let keeps = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => false,
            OpenAccMode::O_WRONLY => self.gathering,
            OpenAccMode::O_RDWR => true,
        };
        if !keeps {
            return READER;
        }
        *self.opens().entry(ino).or_default() += 1;
        WRITER
    }

    pub(crate) fn closed(&self, ino: u64, handle: FileHandle) {
        if handle != WRITER {
            return;
        }
        let mut opens = self.opens();
        if let Some(count) = opens.get_mut(&ino) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                opens.remove(&ino);
            }
        }
    }

    fn any(&self, ino: u64) -> bool {
        self.opens().contains_key(&ino)
    }

    fn opens(&self) -> std::sync::MutexGuard<'_, HashMap<u64, u64>> {
        self.opens.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const O_WRONLY: OpenFlags = OpenFlags(1);
    const O_RDWR: OpenFlags = OpenFlags(2);

    #[test]
    fn a_file_has_writers_until_the_last_of_them_is_closed() {
        let writers = Writers::new(false);
        assert_eq!(writers.opened(7, O_WRONLY), READER);
        let (first, second) = (writers.opened(7, O_RDWR), writers.opened(7, O_RDWR));
        writers.closed(7, READER);
        writers.closed(7, first);
        assert!(writers.any(7));
        writers.closed(7, second);
        assert!(!writers.any(7));
    }

    #[test]
    fn every_open_that_writes_counts_where_the_kernel_gathers_writes() {
        let writers = Writers::new(true);
        assert_eq!(writers.opened(7, O_WRONLY), WRITER);
        assert!(writers.any(7));
    }
}
