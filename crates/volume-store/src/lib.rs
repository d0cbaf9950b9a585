//! Where the ciphertext of volumes lies: a local directory. Nothing in it is trusted.
#![forbid(unsafe_code)]

mod directory;
mod environment;

use std::path::Path;
use std::sync::Arc;

use volume::{Anchor, Environment, Freshness, Grant, Salvaged, Store, Volume, VolumeError};

pub use directory::Directory;
pub use environment::SystemEnvironment;

/// Opens the volume in the directory `path` (made when missing and the grant is for writing).
///
/// # Errors
/// Those of [`Volume::open`], and `Io` when the directory cannot be used.
pub fn open_directory(
    path: &Path,
    anchor: Option<Arc<dyn Anchor>>,
    grant: Grant,
    freshness: Freshness,
) -> Result<Arc<Volume>, VolumeError> {
    let store = Directory::open(path, grant.writable)?;
    Volume::open(
        Arc::new(store),
        anchor,
        Arc::new(SystemEnvironment),
        grant,
        freshness,
    )
}

/// Opens what can be opened of the damaged volume in the directory `path`, for reading.
///
/// # Errors
/// Those of [`Volume::salvage`], and `Io` when the directory cannot be used.
pub fn salvage_directory(path: &Path, grant: &Grant) -> Result<Salvaged, VolumeError> {
    let store: Arc<dyn Store> = Arc::new(Directory::open(path, false)?);
    let environment: Arc<dyn Environment> = Arc::new(SystemEnvironment);
    Volume::salvage(&store, &environment, grant)
}
