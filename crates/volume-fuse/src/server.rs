//! The answers to the kernel's requests (linux/fuse.h), each by one call of the engine.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, INodeNo, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use volume::{NAME_MAX, NodeKind, SetAttr, Volume};

use crate::convert::{
    FOREVER, GENERATION, joined, node_kind, rename_flags, set_time, space_reply, xattr_mode,
    xattr_reply,
};
use crate::device::MAX_REQUEST;
use crate::service::Server;

thread_local! {
    /// The plaintext of one read reply, kept by each server thread between requests.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// IOCTL is left to fuser's answer ENOSYS, of which the kernel makes ENOTTY.
impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.agree(config)
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name.len() > NAME_MAX {
            return reply.error(Errno::ENAMETOOLONG);
        }
        match self.on(parent, |place| self.found(place, name)) {
            Ok(found) => reply.entry(&self.generations.keep(parent.0), &found, GENERATION),
            Err(errno) => reply.error(errno),
        }
    }

    fn destroy(&mut self) {
        self.removed.release_all(&self.volume);
    }

    fn forget(&self, _: &Request, ino: INodeNo, times: u64) {
        self.removed.forget(&self.volume, ino.0);
        self.generations.forgotten(ino.0, times);
        if let Some(prefetch) = &self.prefetch {
            prefetch.forgotten(ino.0);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.on(ino, |place| self.attributes(place)) {
            Ok(found) => reply.attr(&self.generations.keep(ino.0), &found),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        };
        match self.change(request.uid(), ino, &change) {
            Ok(found) => reply.attr(&FOREVER, &self.shown(&found)),
            Err(error) => reply.error(self.failure(&error)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.on(ino, |place| place.volume.read_link(place.ino)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = node_kind(mode, rdev) else {
            return reply.error(Errno::EPERM);
        };
        self.entry(self.make(request, parent, name, kind, mode), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.entry(self.make(request, parent, name, NodeKind::Dir, mode), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, Volume::remove_file, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, Volume::remove_dir, reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let kind = NodeKind::Symlink(target.as_os_str().as_bytes());
        self.entry(self.make(request, parent, name, kind, 0o777), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(how) = rename_flags(flags) else {
            return reply.error(Errno::EINVAL);
        };
        let (from, to, above) = (name.as_bytes(), new_name.as_bytes(), new_parent.0);
        let rename = || self.volume.rename(parent.0, from, above, to, how);
        let outcome = self.removed.keep(&self.volume, above, new_name, rename);
        self.empty(outcome, reply);
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        self.entry(
            self.volume.link(ino.0, new_parent.0, new_name.as_bytes()),
            reply,
        );
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.open_for(request, ino, flags, reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let outcome = self.create_or_open(request, parent, name, mode, flags);
        self.created(outcome, OpenFlags(flags), reply);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Some(prefetch) = &self.prefetch {
            prefetch.read(ino.0);
        }
        let wanted = size.min(MAX_REQUEST) as usize;
        BUFFER.with_borrow_mut(|buffer| {
            match self.on(ino, |place| self.read_into(place, offset, wanted, buffer)) {
                Ok(count) => reply.data(buffer.get(..count).unwrap_or_default()),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.write_from(ino, offset, data, kill) {
            Ok(count) => reply.written(count),
            Err(error) => reply.error(self.failure(&error)),
        }
    }

    fn flush(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.closing(ino, handle, reply);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.writers.closed(ino.0, handle);
        self.volume.release(ino.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.durable(ino, reply);
    }

    fn fsyncdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.durable(ino, reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.listing(ino) {
            Some(kept) => reply.opened(FileHandle(0), kept),
            None => reply.error(Errno::ENOSYS), // FUSE_NO_OPENDIR_SUPPORT: read by cookie, cached by the kernel
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.names(ino, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        match self.names_and_attributes(ino, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        match self.reserve(ino, offset, length, mode) {
            Some(outcome) => self.empty(outcome, reply),
            None => reply.error(Errno::EOPNOTSUPP),
        }
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.find(ino, offset, whence, reply);
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.on(ino, |place| place.volume.statfs()) {
            Ok(numbers) => space_reply(&numbers, reply),
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match xattr_mode(name, flags) {
            Ok(mode) => mode,
            Err(errno) => return reply.error(errno),
        };
        self.empty(
            self.volume.xattr_set(ino.0, name.as_bytes(), value, mode),
            reply,
        );
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.on(ino, |place| {
            place.volume.xattr_get(place.ino, name.as_bytes())
        }) {
            Ok(value) => xattr_reply(&value, size, reply),
            Err(errno) => reply.error(errno),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.on(ino, |place| place.volume.xattr_list(place.ino)) {
            Ok(names) => xattr_reply(&joined(&names), size, reply),
            Err(errno) => reply.error(errno),
        }
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(self.volume.xattr_remove(ino.0, name.as_bytes()), reply);
    }
}
