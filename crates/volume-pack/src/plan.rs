//! What is to be packed: the plain tree, read before anything is written.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use volume::{Attr, SetAttr, SetTime, VolumeError};

use crate::error::PackError;

/// What stands in the source, read before anything is written.
#[derive(Default)]
pub(crate) struct Plan {
    /// Parents before children; the first is the source itself.
    pub directories: Vec<Directory>,
    pub files: Vec<Leaf>,
    pub symlinks: Vec<Leaf>,
    /// FIFOs and sockets; devices where they are taken.
    pub specials: Vec<Leaf>,
    /// Further names of files and specials with several; the first name is among those.
    pub links: Vec<Leaf>,
}

pub(crate) struct Directory {
    pub path: PathBuf,
    pub parent: usize,
    pub name: Vec<u8>,
    pub metadata: Metadata,
}

pub(crate) struct Leaf {
    pub directory: usize,
    pub name: Vec<u8>,
    pub metadata: Metadata,
}

/// Reads the tree. `devices`: whether it may hold some.
pub(crate) fn scan(source: &Path, devices: bool) -> Result<Plan, PackError> {
    let metadata = fs::metadata(source).map_err(|error| PackError::io("read", source, &error))?;
    if !metadata.is_dir() {
        return Err(PackError::usage(
            format!("{} is not a directory", source.display()),
            "name a directory to pack",
        ));
    }
    let mut plan = Plan::default();
    plan.directories.push(Directory {
        path: source.to_owned(),
        parent: 0,
        name: Vec::new(),
        metadata,
    });
    let mut seen = HashSet::new();
    let mut index = 0;
    while let Some(path) = plan
        .directories
        .get(index)
        .map(|directory| directory.path.clone())
    {
        let failed = |error: io::Error| PackError::io("read", &path, &error);
        let mut entries: Vec<_> = fs::read_dir(&path)
            .map_err(failed)?
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let metadata = entry
                .metadata()
                .map_err(|error| PackError::io("read", &entry.path(), &error))?;
            let (kind, name) = (metadata.file_type(), entry.file_name().into_vec());
            if kind.is_dir() {
                plan.directories.push(Directory {
                    path: entry.path(),
                    parent: index,
                    name,
                    metadata,
                });
                continue;
            }
            let again = metadata.nlink() > 1 && !seen.insert((metadata.dev(), metadata.ino()));
            let leaf = Leaf {
                directory: index,
                name,
                metadata,
            };
            match () {
                () if kind.is_symlink() => plan.symlinks.push(leaf),
                () if !devices && (kind.is_block_device() || kind.is_char_device()) => {
                    return Err(PackError::usage(
                        format!(
                            "{} is a device, which is not packed",
                            entry.path().display()
                        ),
                        "remove it from the source, or pack a directory without it",
                    ));
                }
                () if again => plan.links.push(leaf),
                () if kind.is_file() => plan.files.push(leaf),
                () => plan.specials.push(leaf),
            }
        }
        index += 1;
    }
    Ok(plan)
}

impl Leaf {
    /// Index of the directory in the plan, and name.
    pub fn key(&self) -> (usize, Vec<u8>) {
        (self.directory, self.name.clone())
    }

    /// The device that this is, as a volume holds it.
    pub fn device(&self) -> u32 {
        u32::try_from(self.metadata.rdev()).unwrap_or_default() // Linux has 12 and 20 bits: they fit
    }

    /// Device and inode of the source: what its other names share with it.
    pub fn source(&self) -> (u64, u64) {
        (self.metadata.dev(), self.metadata.ino())
    }
}

impl Plan {
    pub fn path(&self, leaf: &Leaf) -> PathBuf {
        let directory = self
            .directories
            .get(leaf.directory)
            .map(|directory| directory.path.as_path());
        directory
            .unwrap_or(Path::new(""))
            .join(std::ffi::OsStr::from_bytes(&leaf.name))
    }

    pub fn failed(&self, leaf: &Leaf, error: VolumeError) -> PackError {
        PackError::volume(self.path(leaf).as_os_str().as_bytes(), error)
    }
}

pub(crate) fn attributes(metadata: &Metadata) -> SetAttr {
    let time = |seconds: i64, nanoseconds: i64| {
        SetTime::At(seconds.saturating_mul(1_000_000_000) + nanoseconds)
    };
    SetAttr {
        mode: Some(metadata.mode() & 0o7777),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
        size: None,
        atime: Some(time(metadata.atime(), metadata.atime_nsec())),
        mtime: Some(time(metadata.mtime(), metadata.mtime_nsec())),
    }
}

/// What of the source's attributes an inode has otherwise. A time of access alone, which each reader moves, is no difference.
pub(crate) fn differing(metadata: &Metadata, attr: &Attr) -> Option<SetAttr> {
    let wanted = attributes(metadata);
    let change = SetAttr {
        mode: wanted.mode.filter(|mode| *mode != attr.mode),
        uid: wanted.uid.filter(|uid| *uid != attr.uid),
        gid: wanted.gid.filter(|gid| *gid != attr.gid),
        mtime: wanted
            .mtime
            .filter(|mtime| *mtime != SetTime::At(attr.mtime)),
        ..SetAttr::default()
    };
    (change != SetAttr::default()).then_some(SetAttr {
        atime: wanted.atime,
        ..change
    })
}
