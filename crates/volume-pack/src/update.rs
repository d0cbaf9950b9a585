//! Packing into a volume that holds much of it already.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;

use volume::{Attr, FileType, Ino, ROOT_INO, Volume, VolumeError};

use crate::error::PackError;
use crate::pack::clear;
use crate::plan::{Leaf, Plan};
use crate::view::children;

/// Files whose contents stay, by index of the directory in the plan and name.
pub(crate) type Kept = HashMap<(usize, Vec<u8>), Ino>;

/// What the plan has under a name.
enum Wanted<'a> {
    Directory(usize),
    File(&'a Leaf),
}

/// Removes from the volume what the plan does not have, or has otherwise. Symbolic links and files with several names
/// are always made anew.
pub(crate) fn prune(volume: &Volume, plan: &Plan) -> Result<Kept, PackError> {
    let directories = plan.directories.iter().enumerate().skip(1);
    let mut wanted: HashMap<(usize, &[u8]), Wanted<'_>> = directories
        .map(|(index, one)| ((one.parent, one.name.as_slice()), Wanted::Directory(index)))
        .collect();
    let files = plan.files.iter();
    wanted.extend(files.map(|leaf| ((leaf.directory, leaf.name.as_slice()), Wanted::File(leaf))));
    let mut kept = Kept::new();
    let mut todo = vec![(0, ROOT_INO)];
    while let Some((index, directory)) = todo.pop() {
        for (name, ino) in children(volume, directory, b"")? {
            let failed = |error: VolumeError| PackError::volume(&name, error);
            let attr = volume.attr(ino).map_err(failed)?;
            match (wanted.get(&(index, name.as_slice())), attr.kind) {
                (Some(Wanted::Directory(below)), FileType::Dir) => todo.push((*below, ino)),
                (Some(Wanted::File(leaf)), FileType::File) if is_same(leaf, &attr) => {
                    kept.insert((index, name), ino);
                }
                (_, FileType::Dir) => {
                    clear(volume, ino)?;
                    volume.remove_dir(directory, &name).map_err(failed)?;
                }
                _ => volume.remove_file(directory, &name).map_err(failed)?,
            }
        }
    }
    Ok(kept)
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
