//! The answers to the kernel's requests, each by one call of the engine. Transports bring requests and take answers
//! away; here nobody knows which one did.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use volume::{NAME_MAX, NodeKind, Volume};

use crate::convert::{FOREVER, joined, node_kind, rename_flags, xattr_mode};
use crate::device::MAX_REQUEST;
use crate::message::{Head, Request};
use crate::reply::Body;
use crate::request::Operation;
use crate::service::Server;

impl Server {
    /// Answers one request into `body`: with its length, an error, or `None` where the kernel expects no answer.
    pub(crate) fn answer(
        &self,
        request: Request<'_>,
        body: &mut Body<'_>,
    ) -> Option<Result<usize, Errno>> {
        let head = request.head;
        let outcome = match Operation::parse(request) {
            Ok(Operation::Forget { times }) => {
                self.forget(head.ino, times);
                return None;
            }
            Ok(Operation::BatchForget(pairs)) => {
                pairs.for_each(|(ino, times)| self.forget(ino, times));
                return None;
            }
            // A panic is a fault of ours: who asked gets an error, and does not wait for ever.
            Ok(operation) => {
                catch_unwind(AssertUnwindSafe(|| self.perform(&head, operation, body)))
                    .unwrap_or(Err(Errno::EIO))
            }
            Err(_) => Err(Errno::EIO),
        };
        Some(outcome.map(|()| body.len()))
    }

    /// What [`Operation::Other`] leads to is ENOSYS; of IOCTL the kernel then makes ENOTTY.
    fn perform(
        &self,
        head: &Head,
        operation: Operation<'_>,
        body: &mut Body<'_>,
    ) -> Result<(), Errno> {
        let ino = head.ino;
        match operation {
            Operation::Lookup { name } => self.look_up(ino, name, body),
            Operation::GetAttr => {
                let found = self.on(ino, |place| self.attributes(place))?;
                body.attr(&found, self.generations.keep(ino))
            }
            Operation::SetAttr(change) => {
                let found = self.outcome(self.change(head, ino, &change))?;
                body.attr(&self.shown(&found), FOREVER)
            }
            Operation::ReadLink => {
                body.bytes(&self.on(ino, |place| place.volume.read_link(place.ino))?)
            }
            Operation::StatFs => body.space(&self.on(ino, |place| place.volume.statfs())?),
            Operation::Read { offset, size } => self.read(ino, offset, size, body),
            Operation::Write { offset, data, kill } => body.size(self.outcome(self.write_from(
                ino,
                offset,
                data,
                kill.then_some(head.gid),
            ))?),
            Operation::Open { flags } => self.open_for(head, flags, body),
            Operation::Create { flags, mode, name } => {
                let made = self.outcome(self.create_or_open(head, name, mode, flags))?;
                self.created(&made, flags, body)
            }
            Operation::Flush { handle } => self.closing(ino, handle),
            Operation::Release { handle } => {
                self.writers.closed(ino, handle);
                self.volume.release(ino);
                Ok(())
            }
            Operation::Fsync => self.durable(ino),
            Operation::OpenDir => self.open_dir(ino, body),
            Operation::ReadDir { offset, size } => self.names(ino, offset, size, body),
            Operation::ReadDirPlus { offset, size } => {
                self.names_and_attributes(ino, offset, size, body)
            }
            Operation::Allocate {
                offset,
                length,
                mode,
            } => {
                let outcome = self.reserve(ino, offset, length, mode);
                self.outcome(outcome.ok_or(Errno::EOPNOTSUPP)?)
            }
            Operation::Seek { offset, whence } => body.u64(self.find(ino, offset, whence)?),
            Operation::ReleaseDir | Operation::Destroy => Ok(()),
            Operation::Forget { .. }
            | Operation::BatchForget(_)
            | Operation::Interrupt
            | Operation::Other => Err(Errno::ENOSYS),
            _ => self.perform_by_name(head, &operation, body),
        }
    }

    /// Operations on the names of a directory, and on extended attributes.
    fn perform_by_name(
        &self,
        head: &Head,
        operation: &Operation<'_>,
        body: &mut Body<'_>,
    ) -> Result<(), Errno> {
        let ino = head.ino;
        match *operation {
            Operation::MakeNode { mode, device, name } => {
                let kind = node_kind(mode, device).ok_or(Errno::EPERM)?;
                self.entry(self.make(head, name, kind, mode), body)
            }
            Operation::MakeDir { mode, name } => {
                self.entry(self.make(head, name, NodeKind::Dir, mode), body)
            }
            Operation::Symlink { name, target } => {
                let kind = NodeKind::Symlink(target);
                self.entry(self.make(head, name, kind, 0o777), body)
            }
            Operation::Link { ino: from, name } => {
                self.entry(self.volume.link(from, ino, name), body)
            }
            Operation::Unlink { name } => self.remove(ino, name, Volume::remove_file),
            Operation::RemoveDir { name } => self.remove(ino, name, Volume::remove_dir),
            Operation::Rename {
                name,
                parent,
                new_name,
                flags,
            } => {
                let how = rename_flags(flags).ok_or(Errno::EINVAL)?;
                let rename = || self.volume.rename(ino, name, parent, new_name, how);
                let keep = || self.removed.keep(&self.volume, parent, new_name, rename);
                self.outcome(self.crew.beside(keep))
            }
            Operation::SetXattr { name, value, flags } => {
                let mode = xattr_mode(name, flags)?;
                self.outcome(self.volume.xattr_set(ino, name, value, mode))
            }
            Operation::GetXattr { name, size } => {
                let value = self.on(ino, |place| place.volume.xattr_get(place.ino, name))?;
                body.xattr(&value, size)
            }
            Operation::ListXattr { size } => {
                let names = self.on(ino, |place| place.volume.xattr_list(place.ino))?;
                body.xattr(&joined(&names), size)
            }
            Operation::RemoveXattr { name } => self.outcome(self.volume.xattr_remove(ino, name)),
            _ => Err(Errno::ENOSYS),
        }
    }

    fn look_up(&self, parent: u64, name: &[u8], body: &mut Body<'_>) -> Result<(), Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let keep = self.generations.keep(parent);
        match self.on(parent, |place| self.found(place, name))? {
            Some(found) => body.entry(&found, keep),
            None => body.absent(keep),
        }
    }

    fn read(&self, ino: u64, offset: u64, size: u32, body: &mut Body<'_>) -> Result<(), Errno> {
        if let Some(prefetch) = &self.prefetch {
            prefetch.read(ino);
        }
        let wanted = size.min(MAX_REQUEST) as usize;
        self.on(ino, |place| {
            body.fill(wanted, |room| {
                let count = place.volume.read(place.ino, offset, room)?;
                self.counters.note_read(count);
                Ok(count)
            })
        })
    }

    fn open_dir(&self, ino: u64, body: &mut Body<'_>) -> Result<(), Errno> {
        match self.listing(ino) {
            Some(kept) => body.opened(0, kept),
            None => Err(Errno::ENOSYS), // FUSE_NO_OPENDIR_SUPPORT: read by cookie, cached by the kernel
        }
    }

    fn forget(&self, ino: u64, times: u64) {
        self.removed.forget(&self.volume, ino);
        self.generations.forgotten(ino, times);
        if let Some(prefetch) = &self.prefetch {
            prefetch.forgotten(ino);
        }
    }

    /// The mount ends.
    pub(crate) fn end(&self) {
        self.removed.release_all(&self.volume);
    }
}
