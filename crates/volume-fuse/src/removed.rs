//! What has no name any more while the kernel still has it: a directory or FIFO that somebody holds open, a file that is
//! open by path alone. Such a node stays until the kernel forgets it, as if it were open.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use volume::{Volume, VolumeError};

use crate::service::Server;

/// Nodes that are held until the kernel forgets them.
#[derive(Default)]
pub(crate) struct Removed(Mutex<HashSet<u64>>);

impl Removed {
    /// Runs `work`, which may take the last name from what `name` stands for; then the kernel alone has it.
    pub(crate) fn keep(
        &self,
        volume: &Volume,
        parent: u64,
        name: &[u8],
        work: impl FnOnce() -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        let found = volume.lookup(parent, name).ok();
        let Some(ino) = found.map(|found| found.ino) else {
            return work();
        };
        let held = volume.open_file(ino).is_ok();
        let outcome = work();
        let nameless = volume.attr(ino).is_ok_and(|found| found.nlink == 0);
        if held && !(nameless && self.nodes().insert(ino)) {
            volume.release(ino);
        }
        outcome
    }

    /// The kernel has dropped this inode.
    pub(crate) fn forget(&self, volume: &Volume, ino: u64) {
        let held = self.nodes().remove(&ino);
        if held {
            volume.release(ino);
        }
    }

    /// The mount ends.
    pub(crate) fn release_all(&self, volume: &Volume) {
        for ino in std::mem::take(&mut *self.nodes()) {
            volume.release(ino);
        }
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Takes a name away by `work`, which gets directory and name.
    pub(crate) fn remove(
        &self,
        parent: u64,
        name: &[u8],
        work: impl FnOnce(&Volume, u64, &[u8]) -> Result<(), VolumeError>,
    ) -> Result<(), Errno> {
        let remove = || work(&self.volume, parent, name);
        self.outcome(self.removed.keep(&self.volume, parent, name, remove))
    }
}
