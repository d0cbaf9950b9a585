//! A volume as a plain tree in memory and back, where nothing can be mounted.

use std::collections::HashSet;
use std::path::Path;

use volume::{FileType, Volume};

use crate::error::PackError;
use crate::pack::fill;
use crate::progress::{Progress, Tally};
use crate::tree::paths;
use crate::unpack::{SET_ID, unpack_with};
use crate::update::Keep;

/// What the kernel keeps in memory for each name of a tmpfs, about: an inode and a directory entry.
const NAME_BYTES: u64 = 1024;

/// Bytes that [`lay_out`] takes in a memory file system.
///
/// # Errors
/// As the volume says.
pub fn memory_needed(volume: &Volume) -> Result<u64, PackError> {
    let mut counted = HashSet::new();
    let mut bytes = NAME_BYTES;
    for attr in paths(volume)?.into_values() {
        bytes += NAME_BYTES;
        if attr.kind == FileType::File && counted.insert(attr.ino) {
            bytes = bytes.saturating_add(attr.blocks.saturating_mul(512));
        }
    }
    Ok(bytes)
}

/// As [`crate::unpack`], but with set-user-id and set-group-id bits and devices: for a file system that is mounted `nosuid`
/// and `nodev`, where nobody's programs gain by them.
///
/// # Errors
/// As [`crate::unpack`]; where this process may not make the devices that the volume holds.
pub fn lay_out(volume: &Volume, target: &Path, progress: Progress<'_>) -> Result<Tally, PackError> {
    unpack_with(volume, target, 0o1777 | SET_ID, true, progress)
}

/// Makes the tree of `volume` that of `source`, which was laid out from it: one commit with all that differs, or none. What
/// is the same stays as it is, by contents: a tmpfs does not note the time of each change through a mapping. Attributes
/// of other name spaces than `user.` stay, too.
///
/// # Errors
/// As [`crate::pack`], which has no devices; the volume is then closed for writing and nothing was changed.
pub fn take_back(
    volume: &Volume,
    source: &Path,
    progress: Progress<'_>,
) -> Result<Tally, PackError> {
    volume
        .hold_commits()
        .map_err(|error| PackError::volume(b"", error))?;
    let outcome = fill(volume, source, Keep::SameContents, progress);
    if outcome.is_err() {
        volume.abandon();
    }
    outcome
}
