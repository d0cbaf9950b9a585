//! Renaming.

use crate::api::Freshness;
use crate::error::VolumeError;
use crate::namespace::{change_links, check_name};
use crate::tree::Tree;
use crate::types::{Ino, ROOT_INO, RenameFlags};
use crate::volume::{Result, Volume};

impl Volume {
    /// Renames. Over an existing target, and with [`Freshness::Strict`] always, it waits as [`Volume::fsync`] does.
    ///
    /// # Errors
    /// `NotFound`, `Exists` (`NoReplace`), `NotDirectory`, `IsDirectory`, `NotEmpty`, `Invalid` for a directory into
    /// itself, `NameTooLong`, `ReadOnly`; those of [`Volume::fsync`] after the rename itself is done.
    pub fn rename(
        &self,
        from_parent: Ino,
        from: &[u8],
        to_parent: Ino,
        to: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        self.require_writable()?;
        check_name(to, self.protection)?;
        let replaced = {
            let mut tree = self.tree.write();
            let source = tree
                .dir(from_parent)?
                .get(from)
                .ok_or(VolumeError::NotFound)?;
            let target = tree.dir(to_parent)?.get(to);
            check_not_inside(&tree, source, to_parent)?;
            match (flags, target) {
                (RenameFlags::NoReplace, Some(_)) => return Err(VolumeError::Exists),
                (RenameFlags::Exchange, None) => return Err(VolumeError::NotFound),
                (RenameFlags::Exchange, Some(target)) => {
                    check_not_inside(&tree, target, from_parent)?;
                    self.place_name(&mut tree, from_parent, to_parent, to, source)?;
                    self.place_name(&mut tree, to_parent, from_parent, from, target)?;
                    true
                }
                (RenameFlags::Replace, Some(target)) if target == source => return Ok(()),
                (_, target) => {
                    if let Some(target) = target {
                        self.replace_target(&mut tree, source, to_parent, to, target)?;
                    }
                    let place = tree.dir(from_parent)?.cookie(from);
                    self.remove_name(&mut tree, from_parent, from)?;
                    self.place_name(&mut tree, from_parent, to_parent, to, source)?;
                    if let Some(place) = place.filter(|_| from_parent == to_parent) {
                        tree.dir_mut(to_parent)?.move_to(to, place);
                    }
                    target.is_some()
                }
            }
        };
        if replaced || self.options.freshness == Freshness::Strict {
            self.fsync(None)
        } else {
            Ok(())
        }
    }

    /// Puts a name to an inode that moves from one directory to another.
    fn place_name(
        &self,
        tree: &mut Tree,
        from_parent: Ino,
        to_parent: Ino,
        to: &[u8],
        ino: Ino,
    ) -> Result<()> {
        self.insert_name(tree, to_parent, to, ino)?;
        tree.node(ino)?.meta.lock().ctime = self.now();
        self.mark(ino);
        if let Some(dir) = tree.dirs.get_mut(&ino) {
            dir.parent = to_parent;
            if from_parent != to_parent {
                change_links(tree, from_parent, -1);
                change_links(tree, to_parent, 1);
            }
        }
        Ok(())
    }

    /// Takes away what a rename replaces.
    fn replace_target(
        &self,
        tree: &mut Tree,
        source: Ino,
        parent: Ino,
        name: &[u8],
        target: Ino,
    ) -> Result<()> {
        match (tree.dirs.contains_key(&source), tree.dirs.get(&target)) {
            (true, None) => Err(VolumeError::NotDirectory),
            (false, Some(_)) => Err(VolumeError::IsDirectory),
            (true, Some(dir)) if !dir.is_empty() => Err(VolumeError::NotEmpty),
            (true, Some(_)) => {
                self.remove_name(tree, parent, name)?;
                self.drop_dir(tree, parent, target);
                Ok(())
            }
            (false, None) => {
                self.remove_name(tree, parent, name)?;
                self.unlink(tree, target)
            }
        }
    }
}

/// Refuses to move a directory into itself.
fn check_not_inside(tree: &Tree, ino: Ino, mut parent: Ino) -> Result<()> {
    while tree.dirs.contains_key(&ino) {
        if parent == ino {
            return Err(VolumeError::Invalid("a directory cannot move into itself"));
        }
        if parent == ROOT_INO {
            break;
        }
        parent = tree.dir(parent)?.parent;
    }
    Ok(())
}
