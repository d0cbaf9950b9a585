//! Listing directories.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{Errno, FileAttr, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use volume::VolumeError;

use crate::convert::{GENERATION, file_type};
use crate::generations::Place;
use crate::service::Server;

/// Entries looked at for one answer: more than fit into 32 KiB, which is what readdir(3) asks for.
const LISTED: usize = 256;

impl Server {
    /// Fills an answer with the names after `cookie`.
    pub(crate) fn names(
        &self,
        ino: INodeNo,
        cookie: u64,
        reply: &mut ReplyDirectory,
    ) -> Result<(), Errno> {
        self.on(ino, |place| {
            place.volume.read_dir(place.ino, cookie, &mut |entry| {
                let number = INodeNo(place.number(entry.ino));
                let name = OsStr::from_bytes(entry.name);
                !reply.add(number, entry.cookie, file_type(entry.kind), name)
            })
        })
    }

    /// Fills an answer with the names after `cookie` and what stat(2) says of them.
    pub(crate) fn names_and_attributes(
        &self,
        ino: INodeNo,
        cookie: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> Result<(), Errno> {
        let keep = self.generations.keep(ino.0);
        self.on(ino, |place| {
            self.list(place, cookie, &mut |cookie, name, found| {
                let name = OsStr::from_bytes(name);
                !reply.add(found.ino, cookie, name, &keep, &found, GENERATION)
            })
        })
    }

    /// Calls `emit(cookie, name, attributes)` for the entries after `cookie` until it returns false; the kernel then has
    /// an inode of all that it took. At most `LISTED` at once; attributes are asked for when the directory's lock is
    /// free again.
    fn list(
        &self,
        place: &Place,
        cookie: u64,
        emit: &mut dyn FnMut(u64, &[u8], FileAttr) -> bool,
    ) -> Result<(), VolumeError> {
        let mut names = Vec::new();
        place.volume.read_dir(place.ino, cookie, &mut |entry| {
            names.push((entry.cookie, entry.ino, entry.name.to_vec()));
            names.len() < LISTED
        })?;
        for (cookie, child, name) in names {
            match place.volume.attr(child) {
                Ok(found) if emit(cookie, &name, self.placed_at(place, &found)) => {
                    if name != b"." && name != b".." {
                        self.generations.known(place);
                        self.known(place.number(child));
                    }
                }
                Ok(_) => break,
                Err(VolumeError::NotFound) => {} // removed meanwhile
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
