//! What the server does with the engine, without the kernel's signatures.

use std::sync::Arc;

use nix::errno::Errno;
use volume::{Attr, FileType, NodeKind, SetAttr, Volume, VolumeError};

use crate::convert::{FOREVER, errno};
use crate::crew::Crew;
use crate::generations::{Generations, Place};
use crate::message::Head;
use crate::opens::Writers;
use crate::prefetch::Prefetch;
use crate::removed::Removed;
use crate::reply::{Body, FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE, Shown};
use crate::sparse::Seeks;
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
    /// Files without a name that the kernel still has.
    pub(crate) removed: Removed,
    /// Files of which the kernel may have pages that it did not write yet.
    pub(crate) writers: Writers,
    pub(crate) seeks: Option<Seeks>,
    block_size: u32,
    pub(crate) counters: Arc<Counters>,
    /// For read-only mounts: where nothing changes, content may be given at any time.
    pub(crate) prefetch: Option<Prefetch>,
    pub(crate) crew: Crew,
}

impl Server {
    pub(crate) fn new(
        volume: Arc<Volume>,
        generations: Arc<Generations>,
        read_only: bool,
        writeback: bool,
        counters: Arc<Counters>,
        prefetch: Option<Prefetch>,
        seeks: Option<Seeks>,
    ) -> Self {
        let block_size = volume.statfs().map_or(4096, |numbers| numbers.block_size);
        Self {
            volume,
            generations,
            read_only,
            removed: Removed::default(),
            writers: Writers::new(writeback),
            seeks,
            block_size,
            counters,
            prefetch,
            crew: Crew::default(),
        }
    }

    /// The errno of a failure; one that accuses the store is counted, for the launcher's report.
    pub(crate) fn failure(&self, error: &VolumeError) -> Errno {
        if accuses_the_store(error) {
            self.counters.note_integrity(error.problem());
        }
        if *error == VolumeError::NoSpace {
            self.volume.end_leases(); // for the program's next try
        }
        errno(error)
    }

    /// Reads where an inode lies. Of a state that another followed, the writer may have used the room again: ESTALE.
    pub(crate) fn on<T>(
        &self,
        ino: u64,
        read: impl FnOnce(&Place) -> Result<T, VolumeError>,
    ) -> Result<T, Errno> {
        let place = self.generations.at(ino).ok_or(Errno::ESTALE)?;
        read(&place).map_err(|error| {
            if accuses_the_store(&error) && self.generations.is_replaced(&place) {
                self.counters.note_stale();
                return Errno::ESTALE;
            }
            self.failure(&error)
        })
    }

    /// The errno of what failed on the volume that is written.
    pub(crate) fn outcome<T>(&self, outcome: Result<T, VolumeError>) -> Result<T, Errno> {
        outcome.map_err(|error| self.failure(&error))
    }

    /// Answers with a node that was made.
    pub(crate) fn entry(
        &self,
        outcome: Result<Attr, VolumeError>,
        body: &mut Body<'_>,
    ) -> Result<(), Errno> {
        let found = self.outcome(outcome)?;
        self.known(found.ino);
        body.entry(&self.shown(&found), FOREVER)
    }

    /// What is said of a name in the directory at `place`; `None` if there is none.
    pub(crate) fn found(&self, place: &Place, name: &[u8]) -> Result<Option<Shown>, VolumeError> {
        match place.volume.lookup(place.ino, name) {
            Ok(found) => {
                let shown = self.placed_at(place, &found);
                self.generations.known(place);
                self.known(shown.ino);
                Ok(Some(shown))
            }
            Err(VolumeError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The attributes of the node at `place`.
    pub(crate) fn attributes(&self, place: &Place) -> Result<Shown, VolumeError> {
        let found = place.volume.attr(place.ino)?;
        Ok(self.placed_at(place, &found))
    }

    /// The attributes of a node, with the number that the kernel knows it by.
    pub(crate) fn placed_at(&self, place: &Place, found: &Attr) -> Shown {
        Shown {
            ino: place.number(found.ino),
            ..self.shown(found)
        }
    }

    pub(crate) fn durable(&self, ino: u64) -> Result<(), Errno> {
        if self.read_only {
            return Ok(());
        }
        self.outcome(self.crew.beside(|| self.volume.fsync(Some(ino))))
    }

    /// How the kernel may keep a listing; `None` where it may do without opening any directory.
    pub(crate) fn listing(&self, ino: u64) -> Option<u32> {
        match *self.generations {
            Generations::Fixed(_) => None,
            Generations::Following(_) if self.generations.keep(ino).is_zero() => Some(0),
            Generations::Following(_) => Some(FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE),
        }
    }

    /// Notes that the kernel gets this inode.
    pub(crate) fn known(&self, ino: u64) {
        if let Some(prefetch) = &self.prefetch {
            prefetch.known(ino);
        }
    }

    pub(crate) fn shown(&self, found: &Attr) -> Shown {
        Shown {
            ino: found.ino,
            attr: *found,
            block_size: self.block_size,
        }
    }

    /// Changes attributes for the user who asks; user 0 keeps the set-id bits when it truncates. A change of nothing
    /// is chown(-1, -1), or precedes a change of content.
    pub(crate) fn change(
        &self,
        by: &Head,
        ino: u64,
        change: &SetAttr,
    ) -> Result<Attr, VolumeError> {
        let chosen = change.uid.is_some() || change.gid.is_some();
        let owned = chosen || *change == SetAttr::default();
        if change.mode.is_none() && (owned || (change.size.is_some() && by.uid != 0)) {
            let writer = (by.uid != 0 && !chosen).then_some(by.gid);
            self.drop_privilege_bits(ino, writer)?;
        }
        self.volume.set_attr(ino, change)
    }

    /// Writes, and seals in `data`; `kill` is the group of a user whose writing ends a program's privileges.
    pub(crate) fn write_from(
        &self,
        ino: u64,
        offset: u64,
        data: &mut [u8],
        kill: Option<u32>,
    ) -> Result<u32, VolumeError> {
        if kill.is_some() {
            self.drop_privilege_bits(ino, kill)?;
        }
        let count = self.volume.write_from(ino, offset, data)?;
        self.counters.note_write(count);
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// The set-user-id and set-group-id bits of a program do not survive a write by an unprivileged user (`writer`: its
    /// group), or a new owner.
    fn drop_privilege_bits(&self, ino: u64, writer: Option<u32>) -> Result<(), VolumeError> {
        let found = self.volume.attr(ino)?;
        let outside = writer.is_some_and(|group| group != found.gid);
        let kept = unprivileged(found.kind, found.mode, outside);
        if kept != found.mode {
            let change = SetAttr {
                mode: Some(kept),
                ..SetAttr::default()
            };
            self.volume.set_attr(ino, &change)?;
        }
        Ok(())
    }

    /// Mode and group of a new node: in a set-group-id directory the group is inherited (`inode_init_owner`).
    fn placed(&self, head: &Head, mode: u32, directory: bool) -> Result<(u32, u32), VolumeError> {
        let above = self.volume.attr(head.ino)?;
        if above.mode & SGID == 0 {
            return Ok((mode & 0o7777, head.gid));
        }
        let inherited = if directory { SGID } else { 0 };
        Ok(((mode & 0o7777) | inherited, above.gid))
    }

    /// Makes a node in the directory that the request names, for who asks.
    pub(crate) fn make(
        &self,
        head: &Head,
        name: &[u8],
        kind: NodeKind<'_>,
        mode: u32,
    ) -> Result<Attr, VolumeError> {
        let (mode, gid) = self.placed(head, mode, kind == NodeKind::Dir)?;
        self.volume
            .make_node(head.ino, name, kind, mode, head.uid, gid)
    }
}

/// A mode without the bits that make a program run as another. Directories have none. Set-group-id without the group's
/// right to execute is none either, but falls when who writes is `outside` of the group (`setattr_should_drop_sgid`; the kernel
/// tells the first of the writer's groups only).
fn unprivileged(kind: FileType, mode: u32, outside: bool) -> u32 {
    match kind {
        FileType::Dir => mode,
        _ if outside || mode & GROUP_EXECUTE != 0 => mode & !(SUID | SGID),
        _ => mode & !SUID,
    }
}

fn accuses_the_store(error: &VolumeError) -> bool {
    matches!(
        error,
        VolumeError::Integrity { .. } | VolumeError::Rollback { .. } | VolumeError::Format { .. }
    )
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
}
