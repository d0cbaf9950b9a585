//! What differs between two states of a volume, or two volumes.

use std::collections::BTreeSet;

use volume::{Attr, FileType, Volume, VolumeError};

use crate::error::PackError;
use crate::tree::paths;

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Other contents, another target, or another kind of thing.
    Content,
    /// The same contents, but other mode, owner, time of change or extended attributes.
    Attributes,
    /// Contents of the same size that cannot be compared: not held any more, or damaged.
    Unreadable,
}

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// '/'-separated, from the root.
    pub path: Vec<u8>,
    /// How.
    pub difference: Difference,
}

/// The paths that differ, in order. Contents are read only where they do not lie at the same place.
///
/// # Errors
/// `Io` with the path when the store fails.
pub fn diff(old: &Volume, new: &Volume) -> Result<Vec<Change>, PackError> {
    let (before, after) = (paths(old)?, paths(new)?);
    let all: BTreeSet<&Vec<u8>> = before.keys().chain(after.keys()).collect();
    let mut changes = Vec::new();
    for path in all {
        let difference = match (before.get(path), after.get(path)) {
            (None, Some(_)) => Some(Difference::Added),
            (Some(_), None) => Some(Difference::Removed),
            (Some(one), Some(two)) => match compare(old, one, new, two) {
                Err(VolumeError::Integrity { .. }) => Some(Difference::Unreadable),
                other => other.map_err(|error| PackError::volume(path, error))?,
            },
            (None, None) => None,
        };
        changes.extend(difference.map(|difference| Change {
            path: path.clone(),
            difference,
        }));
    }
    Ok(changes)
}

fn compare(
    old: &Volume,
    one: &Attr,
    new: &Volume,
    two: &Attr,
) -> Result<Option<Difference>, VolumeError> {
    let same = one.kind == two.kind
        && match one.kind {
            FileType::File => old.same_content(one.ino, new, two.ino)?,
            FileType::Symlink => old.read_link(one.ino)? == new.read_link(two.ino)?,
            FileType::CharDevice | FileType::BlockDevice => one.device == two.device,
            FileType::Dir | FileType::Fifo | FileType::Socket => true,
        };
    if !same {
        return Ok(Some(Difference::Content));
    }
    // A directory's time changes with its names, which are listed themselves.
    let facts = |attr: &Attr| {
        let time = (attr.kind != FileType::Dir).then_some(attr.mtime);
        (attr.mode, attr.uid, attr.gid, time)
    };
    let same = facts(one) == facts(two) && xattrs(old, one)? == xattrs(new, two)?;
    Ok((!same).then_some(Difference::Attributes))
}

type Pairs = BTreeSet<(Vec<u8>, Vec<u8>)>;

fn xattrs(volume: &Volume, attr: &Attr) -> Result<Pairs, VolumeError> {
    let names = volume.xattr_list(attr.ino)?;
    let pair = |name: Vec<u8>| Ok((name.clone(), volume.xattr_get(attr.ino, &name)?));
    names.into_iter().map(pair).collect()
}
