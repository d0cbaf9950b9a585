//! What a grant must say, and what the records must be that it opens.

use crate::api::{Freshness, Grant};
use crate::codec::malformed;
use crate::error::VolumeError;
use crate::ops::Op;
use crate::volume::Result;

/// Refuses a grant that contradicts itself.
pub(crate) fn check_grant(grant: &Grant, anchored: bool, freshness: Freshness) -> Result<()> {
    let sizes = 4096..=1 << 20;
    if !grant.chunk_size.is_power_of_two() || !sizes.contains(&grant.chunk_size) {
        return Err(VolumeError::Invalid(
            "the chunk size must be a power of two from 4 KiB to 1 MiB",
        ));
    }
    if (grant.seq == 0) != (grant.root == [0; 32]) {
        return Err(VolumeError::Invalid(
            "sequence 0 and only it has a root of zeros",
        ));
    }
    if grant.writable && (!anchored || freshness == Freshness::Pinned || grant.epoch == 0) {
        return Err(VolumeError::Invalid(
            "writing needs an anchor, an epoch from 1 on, and a freshness other than pinned",
        ));
    }
    if grant.writable && grant.epoch < grant.key_since {
        return Err(VolumeError::Invalid(
            "the grant's epoch is from before its key",
        ));
    }
    if !grant.writable && grant.seq == 0 {
        return Err(VolumeError::Format {
            problem: "the volume was never written: its anchor stands at sequence 0".to_owned(),
            fix: "pack or write it first, then open it for reading".to_owned(),
        });
    }
    Ok(())
}

/// Every inode of a volume has the chunk size and the protection of the grant in this release, and the key version of
/// what it is sealed in.
pub(crate) fn check_fits(op: &Op, grant: &Grant, key_version: u32) -> Result<()> {
    let expected = grant.chunk_size;
    if let Op::Inode(inode) = op
        && inode.key_version != key_version
    {
        return Err(malformed(
            "the metadata",
            "an inode that names another key version than its record",
        ));
    }
    if let Op::Inode(inode) = op
        && inode.protection != grant.protection
    {
        return Err(VolumeError::Format {
            problem: format!(
                "the volume is {}, the grant says {}",
                inode.protection, grant.protection
            ),
            fix: "name the protection with which the volume was packed, or pack it anew".to_owned(),
        });
    }
    let found = match op {
        Op::Snapshot { chunk_size, .. } | Op::Mount { chunk_size, .. } => *chunk_size,
        Op::Inode(inode) => 1_u32.checked_shl(u32::from(inode.chunk_log2)).unwrap_or(0),
        _ => expected,
    };
    if found == expected {
        return Ok(());
    }
    Err(VolumeError::Format {
        problem: format!("the volume has chunks of {found} bytes, the grant says {expected}"),
        fix: "use the chunk size with which the volume was made".to_owned(),
    })
}
