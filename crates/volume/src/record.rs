//! Journal records: an 80-byte header, then the sealed operations. docs/formats/volume-v1.md, "Journal".

use aws_lc_rs::digest::{Context, SHA256, digest};

use crate::codec::{Reader, damaged};
use crate::error::VolumeError;
use crate::seal::{self, Keys, Nonces, SUITE, Seal};

/// First bytes of a record.
const MAGIC: [u8; 4] = *b"STFJ";
/// Version of the record format.
const VERSION: u16 = 1;
/// Most plain bytes in a record.
pub const PAYLOAD_MAX: usize = 4 << 20;
/// Size at which a journal file is closed.
pub const FILE_MAX: u64 = 8 << 20;
/// The record ends a commit.
pub const FLAG_LAST: u16 = 1;
/// The record starts a chain: its state is in a snapshot.
pub const FLAG_SNAPSHOT: u16 = 2;

const ROOT_LABEL: &[u8] = b"securetf volume v1 ROOT1";

/// Parsed, not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub flags: u16,
    pub length: u32,
    pub epoch: u32,
    pub seq: u64,
    pub prev_root: [u8; 32],
    pub seal: Seal,
}

impl Header {
    /// Encoded size in bytes.
    pub const SIZE: usize = 80;

    /// The 64 bytes before the tag; they are the record's associated data.
    fn bound(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::SIZE);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(&self.seal.counter.to_be_bytes());
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.prev_root);
        out
    }

    /// Parses the first [`Self::SIZE`] bytes.
    pub fn parse(raw: &[u8]) -> Result<Self, VolumeError> {
        let mut reader = Reader::new(raw, "a journal record");
        if reader.array()? != MAGIC || reader.u16()? != VERSION {
            return Err(reader.bad("no record starts here"));
        }
        let (flags, length, epoch) = (reader.u16()?, reader.u32()?, reader.u32()?);
        let (counter, seq, prev_root, tag) = (
            reader.u64()?,
            reader.u64()?,
            reader.array()?,
            reader.array()?,
        );
        if flags & !(FLAG_LAST | FLAG_SNAPSHOT) != 0 || length as usize > PAYLOAD_MAX {
            return Err(reader.bad("unknown flags or absurd length"));
        }
        Ok(Self {
            flags,
            length,
            epoch,
            seq,
            prev_root,
            seal: Seal { counter, tag },
        })
    }
}

/// A record as it goes to the store, and the root after it.
pub struct Sealed {
    pub bytes: Vec<u8>,
    pub root: [u8; 32],
}

/// Seals operations as record `seq` after `prev_root`.
pub fn seal_record(
    keys: &Keys,
    nonces: &Nonces,
    flags: u16,
    seq: u64,
    prev_root: [u8; 32],
    payload: &[u8],
) -> Result<Sealed, VolumeError> {
    let length = u32::try_from(payload.len()).map_err(|_| VolumeError::TooBig)?;
    let reserved = Seal {
        counter: nonces.reserve(),
        tag: [0; 16],
    };
    let header = Header {
        flags,
        length,
        epoch: nonces.epoch,
        seq,
        prev_root,
        seal: reserved,
    };
    let mut bytes = header.bound();
    let keys = keys.newest();
    let aad = keys.record_aad(&bytes);
    let mut text = payload.to_vec();
    let sealed = nonces.seal_with(keys.metadata(), reserved.counter, &aad, &mut text)?;
    bytes.extend_from_slice(&sealed.tag);
    bytes.append(&mut text);
    let root = next_root(&prev_root, &bytes);
    Ok(Sealed { bytes, root })
}

/// Opens the record in `raw` (header and ciphertext, exactly).
pub fn open_record(keys: &Keys, raw: &[u8]) -> Result<(Header, Vec<u8>), VolumeError> {
    let header = Header::parse(raw)?;
    let keys = keys.of(header.epoch)?;
    let aad = keys.record_aad(raw.get(..Header::SIZE - seal::TAG).unwrap_or_default());
    let sealed = raw.get(Header::SIZE..).unwrap_or_default();
    let mut payload = sealed.to_vec();
    let fits = sealed.len() == header.length as usize;
    if !fits
        || !seal::open(
            keys.metadata(),
            header.epoch,
            &header.seal,
            &aad,
            &mut payload,
        )
    {
        return Err(damaged(
            format!("journal record {}", header.seq),
            "it does not authenticate under this volume's key and identity",
        ));
    }
    Ok((header, payload))
}

/// `root(n) = SHA-256(label || root(n-1) || SHA-256(sealed record n))`; the label ends with the suite.
pub fn next_root(prev_root: &[u8; 32], sealed: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(ROOT_LABEL);
    context.update(&[SUITE]);
    context.update(prev_root);
    context.update(digest(&SHA256, sealed).as_ref());
    let mut root = [0; 32];
    root.copy_from_slice(context.finish().as_ref());
    root
}
