//! Where the ciphertext of volumes lies: a local directory.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use volume::{Anchor, Freshness, Grant, Volume, VolumeError};

/// Opens the volume in the directory `path` (made when missing and the grant is for writing).
///
/// # Errors
/// Those of [`Volume::open`], and `Io` when the directory cannot be used.
#[allow(clippy::todo)]
pub fn open_directory(
    path: &Path,
    anchor: Option<Arc<dyn Anchor>>,
    grant: Grant,
    freshness: Freshness,
) -> Result<Arc<Volume>, VolumeError> {
    let _ = (path, anchor, grant, freshness);
    todo!()
}
