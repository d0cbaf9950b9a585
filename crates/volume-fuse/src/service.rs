//! What the server does with the engine, without the kernel's signatures.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use fuser::{
    Errno, FileAttr, FopenFlags, INodeNo, InitFlags, KernelConfig, ReplyEmpty, ReplyEntry, Request,
};
use volume::{Attr, FileType, NodeKind, SetAttr, Volume, VolumeError};

use crate::convert::{FOREVER, GENERATION, absent, attr, errno};
use crate::device::MAX_REQUEST;
use crate::generations::{Generations, Place};
use crate::opens::Writers;
use crate::prefetch::Prefetch;
use crate::removed::Removed;
use crate::sparse::Ask;
use crate::stats::Counters;

const SUID: u32 = 0o4000;
const SGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// Serves one volume.
pub(crate) struct Server {
    /// The volume that requests to write go to: a mount that follows shows others for reading.
    pub(crate) volume: Arc<Volume>,
    pub(crate) generations: Arc<Generations>,
    pub(crate) read_only: bool,
    pub(crate) writeback: bool,
    /// Files without a name that the kernel still has.
    pub(crate) removed: Removed,
    /// Files of which the kernel may have pages that it did not write yet.
    pub(crate) writers: Writers,
    pub(crate) seeks: Option<Sender<Ask>>,
    block_size: u32,
    counters: Arc<Counters>,
    /// For read-only mounts: where nothing changes, content may be given at any time.
    pub(crate) prefetch: Option<Prefetch>,
}

impl Server {
    pub(crate) fn new(
        volume: Arc<Volume>,
        generations: Arc<Generations>,
        read_only: bool,
        writeback: bool,
        counters: Arc<Counters>,
        prefetch: Option<Prefetch>,
        seeks: Option<Sender<Ask>>,
    ) -> Self {
        let block_size = volume.statfs().map_or(4096, |numbers| numbers.block_size);
        Self {
            volume,
            generations,
            read_only,
            writeback,
            removed: Removed::default(),
            writers: Writers::new(writeback),
            seeks,
            block_size,
            counters,
            prefetch,
        }
    }

    /// Agrees with the kernel on how they talk.
    pub(crate) fn agree(&self, config: &mut KernelConfig) -> io::Result<()> {
        let flags = wanted(self.read_only, self.writeback) & config.capabilities();
        let refused = || io::Error::from_raw_os_error(Errno::EPROTO.code());
        config.add_capabilities(flags).map_err(|_| refused())?;
        config.set_max_write(MAX_REQUEST).map_err(|_| refused())?;
        let _ = config.set_max_background(64); // read-ahead stops at the congestion threshold
        let _ = config.set_congestion_threshold(64);
        Ok(())
    }

    /// The errno of a failure; one that accuses the store is counted, for the launcher's report.
    pub(crate) fn failure(&self, error: &VolumeError) -> Errno {
        if accuses_the_store(error) {
            self.counters.note_integrity(error.problem());
        }
        errno(error)
    }

    /// Reads where an inode lies. Of a state that another followed, the writer may have used the room again: ESTALE.
    pub(crate) fn on<T>(
        &self,
        ino: INodeNo,
        read: impl FnOnce(&Place) -> Result<T, VolumeError>,
    ) -> Result<T, Errno> {
        let place = self.generations.at(ino.0).ok_or(Errno::ESTALE)?;
        read(&place).map_err(|error| {
            if accuses_the_store(&error) && self.generations.is_replaced(&place) {
                self.counters.note_stale();
                return Errno::ESTALE;
            }
            self.failure(&error)
        })
    }

    /// Answers with a node that was made.
    pub(crate) fn entry(&self, outcome: Result<Attr, VolumeError>, reply: ReplyEntry) {
        match outcome {
            Ok(found) => {
                self.known(found.ino);
                reply.entry(&FOREVER, &self.shown(&found), GENERATION);
            }
            Err(error) => reply.error(self.failure(&error)),
        }
    }

    /// What is said of a name in the directory at `place`; also that there is none.
    pub(crate) fn found(&self, place: &Place, name: &OsStr) -> Result<FileAttr, VolumeError> {
        match place.volume.lookup(place.ino, name.as_bytes()) {
            Ok(found) => {
                let shown = self.placed_at(place, &found);
                self.generations.known(place);
                self.known(shown.ino.0);
                Ok(shown)
            }
            Err(VolumeError::NotFound) => Ok(absent()),
            Err(error) => Err(error),
        }
    }

    /// The attributes of the node at `place`.
    pub(crate) fn attributes(&self, place: &Place) -> Result<FileAttr, VolumeError> {
        let found = place.volume.attr(place.ino)?;
        Ok(self.placed_at(place, &found))
    }

    /// The attributes of a node, with the number that the kernel knows it by.
    pub(crate) fn placed_at(&self, place: &Place, found: &Attr) -> FileAttr {
        FileAttr {
            ino: INodeNo(place.number(found.ino)),
            ..self.shown(found)
        }
    }

    pub(crate) fn empty(&self, outcome: Result<(), VolumeError>, reply: ReplyEmpty) {
        match outcome {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.failure(&error)),
        }
    }

    pub(crate) fn durable(&self, ino: INodeNo, reply: ReplyEmpty) {
        let outcome = if self.read_only {
            Ok(())
        } else {
            self.volume.fsync(Some(ino.0))
        };
        self.empty(outcome, reply);
    }

    /// How the kernel may keep a listing; `None` where it may do without opening any directory.
    pub(crate) fn listing(&self, ino: INodeNo) -> Option<FopenFlags> {
        match *self.generations {
            Generations::Fixed(_) => None,
            Generations::Following(_) if self.generations.keep(ino.0).is_zero() => {
                Some(FopenFlags::empty())
            }
            Generations::Following(_) => {
                Some(FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE)
            }
        }
    }

    /// Notes that the kernel gets this inode.
    pub(crate) fn known(&self, ino: u64) {
        if let Some(prefetch) = &self.prefetch {
            prefetch.known(ino);
        }
    }

    pub(crate) fn shown(&self, found: &Attr) -> FileAttr {
        attr(found, self.block_size)
    }

    /// Changes attributes for `user`; 0 keeps the set-id bits when it truncates. A change of nothing
    /// is chown(-1, -1), or precedes a change of content.
    pub(crate) fn change(
        &self,
        user: u32,
        ino: INodeNo,
        change: &SetAttr,
    ) -> Result<Attr, VolumeError> {
        let chosen = change.uid.is_some() || change.gid.is_some();
        let owned = chosen || *change == SetAttr::default();
        if change.mode.is_none() && (owned || (change.size.is_some() && user != 0)) {
            self.drop_privilege_bits(ino, user != 0 && !chosen)?;
        }
        self.volume.set_attr(ino.0, change)
    }

    /// Reads into the first bytes of the buffer, which grows; returns how many.
    pub(crate) fn read_into(
        &self,
        place: &Place,
        offset: u64,
        wanted: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<usize, VolumeError> {
        if buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
        let out = buffer.get_mut(..wanted).unwrap_or_default();
        let count = place.volume.read(place.ino, offset, out)?;
        self.counters.note_read(count);
        Ok(count)
    }

    pub(crate) fn write_from(
        &self,
        ino: INodeNo,
        offset: u64,
        data: &[u8],
        kill: bool,
    ) -> Result<u32, VolumeError> {
        if kill {
            self.drop_privilege_bits(ino, true)?;
        }
        let count = self.volume.write(ino.0, offset, data)?;
        self.counters.note_write(count);
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// The set-user-id and set-group-id bits of a program do not survive a write by an unprivileged user, or a new owner.
    fn drop_privilege_bits(&self, ino: INodeNo, both: bool) -> Result<(), VolumeError> {
        let found = self.volume.attr(ino.0)?;
        let kept = unprivileged(found.kind, found.mode, both);
        if kept != found.mode {
            let change = SetAttr {
                mode: Some(kept),
                ..SetAttr::default()
            };
            self.volume.set_attr(ino.0, &change)?;
        }
        Ok(())
    }

    /// Mode, owner and group of a new node: in a set-group-id directory the group is inherited (`inode_init_owner`).
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

    pub(crate) fn make(
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

/// A mode without the bits that make a program run as another. Directories have none. Set-group-id without the group's
/// right to execute is none either, but falls with `both`, when who writes may not be in the group
/// (`setattr_should_drop_sgid`).
fn unprivileged(kind: FileType, mode: u32, both: bool) -> u32 {
    match kind {
        FileType::Dir => mode,
        _ if both || mode & GROUP_EXECUTE != 0 => mode & !(SUID | SGID),
        _ => mode & !SUID,
    }
}

fn accuses_the_store(error: &VolumeError) -> bool {
    matches!(
        error,
        VolumeError::Integrity { .. } | VolumeError::Rollback { .. } | VolumeError::Format { .. }
    )
}

/// What we ask of the kernel beside asynchronous reads and big requests, which fuser asks for itself. Where nothing
/// changes, every listing brings the attributes along: that spares a request for each file that is opened later.
pub(crate) fn wanted(read_only: bool, writeback: bool) -> InitFlags {
    let mut flags = InitFlags::FUSE_ATOMIC_O_TRUNC
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_EXPORT_SUPPORT // file handles: "." of an inode is asked for
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2 // else each write is preceded by a GETXATTR of security.capability
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_NO_OPEN_SUPPORT
        | InitFlags::FUSE_NO_OPENDIR_SUPPORT
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA; // never by mtime: nobody else writes
    if !read_only {
        flags |= InitFlags::FUSE_READDIRPLUS_AUTO;
    }
    if writeback {
        flags |= InitFlags::FUSE_WRITEBACK_CACHE;
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_are_dropped_from_programs_only() {
        assert_eq!(unprivileged(FileType::File, 0o6755, false), 0o755);
        assert_eq!(unprivileged(FileType::File, 0o6644, false), 0o2644);
        assert_eq!(unprivileged(FileType::File, 0o6644, true), 0o644);
        assert_eq!(unprivileged(FileType::Dir, 0o2775, true), 0o2775);
    }

    #[test]
    fn writeback_is_only_asked_for_when_it_was_chosen() {
        assert!(wanted(false, true).contains(InitFlags::FUSE_WRITEBACK_CACHE));
        assert!(!wanted(false, false).contains(InitFlags::FUSE_WRITEBACK_CACHE));
    }
}
