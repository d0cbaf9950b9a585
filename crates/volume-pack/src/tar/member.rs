//! One member of a stream: what its header and the extended headers before it say together.

use tar::{EntryType, Header};
use volume::{SetAttr, SetTime};

use super::pax::{self, Record};
use super::sparse::{Described, Part, described};

/// Largest size of a file: sizes are signed.
const SIZE_MAX: u64 = i64::MAX.unsigned_abs();

/// What a member makes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink(Vec<u8>),
    /// Another name of an earlier member.
    Link(Vec<u8>),
    Fifo,
}

/// A member whose content is still in the stream.
pub(super) struct Member {
    /// As it stands in the stream: not checked.
    pub path: Vec<u8>,
    pub kind: Kind,
    pub attributes: SetAttr,
    /// `user.` attributes.
    pub xattrs: Vec<Record>,
    /// Size of the file.
    pub size: u64,
    /// Where the stored bytes go.
    pub parts: Vec<Part>,
    /// Bytes in the stream.
    pub stored: u64,
    /// The parts stand at the front of the content (sparse form 1.0).
    pub map_inside: bool,
    /// The parts stand in the header (old sparse form).
    pub map_in_header: bool,
}

/// What was wrong with a member.
pub(super) type Refusal = (Vec<u8>, String);

/// Puts a member together.
pub(super) fn interpret(
    header: &Header,
    records: &[Record],
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
) -> Result<Member, Refusal> {
    let record = |key: &[u8]| {
        let found = records.iter().rev().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_slice())
    };
    let path = record(b"GNU.sparse.name")
        .or(record(b"path"))
        .map(<[u8]>::to_vec)
        .or(long_name)
        .unwrap_or_else(|| header.path_bytes().into_owned());
    let link = record(b"linkpath")
        .map(<[u8]>::to_vec)
        .or(long_link)
        .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
        .unwrap_or_default();
    let refuse = |what: &str| (path.clone(), what.to_owned());
    let entry = header.entry_type();
    let kind = match entry {
        EntryType::Regular if path.ends_with(b"/") && header.as_ustar().is_none() => {
            Kind::Directory // as before 1988
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink(link),
        EntryType::Link => Kind::Link(link),
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char | EntryType::Block => {
            return Err(refuse("is a device, which is not packed"));
        }
        other => {
            let letter = char::from(other.as_byte()).escape_default();
            return Err(refuse(&format!(
                "is a member of type {letter}, which is not packed"
            )));
        }
    };
    let stored = match record(b"size") {
        Some(text) => pax::number(text),
        None => header.entry_size().ok(),
    }
    .filter(|size| *size <= SIZE_MAX)
    .ok_or_else(|| refuse("has a size that is not a number, or no file's"))?;
    let attributes = attributes(header, &record).ok_or_else(|| {
        refuse("has a mode, owner or time that is not a number or is out of range")
    })?;
    if kind != Kind::File && stored != 0 {
        return Err(refuse("is no file, but has content"));
    }
    let mut member = Member {
        path: path.clone(),
        kind,
        attributes,
        xattrs: xattrs(records),
        size: stored,
        parts: vec![Part {
            offset: 0,
            length: stored,
        }],
        stored,
        map_inside: false,
        map_in_header: entry == EntryType::GNUSparse,
    };
    match described(records).ok_or_else(|| refuse("has a sparse map of an unknown form"))? {
        Described::Not => {}
        Described::Here((parts, size)) => (member.parts, member.size) = (parts, size),
        Described::Inside { size } => (member.size, member.map_inside) = (size, true),
    }
    Ok(member)
}

fn xattrs(records: &[Record]) -> Vec<Record> {
    let ours = records.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix(b"SCHILY.xattr.")?;
        name.starts_with(b"user.")
            .then(|| (name.to_vec(), value.clone()))
    });
    ours.collect()
}

fn attributes<'a>(header: &Header, record: &impl Fn(&[u8]) -> Option<&'a [u8]>) -> Option<SetAttr> {
    let id = |key: &[u8], field: std::io::Result<u64>| {
        let number = match record(key) {
            Some(text) => pax::number(text)?,
            None => field.ok()?,
        };
        u32::try_from(number).ok()
    };
    let mtime = match record(b"mtime") {
        Some(text) => pax::time(text)?,
        None => seconds(header)?.checked_mul(1_000_000_000)?,
    };
    let atime = match record(b"atime") {
        Some(text) => pax::time(text)?,
        None => mtime,
    };
    Some(SetAttr {
        mode: Some(header.mode().ok()? & 0o7777),
        uid: Some(id(b"uid", header.uid())?),
        gid: Some(id(b"gid", header.gid())?),
        size: None,
        atime: Some(SetTime::At(atime)),
        mtime: Some(SetTime::At(mtime)),
    })
}

/// The time of a header; before 1970 GNU tar writes it in two's complement.
fn seconds(header: &Header) -> Option<i64> {
    let field = &header.as_old().mtime;
    match (field.first(), field.last_chunk()) {
        (Some(0xff), Some(last)) => Some(i64::from_be_bytes(*last)),
        _ => i64::try_from(header.mtime().ok()?).ok(),
    }
}
