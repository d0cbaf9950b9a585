//! Opening and closing files: what is kept of an open, and what a close waits for.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, PoisonError};

use fuser::{
    Errno, FileHandle, FopenFlags, INodeNo, OpenAccMode, OpenFlags, ReplyCreate, ReplyEmpty,
    ReplyOpen, Request,
};
use volume::{Attr, Freshness, NodeKind, SetAttr, VolumeError};

use crate::convert::{FOREVER, GENERATION};
use crate::service::Server;

const O_TRUNC: i32 = 0o1000;
const O_EXCL: i32 = 0o200;

/// Bits of a handle: the kernel may keep pages back that were written through this open; it may write at all.
const KEEPS_PAGES: u64 = 1;
const MAY_WRITE: u64 = 2;

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
        let bits = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => 0,
            OpenAccMode::O_WRONLY if !self.gathering => MAY_WRITE,
            OpenAccMode::O_WRONLY | OpenAccMode::O_RDWR => MAY_WRITE | KEEPS_PAGES,
        };
        if bits & KEEPS_PAGES != 0 {
            *self.opens().entry(ino).or_default() += 1;
        }
        FileHandle(bits)
    }

    pub(crate) fn closed(&self, ino: u64, handle: FileHandle) {
        if handle.0 & KEEPS_PAGES == 0 {
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

    pub(crate) fn any(&self, ino: u64) -> bool {
        self.opens().contains_key(&ino)
    }

    fn opens(&self) -> std::sync::MutexGuard<'_, HashMap<u64, u64>> {
        self.opens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    pub(crate) fn open_for(
        &self,
        request: &Request,
        ino: INodeNo,
        flags: OpenFlags,
        reply: ReplyOpen,
    ) {
        if self.read_only {
            return reply.error(Errno::ENOSYS); // FUSE_NO_OPEN_SUPPORT: the kernel never asks again, and keeps its cache
        }
        match self.open_existing(request.uid(), ino, flags) {
            Ok(()) => {
                let handle = self.writers.opened(ino.0, flags);
                reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(self.failure(&error)),
        }
    }

    pub(crate) fn created(
        &self,
        outcome: Result<Attr, VolumeError>,
        flags: OpenFlags,
        reply: ReplyCreate,
    ) {
        match outcome {
            Ok(node) => {
                let (found, cache) = (self.shown(&node), FopenFlags::FOPEN_KEEP_CACHE);
                let handle = self.writers.opened(node.ino, flags);
                reply.created(&FOREVER, &found, GENERATION, handle, cache);
            }
            Err(error) => reply.error(self.failure(&error)),
        }
    }

    /// close(2) of a descriptor: waits for the anchor where the freshness is strict and the descriptor may write. Elsewhere
    /// the kernel is told not to ask again.
    pub(crate) fn closing(&self, ino: INodeNo, handle: FileHandle, reply: ReplyEmpty) {
        if self.read_only || self.volume.freshness() != Freshness::Strict {
            return reply.error(Errno::ENOSYS);
        }
        if handle.0 & MAY_WRITE == 0 {
            return reply.ok();
        }
        self.durable(ino, reply);
    }

    pub(crate) fn open_existing(
        &self,
        user: u32,
        ino: INodeNo,
        flags: OpenFlags,
    ) -> Result<(), VolumeError> {
        self.volume.open_file(ino.0)?;
        if flags.0 & O_TRUNC != 0 && flags.acc_mode() != OpenAccMode::O_RDONLY {
            let cut = SetAttr {
                size: Some(0),
                ..SetAttr::default()
            };
            if let Err(error) = self.change(user, ino, &cut) {
                self.volume.release(ino.0);
                return Err(error);
            }
        }
        Ok(())
    }

    pub(crate) fn create_or_open(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Result<Attr, VolumeError> {
        match self.make(request, parent, name, NodeKind::File, mode) {
            Err(VolumeError::Exists) if flags & O_EXCL == 0 => {
                let found = self.volume.lookup(parent.0, name.as_bytes())?;
                self.open_existing(request.uid(), INodeNo(found.ino), OpenFlags(flags))?;
                self.volume.attr(found.ino)
            }
            Ok(node) => {
                self.volume.open_file(node.ino)?;
                Ok(node)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const O_RDONLY: OpenFlags = OpenFlags(0);
    const O_WRONLY: OpenFlags = OpenFlags(1);
    const O_RDWR: OpenFlags = OpenFlags(2);

    #[test]
    fn a_file_has_writers_until_the_last_of_them_is_closed() {
        let writers = Writers::new(false);
        assert_eq!(writers.opened(7, O_RDONLY), FileHandle(0));
        assert_eq!(writers.opened(7, O_WRONLY), FileHandle(MAY_WRITE));
        let (first, second) = (writers.opened(7, O_RDWR), writers.opened(7, O_RDWR));
        writers.closed(7, FileHandle(MAY_WRITE));
        writers.closed(7, first);
        assert!(writers.any(7));
        writers.closed(7, second);
        assert!(!writers.any(7));
    }

    #[test]
    fn every_open_that_writes_counts_where_the_kernel_gathers_writes() {
        let writers = Writers::new(true);
        let handle = writers.opened(7, O_WRONLY);
        assert_eq!(handle, FileHandle(MAY_WRITE | KEEPS_PAGES));
        assert!(writers.any(7));
    }
}
