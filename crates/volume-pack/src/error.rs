//! What can go wrong between a plain tree and a volume.

use std::io;
use std::path::Path;

use volume::VolumeError;

/// Packing, unpacking or reading failed; says where.
#[derive(Debug)]
pub enum PackError {
    /// The volume refused, at this path inside it.
    Volume {
        /// '/'-separated, from the root of the volume.
        path: String,
        /// What the volume said.
        error: VolumeError,
    },
    /// The arguments or the plain tree do not fit.
    Usage {
        /// What was found and expected.
        problem: String,
        /// What to do next.
        fix: String,
    },
    /// Reading or writing the plain tree failed.
    Io {
        /// What was found.
        problem: String,
        /// What to do next.
        fix: String,
        /// True when the disk of the plain tree is full.
        no_space: bool,
    },
    /// The caller asked to stop.
    Cancelled,
}

impl PackError {
    pub(crate) fn volume(path: &[u8], error: VolumeError) -> Self {
        Self::Volume {
            path: String::from_utf8_lossy(path).into_owned(),
            error,
        }
    }

    pub(crate) fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::Io {
            problem: format!("cannot {what} {}: {error}", path.display()),
            fix: "check that the path exists, its permissions and the free space".to_owned(),
            no_space: error.kind() == io::ErrorKind::StorageFull,
        }
    }

    pub(crate) fn usage(problem: String, fix: &str) -> Self {
        Self::Usage {
            problem,
            fix: fix.to_owned(),
        }
    }

    /// The class in `securetf.errors` that stands for this error.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Volume {
                error: VolumeError::NotFound | VolumeError::NotDirectory | VolumeError::IsDirectory,
                ..
            }
            | Self::Usage { .. } => "UsageError",
            Self::Volume { error, .. } => error.kind(),
            Self::Io { no_space: true, .. } => "NoSpaceError",
            Self::Io { .. } => "EnvironmentUnfitError",
            Self::Cancelled => "SecuretfError",
        }
    }

    /// What was found and expected.
    #[must_use]
    pub fn problem(&self) -> String {
        match self {
            Self::Volume { path, error } if path.is_empty() => error.problem(),
            Self::Volume { path, error } => format!("{path}: {}", error.problem()),
            Self::Usage { problem, .. } | Self::Io { problem, .. } => problem.clone(),
            Self::Cancelled => "stopped before it was finished".to_owned(),
        }
    }

    /// What to do next.
    #[must_use]
    pub fn fix(&self) -> String {
        match self {
            Self::Volume { error, .. } => error.fix(),
            Self::Usage { fix, .. } | Self::Io { fix, .. } => fix.clone(),
            Self::Cancelled => {
                "run the command again; `pack --update` and `unpack` go on from here".to_owned()
            }
        }
    }
}
