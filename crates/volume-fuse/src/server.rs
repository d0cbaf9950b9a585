//! The answers to the kernel's requests (linux/fuse.h), each by one call of the engine.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use volume::{Attr, NodeKind, SetAttr, Volume, VolumeError, XattrMode};

use crate::convert::{FOREVER, absent, attr, errno, file_type, set_time};
use crate::device::MAX_REQUEST;
use crate::stats::Counters;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const SUID_SGID: u32 = 0o6000;
const O_TRUNC: i32 = 0o1000;
const O_EXCL: i32 = 0o200;
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;
const GENERATION: Generation = Generation(0); // inode numbers are never used twice

/// Free space that statfs reports, in blocks of 4 KiB (1 PiB), and free inodes: the format's limits are far away,
/// and what the store has left is for the untrusted host to say.
const FREE_BLOCKS: u64 = 1 << 38;
const FREE_FILES: u64 = 1 << 32;

thread_local! {
    /// The plaintext of one read reply, kept by each server thread between requests.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Serves one volume. Read-only mounts need neither OPEN nor FLUSH, so the kernel does without.
pub(crate) struct Server {
    volume: Arc<Volume>,
    read_only: bool,
    writeback: bool,
    block_size: u32,
    counters: Arc<Counters>,
}

impl Server {
    pub(crate) fn new(
        volume: Arc<Volume>,
        read_only: bool,
        writeback: bool,
        counters: Arc<Counters>,
    ) -> Self {
        let block_size = volume.statfs().map_or(4096, |numbers| numbers.block_size);
        Self {
            volume,
            read_only,
            writeback,
            block_size,
            counters,
        }
    }

    /// The errno of a failure; one that accuses the store is counted, for the launcher's report.
    fn failure(&self, error: &VolumeError) -> Errno {
        if matches!(
            error,
            VolumeError::Integrity { .. }
                | VolumeError::Rollback { .. }
                | VolumeError::Format { .. }
        ) {
            self.counters.note_integrity(error.problem());
        }
        errno(error)
    }

    fn entry(&self, outcome: Result<Attr, VolumeError>, reply: ReplyEntry) {
        match outcome {
            Ok(found) => reply.entry(&FOREVER, &attr(&found, self.block_size), GENERATION),
            Err(error) => reply.error(self.failure(&error)),
        }
    }

    fn empty(&self, outcome: Result<(), VolumeError>, reply: ReplyEmpty) {
        match outcome {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.failure(&error)),
        }
    }

    fn durable(&self, ino: INodeNo, reply: ReplyEmpty) {
        let outcome = if self.read_only {
            Ok(())
        } else {
            self.volume.sync(Some(ino.0))
        };
        self.empty(outcome, reply);
    }

    /// The set-user-id and set-group-id bits do not survive a write by an unprivileged user.
    fn drop_privilege_bits(&self, ino: INodeNo) -> Result<(), VolumeError> {
        let mode = self.volume.attr(ino.0)?.mode;
        if mode & SUID_SGID != 0 {
            self.volume.set_attr(
                ino.0,
                &SetAttr {
                    mode: Some(mode & !SUID_SGID),
                    ..SetAttr::default()
                },
            )?;
        }
        Ok(())
    }

    fn open_existing(&self, ino: INodeNo, flags: OpenFlags) -> Result<(), VolumeError> {
        self.volume.open_file(ino.0)?;
        if flags.0 & O_TRUNC != 0 && flags.acc_mode() != OpenAccMode::O_RDONLY {
            let cut = SetAttr {
                size: Some(0),
                ..SetAttr::default()
            };
            if let Err(error) = self.volume.set_attr(ino.0, &cut) {
                self.volume.release(ino.0);
                return Err(error);
            }
        }
        Ok(())
    }

    fn create_or_open(
        &self,
        owner: (u32, u32),
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Result<Attr, VolumeError> {
        let node = self.volume.make_node(
            parent.0,
            name.as_bytes(),
            NodeKind::File,
            mode & 0o7777,
            owner.0,
            owner.1,
        );
        match node {
            Err(VolumeError::Exists) if flags & O_EXCL == 0 => {
                let found = self.volume.lookup(parent.0, name.as_bytes())?;
                self.open_existing(INodeNo(found.ino), OpenFlags(flags))?;
                self.volume.attr(found.ino)
            }
            Ok(node) => {
                self.volume.open_file(node.ino)?;
                Ok(node)
            }
            Err(error) => Err(error),
        }
    }

    /// Mode, owner and group of a new node: in a set-group-id directory the group is inherited (inode_init_owner).
    fn placed(
        &self,
        request: &Request,
        parent: INodeNo,
        mode: u32,
        directory: bool,
    ) -> Result<(u32, u32), VolumeError> {
        let above = self.volume.attr(parent.0)?;
        if above.mode & 0o2000 == 0 {
            return Ok((mode & 0o7777, request.gid()));
        }
        Ok((
            (mode & 0o7777) | if directory { 0o2000 } else { 0 },
            above.gid,
        ))
    }

    fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        kind: NodeKind<'_>,
        mode: u32,
    ) -> Result<Attr, VolumeError> {
        let (mode, gid) = self.placed(request, parent, mode, kind == NodeKind::Dir)?;
        self.volume
            .make_node(parent.0, name.as_bytes(), kind, mode, request.uid(), gid)
    }
}

/// What we ask of the kernel beside asynchronous reads and big requests, which fuser asks for itself.
fn wanted(writeback: bool) -> InitFlags {
    let mut flags = InitFlags::FUSE_ATOMIC_O_TRUNC
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2 // else each write is preceded by a GETXATTR of security.capability
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_NO_OPEN_SUPPORT
        | InitFlags::FUSE_NO_OPENDIR_SUPPORT
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA; // never by mtime: nobody else writes
    if writeback {
        flags |= InitFlags::FUSE_WRITEBACK_CACHE;
    }
    flags
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let flags = wanted(self.writeback) & config.capabilities();
        let refused = |_| io::Error::from_raw_os_error(Errno::EPROTO.code());
        config.add_capabilities(flags).map_err(refused)?;
        config
            .set_max_write(MAX_REQUEST)
            .map_err(|_| io::Error::from_raw_os_error(Errno::EPROTO.code()))?;
        let _ = config.set_max_background(64); // read-ahead stops at the congestion threshold
        let _ = config.set_congestion_threshold(64);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.volume.lookup(parent.0, name.as_bytes()) {
            Err(VolumeError::NotFound) => reply.entry(&FOREVER, &absent(), GENERATION),
            outcome => self.entry(outcome, reply),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.volume.attr(ino.0) {
            Ok(found) => reply.attr(&FOREVER, &attr(&found, self.block_size)),
            Err(error) => reply.error(self.failure(&error)),
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
        let killed = mode.is_none()
            && (uid.is_some() || gid.is_some() || (size.is_some() && request.uid() != 0));
        let outcome = if killed {
            self.drop_privilege_bits(ino)
        } else {
            Ok(())
        };
        match outcome.and_then(|()| self.volume.set_attr(ino.0, &change)) {
            Ok(found) => reply.attr(&FOREVER, &attr(&found, self.block_size)),
            Err(error) => reply.error(self.failure(&error)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.volume.read_link(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(self.failure(&error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        if mode & S_IFMT != S_IFREG {
            return reply.error(Errno::EPERM); // no sockets, FIFOs and devices in format 1
        }
        self.entry(
            self.make(request, parent, name, NodeKind::File, mode),
            reply,
        );
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
        self.empty(self.volume.remove_file(parent.0, name.as_bytes()), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(self.volume.remove_dir(parent.0, name.as_bytes()), reply);
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
        let how = match flags {
            _ if flags.is_empty() => volume::RenameFlags::Replace,
            RenameFlags::RENAME_NOREPLACE => volume::RenameFlags::NoReplace,
            RenameFlags::RENAME_EXCHANGE => volume::RenameFlags::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        let outcome = self.volume.rename(
            parent.0,
            name.as_bytes(),
            new_parent.0,
            new_name.as_bytes(),
            how,
        );
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

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.read_only {
            return reply.error(Errno::ENOSYS); // FUSE_NO_OPEN_SUPPORT: the kernel never asks again, and keeps its cache
        }
        match self.open_existing(ino, flags) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(self.failure(&error)),
        }
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
        let node = self
            .placed(request, parent, mode, false)
            .and_then(|(mode, gid)| {
                self.create_or_open((request.uid(), gid), parent, name, mode, flags)
            });
        match node {
            Ok(node) => {
                let found = attr(&node, self.block_size);
                reply.created(
                    &FOREVER,
                    &found,
                    GENERATION,
                    FileHandle(0),
                    FopenFlags::FOPEN_KEEP_CACHE,
                );
            }
            Err(error) => reply.error(self.failure(&error)),
        }
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
        let wanted = size.min(MAX_REQUEST) as usize;
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < wanted {
                buffer.resize(wanted, 0);
            }
            let Some(window) = buffer.get_mut(..wanted) else {
                return reply.error(Errno::EIO);
            };
            match self.volume.read(ino.0, offset, window) {
                Ok(count) => {
                    self.counters.note_read(count);
                    reply.data(window.get(..count).unwrap_or_default());
                }
                Err(error) => reply.error(self.failure(&error)),
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
        let killed = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let outcome = if killed {
            self.drop_privilege_bits(ino)
        } else {
            Ok(())
        };
        match outcome.and_then(|()| self.volume.write(ino.0, offset, data)) {
            Ok(count) => {
                self.counters.note_write(count);
                reply.written(u32::try_from(count).unwrap_or(u32::MAX));
            }
            Err(error) => reply.error(self.failure(&error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS); // close(2) has nothing to wait for; the kernel never asks again
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
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

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS); // FUSE_NO_OPENDIR_SUPPORT: directories are read by cookie and cached by the kernel
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let outcome = self.volume.read_dir(ino.0, offset, &mut |entry| {
            !reply.add(
                INodeNo(entry.ino),
                entry.cookie,
                file_type(entry.kind),
                OsStr::from_bytes(entry.name),
            )
        });
        match outcome {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.failure(&error)),
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
        let mut names = Vec::new(); // attributes are asked for after the directory's lock is free again
        let outcome = self.volume.read_dir(ino.0, offset, &mut |entry| {
            names.push((entry.cookie, entry.ino, entry.name.to_vec()));
            names.len() < 128
        });
        if let Err(error) = outcome {
            return reply.error(self.failure(&error));
        }
        for (cookie, child, name) in names {
            let found = match self.volume.attr(child) {
                Ok(found) => attr(&found, self.block_size),
                Err(VolumeError::NotFound) => continue, // removed meanwhile
                Err(error) => return reply.error(self.failure(&error)),
            };
            if reply.add(
                INodeNo(child),
                cookie,
                OsStr::from_bytes(&name),
                &FOREVER,
                &found,
                GENERATION,
            ) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.volume.statfs() {
            Ok(numbers) => {
                let block = 4096;
                let used = numbers.bytes.div_ceil(u64::from(block));
                let free = FREE_BLOCKS; // the store's real limit shows as ENOSPC
                reply.statfs(
                    used + free,
                    free,
                    free,
                    numbers.files + FREE_FILES,
                    FREE_FILES,
                    block,
                    numbers.name_max,
                    block,
                );
            }
            Err(error) => reply.error(self.failure(&error)),
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
        let mode = match flags {
            0 => XattrMode::Set,
            XATTR_CREATE => XattrMode::Create,
            XATTR_REPLACE => XattrMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        self.empty(
            self.volume.xattr_set(ino.0, name.as_bytes(), value, mode),
            reply,
        );
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.volume.xattr_get(ino.0, name.as_bytes()) {
            Ok(value) => xattr_reply(&value, size, reply),
            Err(error) => reply.error(self.failure(&error)),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.volume.xattr_list(ino.0) {
            Ok(names) => {
                let mut list = Vec::new();
                for name in names {
                    list.extend_from_slice(&name);
                    list.push(0);
                }
                xattr_reply(&list, size, reply);
            }
            Err(error) => reply.error(self.failure(&error)),
        }
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(self.volume.xattr_remove(ino.0, name.as_bytes()), reply);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _cmd: u32,
        _: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}

/// Asked with size 0 for the length, else for the bytes (fuse_getxattr_in).
fn xattr_reply(value: &[u8], size: u32, reply: ReplyXattr) {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    match size {
        0 => reply.size(length),
        _ if size < length => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

#[cfg(test)]
mod tests {
    use volume::SetTime;

    use super::*;

    #[test]
    fn writeback_is_only_asked_for_when_the_volume_is_writable() {
        assert!(wanted(true).contains(InitFlags::FUSE_WRITEBACK_CACHE));
        assert!(!wanted(false).contains(InitFlags::FUSE_WRITEBACK_CACHE));
    }

    #[test]
    fn now_stays_now_because_the_engine_has_the_clock() {
        assert_eq!(set_time(TimeOrNow::Now), SetTime::Now);
    }
}
