//! Why a volume could not be shown to the program, in words.

use std::io;
use std::path::Path;

use nix::errno::Errno;

use crate::generations::Unfollowed;

/// Mounting or unmounting failed. [`MountError::kind`] names the class in `securetf.errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountError {
    /// `/dev/fuse` is missing, or this process may not mount.
    FuseUnavailable {
        /// What was found and what was expected.
        problem: String,
        /// What the operator does next.
        fix: String,
    },
    /// The machine refuses something else that a mount needs.
    Unfit {
        /// What was found and what was expected.
        problem: String,
        /// What the operator does next.
        fix: String,
    },
    /// The mount point does not fit: missing, not a directory, not visible.
    MountPoint {
        /// What was found and what was expected.
        problem: String,
        /// What the operator does next.
        fix: String,
    },
}

impl MountError {
    /// The class of `securetf.errors` that this error becomes.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::FuseUnavailable { .. } => "FuseUnavailableError",
            Self::Unfit { .. } => "EnvironmentUnfitError",
            Self::MountPoint { .. } => "UsageError",
        }
    }

    /// What was found and what was expected.
    #[must_use]
    pub fn problem(&self) -> &str {
        match self {
            Self::FuseUnavailable { problem, .. }
            | Self::Unfit { problem, .. }
            | Self::MountPoint { problem, .. } => problem,
        }
    }

    /// What the operator does next.
    #[must_use]
    pub fn fix(&self) -> &str {
        match self {
            Self::FuseUnavailable { fix, .. }
            | Self::Unfit { fix, .. }
            | Self::MountPoint { fix, .. } => fix,
        }
    }

    pub(crate) fn unfollowed(why: &Unfollowed) -> Self {
        match why {
            Unfollowed::Fixed => Self::MountPoint {
                problem: "this mount shows one state of its volume".to_owned(),
                fix: "mount it read-only and following".to_owned(),
            },
            Unfollowed::NotNewer(shown) => Self::MountPoint {
                problem: format!("this state is not newer than the one shown, of sequence {shown}"),
                fix: "keep the one that is shown; a volume never goes back".to_owned(),
            },
            Unfollowed::Exhausted => Self::Unfit {
                problem: "this mount has followed its volume through all states it has numbers for"
                    .to_owned(),
                fix: "start the program anew".to_owned(),
            },
        }
    }

    pub(crate) fn no_proc(error: &io::Error) -> Self {
        Self::Unfit {
            problem: format!("/proc is not usable: {error}"),
            fix: "mount /proc in this environment".to_owned(),
        }
    }

    pub(crate) fn not_started(error: &io::Error) -> Self {
        Self::FuseUnavailable {
            problem: format!("the kernel did not start the FUSE connection: {error}"),
            fix: "check that the kernel is 5.4 or newer and see its log (dmesg)".to_owned(),
        }
    }

    pub(crate) fn aborted(path: &Path, why: &str) -> Self {
        Self::Unfit {
            problem: format!(
                "the mount at {} could not be served to the end: {why}; every request since then failed (ENOTCONN)",
                path.display()
            ),
            fix: "run the program again, and see the kernel's log (dmesg) for the reason"
                .to_owned(),
        }
    }

    pub(crate) fn unwritable() -> Self {
        Self::MountPoint {
            problem: "an authenticated volume cannot be mounted for writing".to_owned(),
            fix: "change its plain files and pack it again, or use an encrypted volume".to_owned(),
        }
    }

    pub(crate) fn unfit(what: &str, errno: Errno, fix: &str) -> Self {
        Self::Unfit {
            problem: format!("{what}: {}", errno.desc()),
            fix: fix.to_owned(),
        }
    }

    pub(crate) fn fuse(what: &str, errno: Errno, fix: &str) -> Self {
        Self::FuseUnavailable {
            problem: format!("{what}: {}", errno.desc()),
            fix: fix.to_owned(),
        }
    }
}

impl std::fmt::Display for MountError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}; {}", self.problem(), self.fix())
    }
}

impl std::error::Error for MountError {}
