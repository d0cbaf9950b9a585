//! Listing directories.

use nix::errno::Errno;
use volume::VolumeError;

use crate::convert::kind_bits;
use crate::generations::Place;
use crate::reply::{Body, Listed, Shown};
use crate::service::Server;

/// Entries looked at for one answer: more than fit into 32 KiB, which is what readdir(3) asks for.
const LISTED: usize = 256;

impl Server {
    /// Fills an answer with the names after `cookie`.
    pub(crate) fn names(
        &self,
        ino: u64,
        cookie: u64,
        size: u32,
        body: &mut Body<'_>,
    ) -> Result<(), Errno> {
        self.on(ino, |place| {
            place.volume.read_dir(place.ino, cookie, &mut |entry| {
                let one = Listed {
                    ino: place.number(entry.ino),
                    cookie: entry.cookie,
                    kind_bits: kind_bits(entry.kind),
                    name: entry.name,
                };
                body.name(size, &one, None)
            })
        })
    }

    /// Fills an answer with the names after `cookie` and what stat(2) says of them.
    pub(crate) fn names_and_attributes(
        &self,
        ino: u64,
        cookie: u64,
        size: u32,
        body: &mut Body<'_>,
    ) -> Result<(), Errno> {
        let keep = self.generations.keep(ino);
        self.on(ino, |place| {
            self.list(place, cookie, &mut |cookie, name, found| {
                let one = Listed {
                    ino: found.ino,
                    cookie,
                    kind_bits: kind_bits(found.attr.kind),
                    name,
                };
                body.name(size, &one, Some((found, keep)))
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
        emit: &mut dyn FnMut(u64, &[u8], &Shown) -> bool,
    ) -> Result<(), VolumeError> {
        let mut names = Vec::new();
        place.volume.read_dir(place.ino, cookie, &mut |entry| {
            names.push((entry.cookie, entry.ino, entry.name.to_vec()));
            names.len() < LISTED
        })?;
        for (cookie, child, name) in names {
            match place.volume.attr(child) {
                Ok(found) if emit(cookie, &name, &self.placed_at(place, &found)) => {
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
