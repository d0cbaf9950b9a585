//! Between the values of the engine and those of the kernel.

use std::time::Duration;

use nix::errno::Errno;
use volume::{FileType, NodeKind, RenameFlags, VolumeError, XattrMode};

/// Free space that statfs reports, in blocks of 4 KiB (1 PiB), and free inodes: the format's limits are far away,
/// and what the store has left is for the untrusted host to say.
pub(crate) const FREE_BLOCKS: u64 = 1 << 38;
pub(crate) const FREE_FILES: u64 = 1 << 32;

/// How long the kernel may keep names and attributes: as long as it likes, since nothing changes behind its back
/// (we are the only writer by lease, or the root is pinned).
pub(crate) const FOREVER: Duration = Duration::from_hours(365 * 24);

pub(crate) fn errno(error: &VolumeError) -> Errno {
    Errno::from_raw(error.errno())
}

/// The bits of `st_mode` that say what a node is.
pub(crate) fn kind_bits(kind: FileType) -> u32 {
    match kind {
        FileType::File => 0o100_000,
        FileType::Dir => 0o040_000,
        FileType::Symlink => 0o120_000,
        FileType::Fifo => 0o010_000,
        FileType::Socket => 0o140_000,
        FileType::CharDevice => 0o020_000,
        FileType::BlockDevice => 0o060_000,
    }
}

/// What mknod(2) asks for by its mode; `None` for a type that it does not make.
pub(crate) fn node_kind(mode: u32, device: u32) -> Option<NodeKind<'static>> {
    match mode & 0o170_000 {
        0o100_000 => Some(NodeKind::File),
        0o010_000 => Some(NodeKind::Fifo),
        0o140_000 => Some(NodeKind::Socket),
        0o020_000 => Some(NodeKind::CharDevice(device)),
        0o060_000 => Some(NodeKind::BlockDevice(device)),
        _ => None,
    }
}

/// The flags of renameat2(2).
pub(crate) fn rename_flags(flags: u32) -> Option<RenameFlags> {
    match flags {
        0 => Some(RenameFlags::Replace),
        1 => Some(RenameFlags::NoReplace),
        2 => Some(RenameFlags::Exchange),
        _ => None,
    }
}

/// The flags of setxattr(2). POSIX ACLs are refused: the kernel would keep them and not hold anybody to them.
pub(crate) fn xattr_mode(name: &[u8], flags: i32) -> Result<XattrMode, Errno> {
    if name.starts_with(b"system.posix_acl_") {
        return Err(Errno::EOPNOTSUPP);
    }
    match flags {
        0 => Ok(XattrMode::Set),
        1 => Ok(XattrMode::Create),
        2 => Ok(XattrMode::Replace),
        _ => Err(Errno::EINVAL),
    }
}

/// Names as listxattr(2) gives them: each ended by a zero byte.
pub(crate) fn joined(names: &[Vec<u8>]) -> Vec<u8> {
    names
        .iter()
        .flat_map(|name| name.iter().copied().chain([0]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mknod_makes_each_type_but_directories() {
        assert_eq!(node_kind(0o010_644, 7), Some(NodeKind::Fifo));
        assert_eq!(node_kind(0o140_644, 7), Some(NodeKind::Socket));
        assert_eq!(node_kind(0o020_644, 7), Some(NodeKind::CharDevice(7)));
        assert_eq!(node_kind(0o060_644, 7), Some(NodeKind::BlockDevice(7)));
        assert_eq!(node_kind(0o040_755, 0), None);
    }

    #[test]
    fn xattr_names_are_each_ended_by_a_zero() {
        assert_eq!(
            joined(&[b"user.a".to_vec(), b"user.b".to_vec()]),
            b"user.a\0user.b\0"
        );
    }
}
