//! The changes that journal records and snapshot pages carry. docs/formats/volume-v1.md, "Operations".

use std::collections::BTreeMap;

use crate::chunkmap::Entry;
use crate::codec::{Reader, put_bytes};
use crate::error::VolumeError;
use crate::snapshot::PageRef;
use crate::types::{
    FileType, Ino, NAME_MAX, Protection, TARGET_MAX, XATTR_TOTAL_MAX, XATTR_VALUE_MAX,
};

/// Largest file kept inside its inode, in bytes.
pub const INLINE_MAX: usize = 2048;
/// Content that stays inside its inode also in a commit of many files: a pack would save no memory.
pub const INLINE_TINY: usize = 128;
/// Most entries in one `MapSet`.
pub const MAP_RUN_MAX: usize = 2048;

/// An inode as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InodeRecord {
    pub ino: Ino,
    pub file_id: [u8; 16],
    pub kind: FileType,
    pub protection: Protection,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub key_version: u32,
    /// Binary logarithm of the chunk size.
    pub chunk_log2: u8,
    /// Number of a device; 0 for anything else.
    pub device: u32,
    pub size: u64,
    pub atime: i64,
    pub mtime: i64,
    pub ctime: i64,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Target of a symlink, content of an inline file; `None`: chunks, or nothing.
    pub body: Option<Vec<u8>>,
}

/// How slots in a segment are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// Slots of the chunk size, each holding a full chunk.
    Chunks,
    /// Short chunks at multiples of 64 bytes.
    Pack,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Inode(Box<InodeRecord>),
    InodeGone(Ino),
    Name {
        parent: Ino,
        name: Vec<u8>,
        ino: Ino,
    },
    NameGone {
        parent: Ino,
        name: Vec<u8>,
    },
    MapCut {
        ino: Ino,
        from: u64,
    },
    MapSet {
        ino: Ino,
        first: u64,
        entries: Vec<Entry>,
    },
    Segment {
        id: u32,
        epoch: u32,
        kind: SegmentKind,
    },
    Mount {
        epoch: u32,
        chunk_size: u32,
        time: i64,
    },
    Snapshot {
        epoch: u32,
        seq: u64,
        chunk_size: u32,
        root: PageRef,
        next_ino: Ino,
        next_segment: u32,
    },
}

impl Op {
    /// Appends the encoding: a tag byte and the fields.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Inode(inode) => {
                out.push(1);
                inode.encode(out);
            }
            Self::InodeGone(ino) => {
                out.push(2);
                out.extend_from_slice(&ino.to_be_bytes());
            }
            Self::Name { parent, name, ino } => encode_name(out, *parent, name, *ino),
            Self::NameGone { parent, name } => {
                out.push(4);
                out.extend_from_slice(&parent.to_be_bytes());
                put_bytes(out, name);
            }
            Self::MapCut { ino, from } => {
                out.push(5);
                out.extend_from_slice(&ino.to_be_bytes());
                out.extend_from_slice(&from.to_be_bytes());
            }
            Self::MapSet {
                ino,
                first,
                entries,
            } => {
                out.push(6);
                out.extend_from_slice(&ino.to_be_bytes());
                out.extend_from_slice(&first.to_be_bytes());
                out.extend_from_slice(
                    &u32::try_from(entries.len())
                        .unwrap_or(u32::MAX)
                        .to_be_bytes(),
                );
                for entry in entries {
                    entry.encode(out);
                }
            }
            Self::Segment { id, epoch, kind } => {
                out.push(7);
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(&epoch.to_be_bytes());
                out.push(match kind {
                    SegmentKind::Chunks => 1,
                    SegmentKind::Pack => 2,
                });
            }
            Self::Mount { .. } | Self::Snapshot { .. } => self.encode_milestone(out),
        }
    }

    /// Encodes the operations that only records have.
    fn encode_milestone(&self, out: &mut Vec<u8>) {
        match self {
            Self::Mount {
                epoch,
                chunk_size,
                time,
            } => {
                out.push(8);
                out.extend_from_slice(&epoch.to_be_bytes());
                out.extend_from_slice(&chunk_size.to_be_bytes());
                out.extend_from_slice(&time.to_be_bytes());
            }
            Self::Snapshot {
                epoch,
                seq,
                chunk_size,
                root,
                next_ino,
                next_segment,
            } => {
                out.push(9);
                out.extend_from_slice(&epoch.to_be_bytes());
                out.extend_from_slice(&seq.to_be_bytes());
                out.extend_from_slice(&chunk_size.to_be_bytes());
                root.encode(out);
                out.extend_from_slice(&next_ino.to_be_bytes());
                out.extend_from_slice(&next_segment.to_be_bytes());
            }
            _ => {}
        }
    }

    /// Reads one operation.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, VolumeError> {
        Ok(match reader.u8()? {
            1 => Self::Inode(Box::new(InodeRecord::decode(reader)?)),
            2 => Self::InodeGone(reader.u64()?),
            3 => Self::Name {
                parent: reader.u64()?,
                name: name(reader)?,
                ino: reader.u64()?,
            },
            4 => Self::NameGone {
                parent: reader.u64()?,
                name: name(reader)?,
            },
            5 => Self::MapCut {
                ino: reader.u64()?,
                from: reader.u64()?,
            },
            6 => {
                let (ino, first, count) = (reader.u64()?, reader.u64()?, reader.u32()? as usize);
                if count > MAP_RUN_MAX || first > u64::MAX >> 8 {
                    return Err(reader.bad("a run of chunks is above its limit"));
                }
                let entries = (0..count)
                    .map(|_| Entry::decode(reader))
                    .collect::<Result<_, _>>()?;
                Self::MapSet {
                    ino,
                    first,
                    entries,
                }
            }
            7 => {
                let (id, epoch) = (reader.u32()?, reader.u32()?);
                let kind = match reader.u8()? {
                    1 => SegmentKind::Chunks,
                    2 => SegmentKind::Pack,
                    _ => return Err(reader.bad("unknown kind of segment")),
                };
                Self::Segment { id, epoch, kind }
            }
            8 => Self::Mount {
                epoch: reader.u32()?,
                chunk_size: reader.u32()?,
                time: reader.i64()?,
            },
            9 => Self::Snapshot {
                epoch: reader.u32()?,
                seq: reader.u64()?,
                chunk_size: reader.u32()?,
                root: PageRef::decode(reader)?,
                next_ino: reader.u64()?,
                next_segment: reader.u32()?,
            },
            _ => return Err(reader.bad("unknown operation")),
        })
    }
}

/// Appends a `Name` without an owned copy of the name.
pub fn encode_name(out: &mut Vec<u8>, parent: Ino, name: &[u8], ino: Ino) {
    out.push(3);
    out.extend_from_slice(&parent.to_be_bytes());
    put_bytes(out, name);
    out.extend_from_slice(&ino.to_be_bytes());
}

fn name(reader: &mut Reader<'_>) -> Result<Vec<u8>, VolumeError> {
    let name = reader.bytes(NAME_MAX)?;
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0)
    {
        return Err(reader.bad("a name that no file can have"));
    }
    Ok(name.to_vec())
}

impl InodeRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.ino.to_be_bytes());
        out.extend_from_slice(&self.file_id);
        out.push(match self.kind {
            FileType::File => 1,
            FileType::Dir => 2,
            FileType::Symlink => 3,
            FileType::Fifo => 4,
            FileType::Socket => 5,
            FileType::CharDevice => 6,
            FileType::BlockDevice => 7,
        });
        let protection = match self.protection {
            Protection::Encrypted => 1,
            Protection::Authenticated => 2,
        };
        out.extend_from_slice(&[protection, self.chunk_log2]);
        for field in [self.mode, self.uid, self.gid, self.nlink, self.key_version] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(&self.size.to_be_bytes());
        for time in [self.atime, self.mtime, self.ctime] {
            out.extend_from_slice(&time.to_be_bytes());
        }
        out.extend_from_slice(
            &u16::try_from(self.xattrs.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        for (name, value) in &self.xattrs {
            put_bytes(out, name);
            put_bytes(out, value);
        }
        match &self.body {
            None if is_device(self.kind) => {
                out.push(2);
                out.extend_from_slice(&self.device.to_be_bytes());
            }
            None => out.push(0),
            Some(body) => {
                out.push(1);
                put_bytes(out, body);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, VolumeError> {
        let (ino, file_id) = (reader.u64()?, reader.array()?);
        let kind = match reader.u8()? {
            1 => FileType::File,
            2 => FileType::Dir,
            3 => FileType::Symlink,
            4 => FileType::Fifo,
            5 => FileType::Socket,
            6 => FileType::CharDevice,
            7 => FileType::BlockDevice,
            _ => return Err(reader.bad("unknown type of inode")),
        };
        let protection = match reader.u8()? {
            1 => Protection::Encrypted,
            2 => Protection::Authenticated,
            _ => return Err(reader.bad("unknown protection")),
        };
        let chunk_log2 = reader.u8()?;
        let (mode, uid, gid) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let (nlink, key_version, size) = (reader.u32()?, reader.u32()?, reader.u64()?);
        let (atime, mtime, ctime) = (reader.i64()?, reader.i64()?, reader.i64()?);
        let xattrs = decode_xattrs(reader)?;
        let mut device = 0;
        let body = match (reader.u8()?, kind) {
            (0, FileType::File | FileType::Dir | FileType::Fifo | FileType::Socket) => None,
            (2, kind) if is_device(kind) => {
                device = reader.u32()?;
                None
            }
            (1, FileType::File) if protection == Protection::Encrypted => {
                Some(reader.bytes(INLINE_MAX)?.to_vec())
            }
            (1, FileType::Symlink) => Some(reader.bytes(TARGET_MAX)?.to_vec()),
            _ => return Err(reader.bad("a body that does not fit the inode")),
        };
        let has_size = matches!(kind, FileType::File | FileType::Dir | FileType::Symlink);
        let fits = body.as_ref().is_none_or(|body| body.len() as u64 == size);
        if ino == 0 || mode > 0o7777 || !fits || (!has_size && size != 0) {
            return Err(reader.bad("an inode that contradicts itself"));
        }
        Ok(Self {
            ino,
            file_id,
            kind,
            protection,
            mode,
            uid,
            gid,
            nlink,
            key_version,
            chunk_log2,
            device,
            size,
            atime,
            mtime,
            ctime,
            xattrs,
            body,
        })
    }
}

fn is_device(kind: FileType) -> bool {
    matches!(kind, FileType::CharDevice | FileType::BlockDevice)
}

fn decode_xattrs(reader: &mut Reader<'_>) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, VolumeError> {
    let mut xattrs = BTreeMap::new();
    let mut total = 0;
    for _ in 0..reader.u16()? {
        let (name, value) = (reader.bytes(NAME_MAX)?, reader.bytes(XATTR_VALUE_MAX)?);
        total += name.len() + value.len();
        if total > XATTR_TOTAL_MAX {
            return Err(reader.bad("extended attributes above their limit"));
        }
        xattrs.insert(name.to_vec(), value.to_vec());
    }
    Ok(xattrs)
}
