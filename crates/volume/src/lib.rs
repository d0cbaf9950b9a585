//! Volume format v1 and its engine: no I/O, no unsafe.
//!
//! A volume is a directory tree whose ciphertext lies on untrusted storage (`docs/formats/volume-v1.md`). The engine
//! reaches storage, the anchor, the clock and randomness only through [`Store`], [`Anchor`] and [`Environment`].
#![forbid(unsafe_code)]

mod anchoring;
mod api;
mod capture;
mod chain;
mod check;
mod chunkmap;
mod codec;
mod commit;
mod compact;
mod content;
mod dir;
mod error;
mod fits;
mod flush;
mod history;
mod holes;
mod hot;
mod inode;
mod leases;
mod leftovers;
mod mount;
mod namespace;
mod nodes;
mod ops;
mod plain;
mod read;
mod record;
mod rekey;
mod rename;
mod rounds;
mod salvage;
mod seal;
mod sealer;
mod segment;
mod snapshot;
mod superblock;
mod tree;
mod types;
mod volume;
mod write;
mod xattr;

pub use api::{Anchor, Environment, Freshness, Grant, Options, Position, Store, VolumeKey};
pub use error::{AnchorError, StoreError, VolumeError};
pub use salvage::Salvaged;
pub use types::{
    Attr, Commit, Compacted, DirEntry, FileType, Finding, Ino, NAME_MAX, NodeKind, Protection,
    ROOT_INO, Rekeyed, RenameFlags, Seek, SetAttr, SetTime, StatFs, Status, TARGET_MAX,
    XATTR_TOTAL_MAX, XATTR_VALUE_MAX, XattrMode,
};
pub use volume::Volume;
