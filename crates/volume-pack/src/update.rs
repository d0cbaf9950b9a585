//! Packing into a volume that holds much of it already.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use volume::{Attr, FileType, Ino, ROOT_INO, Volume, VolumeError};

use crate::error::PackError;
use crate::pack::clear;
use crate::plan::{Leaf, Plan};
use crate::view::children;

/// What of the older contents stays.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    /// Files of the same size and time of change.
    SameTime,
    /// What is the same byte by byte.
    SameContents,
}

/// Inodes that stay, by index of the directory in the plan and name.
pub(crate) type Kept = HashMap<(usize, Vec<u8>), Ino>;

/// What the plan has under a name.
enum Wanted<'a> {
    Directory(usize),
    Leaf(&'a Leaf),
}

/// By index of the directory in the plan, and name.
type Names<'a> = HashMap<usize, HashMap<&'a [u8], Wanted<'a>>>;

fn wanted<'a>(plan: &'a Plan, leaves: impl Iterator<Item = &'a Leaf>) -> Names<'a> {
    let mut wanted = Names::new();
    let mut put = |directory, name, what| {
        wanted.entry(directory).or_default().insert(name, what);
    };
    for (index, one) in plan.directories.iter().enumerate().skip(1) {
        put(one.parent, one.name.as_slice(), Wanted::Directory(index));
    }
    for leaf in leaves {
        put(leaf.directory, leaf.name.as_slice(), Wanted::Leaf(leaf));
    }
    wanted
}

/// Removes from the volume what the plan does not have, or has otherwise. Symbolic links and files with several names
/// are always made anew.
pub(crate) fn prune(volume: &Volume, plan: &Plan) -> Result<Kept, PackError> {
    let mut kept = Kept::new();
    let wanted = wanted(plan, plan.files.iter());
    walk(volume, &wanted, &mut |_, leaf, attr| {
        let same = attr.kind == FileType::File && is_same(leaf, attr);
        if same {
            kept.insert(leaf.key(), attr.ino);
        }
        Ok(same)
    })?;
    Ok(kept)
}

/// The same, but keeps each inode whose names and kind are those of the plan. Contents of files remain to be compared.
pub(crate) fn prune_to_compare(volume: &Volume, plan: &Plan) -> Result<Kept, PackError> {
    let leaves = || {
        let first = plan.files.iter().chain(&plan.symlinks);
        first.chain(&plan.specials).chain(&plan.links)
    };
    let mut there: HashMap<(usize, &[u8]), (Ino, Attr)> = HashMap::new();
    let wanted = wanted(plan, leaves());
    walk(volume, &wanted, &mut |directory, leaf, attr| {
        there.insert((leaf.directory, leaf.name.as_slice()), (directory, *attr));
        Ok(true)
    })?;
    let mut groups: HashMap<(u64, u64), Vec<&Leaf>> = HashMap::new();
    for leaf in leaves() {
        groups.entry(leaf.source()).or_default().push(leaf);
    }
    let mut kept = Kept::new();
    for group in groups.values() {
        let found = |leaf: &&Leaf| there.get(&(leaf.directory, leaf.name.as_slice())).copied();
        let older: Vec<_> = group.iter().filter_map(&found).collect();
        if let Some(ino) = is_same_node(volume, plan, group, &older)? {
            kept.extend(group.iter().map(|leaf| (leaf.key(), ino)));
            continue;
        }
        for leaf in group {
            if let Some((directory, _)) = found(leaf) {
                let removed = volume.remove_file(directory, &leaf.name);
                removed.map_err(|error| plan.failed(leaf, error))?;
            }
        }
    }
    Ok(kept)
}

/// Goes through the names of the volume and removes those that the plan does not have, has as something else than a
/// directory, or that `keeps` (directory, leaf of the plan, attributes) says no to.
fn walk<'a>(
    volume: &Volume,
    wanted: &Names<'a>,
    keeps: &mut dyn FnMut(Ino, &'a Leaf, &Attr) -> Result<bool, PackError>,
) -> Result<(), PackError> {
    let mut todo = vec![(0, ROOT_INO)];
    while let Some((index, directory)) = todo.pop() {
        for (name, ino) in children(volume, directory, b"")? {
            let failed = |error: VolumeError| PackError::volume(&name, error);
            let attr = volume.attr(ino).map_err(failed)?;
            let wanted = wanted
                .get(&index)
                .and_then(|here| here.get(name.as_slice()));
            match (wanted, attr.kind) {
                (Some(Wanted::Directory(below)), FileType::Dir) => todo.push((*below, ino)),
                (_, FileType::Dir) => {
                    clear(volume, ino)?;
                    volume.remove_dir(directory, &name).map_err(failed)?;
                }
                (Some(Wanted::Leaf(leaf)), _) if keeps(directory, leaf, &attr)? => {}
                _ => volume.remove_file(directory, &name).map_err(failed)?,
            }
        }
    }
    Ok(())
}

/// The inode that has exactly the names of `group`, which are those of one node of the source, and is of its kind.
fn is_same_node(
    volume: &Volume,
    plan: &Plan,
    group: &[&Leaf],
    older: &[(Ino, Attr)],
) -> Result<Option<Ino>, PackError> {
    let (Some((_, attr)), Some(leaf)) = (older.first(), group.first()) else {
        return Ok(None);
    };
    let one = older.iter().all(|(_, other)| other.ino == attr.ino);
    let names = u32::try_from(group.len()).unwrap_or(u32::MAX);
    if !one || older.len() != group.len() || attr.nlink != names {
        return Ok(None);
    }
    let kind = leaf.metadata.file_type();
    let same = match attr.kind {
        FileType::File => kind.is_file(),
        FileType::Fifo => kind.is_fifo(),
        FileType::Socket => kind.is_socket(),
        FileType::Symlink if kind.is_symlink() => {
            let path = plan.path(leaf);
            let target =
                fs::read_link(&path).map_err(|error| PackError::io("read", &path, &error))?;
            let older = volume.read_link(attr.ino);
            older.map_err(|error| plan.failed(leaf, error))? == target.as_os_str().as_bytes()
        }
        FileType::CharDevice => kind.is_char_device() && attr.device == leaf.device(),
        FileType::BlockDevice => kind.is_block_device() && attr.device == leaf.device(),
        FileType::Symlink | FileType::Dir => false,
    };
    Ok(same.then_some(attr.ino))
}

/// The time of change is set last, so a file whose packing was interrupted has another one.
fn is_same(leaf: &Leaf, attr: &Attr) -> bool {
    let metadata = &leaf.metadata;
    let changed = metadata
        .mtime()
        .saturating_mul(1_000_000_000)
        .saturating_add(metadata.mtime_nsec());
    metadata.nlink() == 1 && attr.nlink == 1 && metadata.len() == attr.size && changed == attr.mtime
}
