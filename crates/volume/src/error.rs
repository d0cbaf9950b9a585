//! What can go wrong: at the store, at the anchor, and in the volume itself.
//!
//! Each [`VolumeError`] says what was found (`problem`) and what to do next (`fix`), has the errno that a program
//! sees through the mount, and the name of the Python class (`securetf.errors`) that the binding raises.

use thiserror::Error;

/// Why the store could not do what was asked. Everything a store says is untrusted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StoreError {
    /// No such object.
    #[error("not found")]
    NotFound,
    /// The disk or quota is full.
    #[error("no space left on the store")]
    NoSpace,
    /// Another process holds the writer's lock.
    #[error("locked by another process")]
    Locked,
    /// Something that holds no bytes of its own stands at this path: a link, a directory, a device.
    #[error("{0} is not a regular file")]
    NotRegular(String),
    /// Any other failure, with the operation and the system's text.
    #[error("{0}")]
    Io(String),
}

/// Why the anchor (the CAS, or a local trust file) did not advance.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AnchorError {
    /// A newer epoch was given out: this writer must never write again.
    #[error("a newer writer holds this volume")]
    Fenced,
    /// The anchor is not at the `from` that was named.
    #[error("the anchor stands at another state")]
    Conflict,
    /// No answer; whether the advance happened is unknown.
    #[error("the anchor does not answer: {0}")]
    Unreachable(String),
    /// The anchor said no, for good.
    #[error("the anchor refused: {0}")]
    Refused(String),
}

/// What a caller of the volume gets to see.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum VolumeError {
    /// No such name or inode.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name exists already")]
    Exists,
    /// A directory was expected.
    #[error("not a directory")]
    NotDirectory,
    /// A file was expected.
    #[error("is a directory")]
    IsDirectory,
    /// The directory still has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// A name has more than 255 bytes or a symlink's target more than 4095.
    #[error("the name is too long")]
    NameTooLong,
    /// An argument outside of what the call allows.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// The volume is open for reading only.
    #[error("the volume is open for reading only")]
    ReadOnly,
    /// No such extended attribute.
    #[error("no such extended attribute")]
    NoData,
    /// No data (or hole) follows in the file.
    #[error("nothing follows before the end of the file")]
    NoMore,
    /// A file has the most hard links that it may have.
    #[error("too many hard links")]
    TooManyLinks,
    /// The extended attributes of one inode are above their limit together.
    #[error("no room for more extended attributes on this file: 64 KiB each, 256 KiB together")]
    AttributesFull,
    /// A file or a number above the format's limit.
    #[error("larger than the format allows")]
    TooBig,
    /// Another process has this volume directory open for writing.
    #[error("the volume directory is in use by another writer")]
    Busy,
    /// Not a volume of a version that this release reads.
    #[error("{problem}")]
    Format {
        /// What was found.
        problem: String,
        /// What to do.
        fix: String,
    },
    /// Bytes of the store are not those that this volume's writer wrote.
    #[error("{what}: {problem}")]
    Integrity {
        /// What is damaged: a file, a page, a record.
        what: String,
        /// How it shows.
        problem: String,
    },
    /// The store does not contain the state that is anchored.
    #[error("the anchor stands at sequence {anchored}, the store reaches only {found}: {detail}")]
    Rollback {
        /// The sequence that the CAS has.
        anchored: u64,
        /// The newest sequence that could be reached in the store (0: none).
        found: u64,
        /// What is missing.
        detail: String,
    },
    /// The key or its version does not fit this volume.
    #[error("{0}")]
    Key(String),
    /// The disk is full.
    #[error("no space left on the device that holds the volume")]
    NoSpace,
    /// The store failed.
    #[error("the store failed: {0}")]
    Io(String),
    /// The state is written but could not be anchored (yet).
    #[error("not anchored: {0}")]
    Anchor(AnchorError),
    /// A newer writer was let in; this one has stopped writing for good.
    #[error("this writer lost its lease: the CAS gave a newer epoch to another one")]
    LeaseLost,
}

impl VolumeError {
    /// The errno of Linux that a program sees.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound => 2,
            Self::Exists => 17,
            Self::NotDirectory => 20,
            Self::IsDirectory => 21,
            Self::NotEmpty => 39,
            Self::NameTooLong => 36,
            Self::Invalid(_) => 22,
            Self::ReadOnly => 30,
            Self::NoData => 61,
            Self::TooBig => 27,
            Self::NoMore => 6,
            Self::TooManyLinks => 31,
            Self::Busy => 16,
            Self::Format { .. } | Self::Rollback { .. } => 117,
            Self::Integrity { .. } => 74,
            Self::Key(_) => 126,
            Self::NoSpace | Self::AttributesFull => 28,
            Self::Io(_) | Self::Anchor(_) | Self::LeaseLost => 5,
        }
    }

    /// What was found and expected.
    #[must_use]
    pub fn problem(&self) -> String {
        self.to_string()
    }

    /// What the operator does next.
    #[must_use]
    pub fn fix(&self) -> String {
        let text = match self {
            Self::NotFound | Self::NotDirectory | Self::IsDirectory => "check the path",
            Self::Exists => "choose another name or remove the old one first",
            Self::NotEmpty => "remove the entries of the directory first",
            Self::NameTooLong => "use names of at most 255 bytes",
            Self::Invalid(_) | Self::NoData | Self::NoMore | Self::TooBig | Self::TooManyLinks => {
                "correct the call"
            }
            Self::AttributesFull => "remove attributes of the file, or keep the values in files",
            Self::ReadOnly => "open the volume with a grant for writing, or write elsewhere",
            Self::Busy => "end the other process that uses this volume directory",
            Self::Format { fix, .. } => fix,
            Self::Integrity { .. } => {
                "the storage changed the volume: keep the directory as evidence and restore this state's ciphertext \
                 from another copy"
            }
            Self::Rollback { .. } => {
                "the storage lost or hides newer state: restore the complete volume directory of the anchored \
                 sequence; going back to an older state on purpose needs the owner's explicit acceptance at the CAS"
            }
            Self::Key(_) => "use the grant that the CAS made for this volume",
            Self::NoSpace => {
                "free space on the device that holds the volume directory; committed state is intact"
            }
            Self::Io(_) => "look at the storage and the kernel log, then open the volume again",
            Self::Anchor(_) => {
                "restore the connection to the CAS; reads go on, and the next fsync tries again"
            }
            Self::LeaseLost => "end this program; the newer writer goes on with the volume",
        };
        text.to_owned()
    }

    /// The class in `securetf.errors` that stands for this error.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Format { .. } => "VolumeFormatError",
            Self::Integrity { .. } => "VolumeIntegrityError",
            Self::Rollback { .. } => "VolumeRollbackError",
            Self::Key(_) => "VolumeKeyError",
            Self::Busy => "VolumeBusyError",
            Self::NoSpace => "NoSpaceError",
            Self::Io(_) => "VolumeIoError",
            Self::Anchor(AnchorError::Unreachable(_)) => "CasUnreachableError",
            Self::LeaseLost | Self::Anchor(AnchorError::Fenced) => "FencedError",
            Self::Anchor(AnchorError::Conflict) => "ConflictError",
            Self::Anchor(AnchorError::Refused(_)) => "CasRefusedError",
            _ => "VolumeError",
        }
    }
}

impl From<StoreError> for VolumeError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound => Self::Io("an object of the volume is missing".to_owned()),
            StoreError::NoSpace => Self::NoSpace,
            StoreError::Locked => Self::Busy,
            other @ StoreError::NotRegular(_) => Self::Io(other.to_string()),
            StoreError::Io(text) => Self::Io(text),
        }
    }
}
