//! The superblocks: untrusted hints that name the format and the volume. docs/formats/volume-v1.md, "Superblock".

use aws_lc_rs::digest::{SHA256, digest};

use crate::codec::Reader;
use crate::error::VolumeError;
use crate::seal::SUITE;

const MAGIC: [u8; 8] = *b"STFVOL\0\x01";
/// Version of the volume format.
pub const VERSION: u16 = 1;
/// Encoded size in bytes.
pub const SIZE: usize = 76;

/// Parsed, never authenticated: only for messages and as a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub volume_id: [u8; 16],
    pub chunk_size: u32,
    pub key_version: u32,
    pub generation: u64,
    pub seq: u64,
    pub snapshot: u64,
    pub journal: (u32, u32),
}

/// What the bytes of a superblock say.
#[derive(Debug, PartialEq, Eq)]
pub enum Hint {
    /// One of this version.
    Known(Superblock),
    /// A volume of another format version or suite.
    Other { version: u16, suite: u8 },
    /// Nothing that can be used.
    Unusable,
}

/// The store's name of the superblock of a generation.
pub fn path(generation: u64) -> &'static str {
    if generation.is_multiple_of(2) {
        "superblock-0"
    } else {
        "superblock-1"
    }
}

impl Superblock {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SIZE);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.push(SUITE);
        out.push(0);
        out.extend_from_slice(&self.volume_id);
        out.extend_from_slice(&self.chunk_size.to_be_bytes());
        out.extend_from_slice(&self.key_version.to_be_bytes());
        for field in [self.generation, self.seq, self.snapshot] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(&self.journal.0.to_be_bytes());
        out.extend_from_slice(&self.journal.1.to_be_bytes());
        let sum = checksum(&out);
        out.extend_from_slice(&sum);
        out
    }
}

/// Reads a superblock; never fails, because it is only a hint.
pub fn parse(raw: &[u8]) -> Hint {
    parse_fields(raw).unwrap_or(Hint::Unusable)
}

fn parse_fields(raw: &[u8]) -> Result<Hint, VolumeError> {
    let mut reader = Reader::new(raw, "the superblock");
    let (fields, sum) = raw
        .split_at_checked(raw.len().saturating_sub(8))
        .unwrap_or_default();
    if reader.array()? != MAGIC || checksum(fields) != sum {
        return Ok(Hint::Unusable);
    }
    let (version, suite, _) = (reader.u16()?, reader.u8()?, reader.u8()?);
    if version != VERSION || suite != SUITE {
        return Ok(Hint::Other { version, suite });
    }
    let superblock = Superblock {
        volume_id: reader.array()?,
        chunk_size: reader.u32()?,
        key_version: reader.u32()?,
        generation: reader.u64()?,
        seq: reader.u64()?,
        snapshot: reader.u64()?,
        journal: (reader.u32()?, reader.u32()?),
    };
    Ok(Hint::Known(superblock))
}

/// The first 8 bytes of SHA-256: against accidents, not against the host.
fn checksum(fields: &[u8]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.iter_mut()
        .zip(digest(&SHA256, fields).as_ref())
        .for_each(|(to, from)| *to = *from);
    sum
}
