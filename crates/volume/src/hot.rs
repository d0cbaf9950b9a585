//! Derived keys and opened chunks of the files in use: a table of fixed size, so that memory does not grow with the
//! files that were ever read.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::error::VolumeError;
use crate::inode::Node;
use crate::seal::{Key, KeySet};
use crate::types::Ino;

/// Files whose key and chunk are kept, at most one per number modulo this.
const SLOTS: usize = 64;

/// An opened chunk; its segment and counter tell whether it is still the current one.
pub struct CachedChunk {
    pub index: u64,
    pub segment: u32,
    pub counter: u64,
    pub plain: Vec<u8>,
}

/// What is kept of one file.
#[derive(Default)]
pub struct Slot {
    ino: Ino,
    /// Of one version of the volume's key.
    key: Option<(u32, Arc<Key>)>,
    /// The chunk last opened for a partial read.
    pub chunk: Option<Arc<CachedChunk>>,
}

/// The table.
pub struct Hot {
    slots: Vec<Mutex<Slot>>,
}

impl Hot {
    pub fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Mutex::default()).collect(),
        }
    }

    /// The slot of a file, empty when another file had it.
    pub fn slot(&self, ino: Ino) -> Option<MutexGuard<'_, Slot>> {
        let place = usize::try_from(ino % SLOTS as u64).ok()?;
        let mut slot = self.slots.get(place)?.lock();
        if slot.ino != ino {
            *slot = Slot {
                ino,
                ..Slot::default()
            };
        }
        Some(slot)
    }

    /// The file's key, derived unless it is at hand.
    pub fn key(&self, node: &Node, keys: &KeySet) -> Result<Arc<Key>, VolumeError> {
        let kept = self.slot(node.ino).and_then(|slot| slot.key.clone());
        if let Some((_, key)) = kept.filter(|(version, _)| *version == keys.version) {
            return Ok(key);
        }
        let key = Arc::new(keys.file(&node.file_id)?);
        if let Some(mut slot) = self.slot(node.ino) {
            slot.key = Some((keys.version, Arc::clone(&key)));
        }
        Ok(key)
    }

    /// Drops what is kept of a file that nobody has open.
    pub fn forget(&self, ino: Ino) {
        if let Some(mut slot) = self.slot(ino) {
            *slot = Slot::default();
        }
    }
}
