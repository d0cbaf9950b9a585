//! Opening and closing files: what is kept of an open, and what a close waits for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use volume::{Attr, Freshness, NodeKind, SetAttr, VolumeError};

use crate::convert::FOREVER;
use crate::message::Head;
use crate::reply::{Body, FOPEN_KEEP_CACHE};
use crate::service::Server;

const O_ACCMODE: i32 = 3;
const O_RDONLY: i32 = 0;
const O_WRONLY: i32 = 1;
const O_TRUNC: i32 = 0o1000;
const O_EXCL: i32 = 0o200;

/// Bits of a handle: the kernel may keep pages back that were written through this open; it may write at all.
const KEEPS_PAGES: u64 = 1;
const MAY_WRITE: u64 = 2;

/// Opens that can leave unwritten pages with the kernel, by inode: those that allow a shared mapping, and where the
/// kernel gathers writes, all that write.
pub(crate) struct Writers {
    opens: Mutex<HashMap<u64, u64>>,
    pub(crate) gathering: bool,
}

impl Writers {
    pub(crate) fn new(gathering: bool) -> Self {
        Self {
            opens: Mutex::default(),
            gathering,
        }
    }

    /// Notes an open; its handle is for [`Writers::closed`].
    pub(crate) fn opened(&self, ino: u64, flags: i32) -> u64 {
        let bits = match flags & O_ACCMODE {
            O_RDONLY => 0,
            O_WRONLY if !self.gathering => MAY_WRITE,
            _ => MAY_WRITE | KEEPS_PAGES,
        };
        if bits & KEEPS_PAGES != 0 {
            *self.opens().entry(ino).or_default() += 1;
        }
        bits
    }

    pub(crate) fn closed(&self, ino: u64, handle: u64) {
        if handle & KEEPS_PAGES == 0 {
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
        head: &Head,
        flags: i32,
        body: &mut Body<'_>,
    ) -> Result<(), Errno> {
        if self.read_only {
            return Err(Errno::ENOSYS); // FUSE_NO_OPEN_SUPPORT: the kernel never asks again, and keeps its cache
        }
        self.outcome(self.open_existing(head, head.ino, flags))?;
        body.opened(self.writers.opened(head.ino, flags), FOPEN_KEEP_CACHE)
    }

    pub(crate) fn created(
        &self,
        node: &Attr,
        flags: i32,
        body: &mut Body<'_>,
    ) -> Result<(), Errno> {
        body.entry(&self.shown(node), FOREVER)?;
        body.opened(self.writers.opened(node.ino, flags), FOPEN_KEEP_CACHE)
    }

    /// close(2) of a descriptor: waits for the anchor where the freshness is strict and the descriptor may write. Elsewhere
    /// the kernel is told not to ask again.
    pub(crate) fn closing(&self, ino: u64, handle: u64) -> Result<(), Errno> {
        if self.read_only || self.volume.freshness() != Freshness::Strict {
            return Err(Errno::ENOSYS);
        }
        if handle & MAY_WRITE == 0 {
            return Ok(());
        }
        self.durable(ino)
    }

    fn open_existing(&self, by: &Head, ino: u64, flags: i32) -> Result<(), VolumeError> {
        self.volume.open_file(ino)?;
        if flags & O_TRUNC != 0 && flags & O_ACCMODE != O_RDONLY {
            let cut = SetAttr {
                size: Some(0),
                ..SetAttr::default()
            };
            if let Err(error) = self.change(by, ino, &cut) {
                self.volume.release(ino);
                return Err(error);
            }
        }
        Ok(())
    }

    pub(crate) fn create_or_open(
        &self,
        head: &Head,
        name: &[u8],
        mode: u32,
        flags: i32,
    ) -> Result<Attr, VolumeError> {
        match self.make(head, name, NodeKind::File, mode) {
            Err(VolumeError::Exists) if flags & O_EXCL == 0 => {
                let found = self.volume.lookup(head.ino, name)?;
                self.open_existing(head, found.ino, flags)?;
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

    const O_RDWR: i32 = 2;

    #[test]
    fn a_file_has_writers_until_the_last_of_them_is_closed() {
        let writers = Writers::new(false);
        assert_eq!(writers.opened(7, O_RDONLY), 0);
        assert_eq!(writers.opened(7, O_WRONLY), MAY_WRITE);
        let (first, second) = (writers.opened(7, O_RDWR), writers.opened(7, O_RDWR));
        writers.closed(7, MAY_WRITE);
        writers.closed(7, first);
        assert!(writers.any(7));
        writers.closed(7, second);
        assert!(!writers.any(7));
    }

    #[test]
    fn every_open_that_writes_counts_where_the_kernel_gathers_writes() {
        let writers = Writers::new(true);
        let handle = writers.opened(7, O_WRONLY);
        assert_eq!(handle, MAY_WRITE | KEEPS_PAGES);
        assert!(writers.any(7));
    }
}
