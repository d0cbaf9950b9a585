//! A volume as a stream of members: ustar headers, pax records for what does not fit into them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use tar::{EntryType, Header};
use volume::{Attr, FileType, Ino, ROOT_INO, Seek, Volume, VolumeError};

use super::pax;
use super::sparse::Part;
use super::{BLOCK, BLOCK_U64};
use crate::error::PackError;
use crate::progress::{Meter, Tally};
use crate::tree::paths;

const BUFFER: usize = 1 << 20;
/// Longest name or target, and largest numbers, of an ustar header: 7 and 11 octal digits.
const NAME_MAX: usize = 100;
const ID_MAX: u32 = 0o7_777_777;
const NUMBER_MAX: u64 = 0o77_777_777_777;

/// What is in a volume, seen whole before the first byte is written.
pub(super) struct Tree {
    root: Attr,
    paths: BTreeMap<Vec<u8>, Attr>,
}

impl Tree {
    pub fn read(volume: &Volume) -> Result<Self, PackError> {
        let paths = paths(volume)?;
        for (path, attr) in &paths {
            let what = match attr.kind {
                FileType::Socket => "a socket",
                FileType::CharDevice | FileType::BlockDevice => "a device",
                _ => continue,
            };
            return Err(PackError::usage(
                format!(
                    "the volume holds {what}, /{}, which is not put into a stream",
                    String::from_utf8_lossy(path)
                ),
                "remove it through a mount first",
            ));
        }
        let root = volume
            .attr(ROOT_INO)
            .map_err(|error| PackError::volume(b"", error))?;
        Ok(Self { root, paths })
    }
}

/// Writes all members and the end of the stream.
pub(super) fn emit(
    volume: &Volume,
    tree: &Tree,
    out: &mut impl Write,
    named: &Path,
    meter: &Meter,
) -> Result<Tally, PackError> {
    let mut emitting = Emitting {
        volume,
        out,
        named,
        meter,
        first_names: HashMap::new(),
        tally: Tally::default(),
        buffer: vec![0; BUFFER],
    };
    emitting.member(b".", &tree.root)?;
    emitting.tally.directories = 0;
    for (path, attr) in &tree.paths {
        if meter.stopped() {
            return Err(PackError::Cancelled);
        }
        emitting.member(path, attr)?;
    }
    emitting.write(&[0; 2 * BLOCK])?;
    Ok(Tally {
        bytes: meter.bytes(),
        ..emitting.tally
    })
}

struct Emitting<'a, W> {
    volume: &'a Volume,
    out: &'a mut W,
    named: &'a Path,
    meter: &'a Meter,
    first_names: HashMap<Ino, Vec<u8>>,
    tally: Tally,
    buffer: Vec<u8>,
}

impl<W: Write> Emitting<'_, W> {
    fn member(&mut self, path: &[u8], attr: &Attr) -> Result<(), PackError> {
        let failed = |error| PackError::volume(path, error);
        if attr.kind != FileType::Dir && attr.nlink > 1 {
            if let Some(first) = self.first_names.get(&attr.ino).cloned() {
                self.tally.hard_links += 1;
                return self.header(path, attr, EntryType::Link, &first, 0, Vec::new());
            }
            self.first_names.insert(attr.ino, path.to_vec());
        }
        let mut records = Vec::new();
        for name in self.volume.xattr_list(attr.ino).map_err(failed)? {
            if name.starts_with(b"user.") {
                let value = self.volume.xattr_get(attr.ino, &name).map_err(failed)?;
                let key = [b"SCHILY.xattr.".as_slice(), &name].concat();
                pax::push(&mut records, &key, &value);
            }
        }
        match attr.kind {
            FileType::Dir => {
                self.tally.directories += 1;
                let path = [path, b"/"].concat();
                self.header(&path, attr, EntryType::Directory, b"", 0, records)
            }
            FileType::Symlink => {
                self.tally.symlinks += 1;
                let target = self.volume.read_link(attr.ino).map_err(failed)?;
                self.header(path, attr, EntryType::Symlink, &target, 0, records)
            }
            FileType::File => {
                self.tally.files += 1;
                self.meter.add_file();
                self.file(path, attr, records)
            }
            _ => {
                self.tally.specials += 1;
                self.header(path, attr, EntryType::Fifo, b"", 0, records)
            }
        }
    }

    fn file(&mut self, path: &[u8], attr: &Attr, mut records: Vec<u8>) -> Result<(), PackError> {
        let parts = self
            .parts(attr)
            .map_err(|error| PackError::volume(path, error))?;
        let data: u64 = parts.iter().map(|part| part.length).sum();
        if data == attr.size {
            self.header(path, attr, EntryType::Regular, b"", data, records)?;
        } else {
            let size = attr.size.to_string();
            for (key, value) in [("major", "1"), ("minor", "0"), ("realsize", &size)] {
                let key = format!("GNU.sparse.{key}");
                pax::push(&mut records, key.as_bytes(), value.as_bytes());
            }
            pax::push(&mut records, b"GNU.sparse.name", path);
            let map = sparse_map(&parts, attr.size);
            let stored = map.len() as u64 + data;
            self.header(path, attr, EntryType::Regular, b"", stored, records)?;
            self.write(&map)?;
        }
        for part in &parts {
            self.contents(path, attr.ino, *part)?;
        }
        self.pad(data)
    }

    /// Where the file has data.
    fn parts(&self, attr: &Attr) -> Result<Vec<Part>, VolumeError> {
        let mut parts = Vec::new();
        let mut at = 0;
        while at < attr.size {
            let offset = match self.volume.seek(attr.ino, at, Seek::Data) {
                Ok(offset) => offset,
                Err(VolumeError::NoMore) => break,
                Err(error) => return Err(error),
            };
            at = self.volume.seek(attr.ino, offset, Seek::Hole)?;
            let length = at - offset;
            parts.push(Part { offset, length });
        }
        Ok(parts)
    }

    fn contents(&mut self, path: &[u8], ino: Ino, part: Part) -> Result<(), PackError> {
        let mut done = 0;
        while done < part.length {
            if self.meter.stopped() {
                return Err(PackError::Cancelled);
            }
            let most = usize::try_from(part.length - done)
                .unwrap_or(usize::MAX)
                .min(self.buffer.len());
            let window = self.buffer.get_mut(..most).unwrap_or_default();
            let got = self
                .volume
                .read(ino, part.offset + done, window)
                .map_err(|error| PackError::volume(path, error))?;
            if got == 0 {
                let error = VolumeError::Io("the file became shorter meanwhile".to_owned());
                return Err(PackError::volume(path, error));
            }
            let data = self.buffer.get(..got).unwrap_or_default();
            let written = self.out.write_all(data);
            written.map_err(|error| self.unwritable(&error))?;
            self.meter.add_bytes(got);
            done += got as u64;
        }
        Ok(())
    }

    /// Writes a header, and before it an extended one if anything does not fit.
    fn header(
        &mut self,
        path: &[u8],
        attr: &Attr,
        kind: EntryType,
        link: &[u8],
        size: u64,
        mut records: Vec<u8>,
    ) -> Result<(), PackError> {
        let seconds = attr.mtime.div_euclid(1_000_000_000);
        let whole = attr.mtime.rem_euclid(1_000_000_000) == 0;
        let mtime = u64::try_from(seconds).ok().filter(|_| whole);
        if mtime.is_none_or(|mtime| mtime > NUMBER_MAX) {
            let text = pax::time_text(attr.mtime);
            pax::push(&mut records, b"mtime", text.as_bytes());
        }
        if path.len() > NAME_MAX {
            pax::push(&mut records, b"path", path);
        }
        if link.len() > NAME_MAX {
            pax::push(&mut records, b"linkpath", link);
        }
        for (key, id) in [(b"uid", attr.uid), (b"gid", attr.gid)] {
            if id > ID_MAX {
                pax::push(&mut records, key, id.to_string().as_bytes());
            }
        }
        if size > NUMBER_MAX {
            pax::push(&mut records, b"size", size.to_string().as_bytes());
        }
        if !records.is_empty() {
            self.extended(&records)?;
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(attr.mode & 0o7777);
        header.set_uid(u64::from(attr.uid.min(ID_MAX)));
        header.set_gid(u64::from(attr.gid.min(ID_MAX)));
        header.set_size(size.min(NUMBER_MAX));
        header.set_mtime(u64::try_from(seconds).unwrap_or(0).min(NUMBER_MAX));
        if let Some(ustar) = header.as_ustar_mut() {
            copy(&mut ustar.name, path);
            copy(&mut ustar.linkname, link);
        }
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn extended(&mut self, records: &[u8]) -> Result<(), PackError> {
        let mut whole = Vec::new();
        if std::str::from_utf8(records).is_err() {
            pax::push(&mut whole, b"hdrcharset", b"BINARY");
        }
        whole.extend_from_slice(records);
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_size(whole.len() as u64);
        if let Some(ustar) = header.as_ustar_mut() {
            copy(&mut ustar.name, b"PaxHeaders/member");
        }
        header.set_cksum();
        self.write(header.as_bytes())?;
        self.write(&whole)?;
        self.pad(whole.len() as u64)
    }

    fn pad(&mut self, written: u64) -> Result<(), PackError> {
        let missing = written.next_multiple_of(BLOCK_U64) - written;
        let zeros = [0; BLOCK];
        let missing = usize::try_from(missing).unwrap_or(0);
        self.write(zeros.get(..missing).unwrap_or_default())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        let written = self.out.write_all(bytes);
        written.map_err(|error| self.unwritable(&error))
    }

    fn unwritable(&self, error: &io::Error) -> PackError {
        PackError::io("write", self.named, error)
    }
}

fn copy(field: &mut [u8], value: &[u8]) {
    field
        .iter_mut()
        .zip(value)
        .for_each(|(to, from)| *to = *from);
}

/// The map of sparse form 1.0: a decimal number a line, in whole blocks. An empty part at the end says where the file ends.
fn sparse_map(parts: &[Part], size: u64) -> Vec<u8> {
    let mut all = parts.to_vec();
    if all
        .last()
        .is_none_or(|last| last.offset + last.length < size)
    {
        all.push(Part {
            offset: size,
            length: 0,
        });
    }
    let mut map = format!("{}\n", all.len());
    for part in &all {
        let _ = writeln!(map, "{}\n{}", part.offset, part.length);
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}
