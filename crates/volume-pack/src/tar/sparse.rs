//! Where the stored bytes of a sparse file go: the old form of GNU tar (header and its extensions), and its three forms
//! in pax records (0.0, 0.1, 1.0). GNU tar's manual, "Storing Sparse Files".

use std::io::Read;

use super::BLOCK;
use super::pax::{Record, number};

/// Most parts of one file.
const PARTS_MAX: usize = 1 << 20;

/// A run of stored bytes and its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub offset: u64,
    pub length: u64,
}

/// Parts in order, and the size of the file.
pub(super) type Map = (Vec<Part>, u64);

/// What stands in pax records: the map itself (0.0, 0.1), or that it begins the content (1.0).
pub(super) enum Described {
    Not,
    Here(Map),
    Inside { size: u64 },
}

fn value<'a>(records: &'a [Record], key: &[u8]) -> Option<&'a [u8]> {
    let found = records.iter().rev().find(|(name, _)| name == key);
    found.map(|(_, value)| value.as_slice())
}

/// Finds a map in pax records; `None` when it is not one.
pub(super) fn described(records: &[Record]) -> Option<Described> {
    let named = |name: &str| value(records, format!("GNU.sparse.{name}").as_bytes());
    if let Some(major) = named("major") {
        let supported = major == b"1" && named("minor")? == b"0";
        let size = number(named("realsize")?)?;
        return supported.then_some(Described::Inside { size });
    }
    let Some(size) = named("size") else {
        let any = records
            .iter()
            .any(|(key, _)| key.starts_with(b"GNU.sparse."));
        return (!any).then_some(Described::Not);
    };
    let numbers: Option<Vec<u64>> = match named("map") {
        Some(b"") => Some(Vec::new()),
        Some(map) => map.split(|byte| *byte == b',').map(number).collect(),
        None => records
            .iter()
            .filter(|(key, _)| {
                key.as_slice() == b"GNU.sparse.offset" || key.as_slice() == b"GNU.sparse.numbytes"
            })
            .map(|(_, value)| number(value))
            .collect(),
    };
    Some(Described::Here((pairs(&numbers?)?, number(size)?)))
}

fn pairs(numbers: &[u64]) -> Option<Vec<Part>> {
    let parts = numbers.chunks(2).map(|pair| match pair {
        [offset, length] => Some(Part {
            offset: *offset,
            length: *length,
        }),
        _ => None,
    });
    parts.collect()
}

/// Reads the map of form 1.0 off the front of the content; also its bytes, of which there are at most `stored`.
pub(super) fn read_inside(source: &mut impl Read, stored: u64) -> Option<(Vec<Part>, u64)> {
    let mut bytes = 0;
    let mut block = Vec::new();
    let mut next = || {
        let mut digits = Vec::new();
        loop {
            if block.is_empty() {
                bytes += BLOCK as u64;
                let mut fresh = [0; BLOCK];
                if bytes > stored {
                    return None;
                }
                source.read_exact(&mut fresh).ok()?;
                block = fresh.to_vec();
                block.reverse();
            }
            match block.pop()? {
                b'\n' => return number(&digits),
                byte if digits.len() < 20 => digits.push(byte),
                _ => return None,
            }
        }
    };
    let count = usize::try_from(next()?).ok()?;
    if count > PARTS_MAX {
        return None;
    }
    let mut parts = Vec::new();
    for _ in 0..count {
        parts.push(Part {
            offset: next()?,
            length: next()?,
        });
    }
    Some((parts, bytes))
}

/// Reads the map of the old form: four parts in the header, further ones in blocks after it.
pub(super) fn old_form(header: &tar::GnuHeader, source: &mut impl Read) -> Option<Map> {
    let mut parts = Vec::new();
    let mut add = |one: &tar::GnuSparseHeader| -> Option<()> {
        if !one.is_empty() {
            parts.push(Part {
                offset: one.offset().ok()?,
                length: one.length().ok()?,
            });
        }
        (parts.len() <= PARTS_MAX).then_some(())
    };
    for one in &header.sparse {
        add(one)?;
    }
    let mut more = header.is_extended();
    while more {
        let mut block = tar::GnuExtSparseHeader::new();
        source.read_exact(block.as_mut_bytes()).ok()?;
        for one in &block.sparse {
            add(one)?;
        }
        more = block.is_extended();
    }
    Some((parts, header.real_size().ok()?))
}

/// Whether the parts are in order, lie in the file, and hold exactly the bytes that are stored.
pub(super) fn fits((parts, size): &Map, stored: u64) -> bool {
    let mut end = 0;
    let mut sum = 0_u64;
    for part in parts {
        let (Some(after), Some(total)) = (
            part.offset.checked_add(part.length),
            sum.checked_add(part.length),
        ) else {
            return false;
        };
        if part.offset < end || after > *size {
            return false;
        }
        (end, sum) = (after, total);
    }
    sum == stored
}
