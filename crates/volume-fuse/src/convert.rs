//! Between the values of the engine and those of the kernel.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, Generation, INodeNo, ReplyStatfs, ReplyXattr, TimeOrNow};
use volume::{Attr, FileType, NodeKind, RenameFlags, SetTime, StatFs, VolumeError, XattrMode};

/// Free space that statfs reports, in blocks of 4 KiB (1 PiB), and free inodes: the format's limits are far away,
/// and what the store has left is for the untrusted host to say.
const FREE_BLOCKS: u64 = 1 << 38;
const FREE_FILES: u64 = 1 << 32;

/// How long the kernel may keep names and attributes: as long as it likes, since nothing changes behind its back
/// (we are the only writer by lease, or the root is pinned).
pub(crate) const FOREVER: Duration = Duration::from_hours(365 * 24);

/// Inode numbers are never used twice.
pub(crate) const GENERATION: Generation = Generation(0);

pub(crate) fn errno(error: &VolumeError) -> Errno {
    Errno::from_i32(error.errno())
}

pub(crate) fn file_type(kind: FileType) -> fuser::FileType {
    match kind {
        FileType::File => fuser::FileType::RegularFile,
        FileType::Dir => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
    }
}

pub(crate) fn attr(attr: &Attr, block_size: u32) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: permissions(attr.mode),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.device,
        blksize: block_size,
        flags: 0,
    }
}

/// An entry that says "there is no such name", and may be remembered.
pub(crate) fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
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
pub(crate) fn rename_flags(flags: fuser::RenameFlags) -> Option<RenameFlags> {
    match flags {
        _ if flags.is_empty() => Some(RenameFlags::Replace),
        fuser::RenameFlags::RENAME_NOREPLACE => Some(RenameFlags::NoReplace),
        fuser::RenameFlags::RENAME_EXCHANGE => Some(RenameFlags::Exchange),
        _ => None,
    }
}

/// The flags of setxattr(2). POSIX ACLs are refused: the kernel would keep them and not hold anybody to them.
pub(crate) fn xattr_mode(name: &OsStr, flags: i32) -> Result<XattrMode, Errno> {
    if name.as_bytes().starts_with(b"system.posix_acl_") {
        return Err(Errno::EOPNOTSUPP);
    }
    match flags {
        0 => Ok(XattrMode::Set),
        1 => Ok(XattrMode::Create),
        2 => Ok(XattrMode::Replace),
        _ => Err(Errno::EINVAL),
    }
}

fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16 // twelve bits fit
}

fn system_time(nanoseconds: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    let time = if nanoseconds >= 0 {
        UNIX_EPOCH.checked_add(distance)
    } else {
        UNIX_EPOCH.checked_sub(distance)
    };
    time.unwrap_or(UNIX_EPOCH)
}

pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(nanoseconds(time)),
    }
}

/// Nanoseconds since 1970, saturating at the ends of `i64` (the years 1677 and 2262).
fn nanoseconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |distance| -distance)
        }
    }
}

/// Names as listxattr(2) gives them: each ended by a zero byte.
pub(crate) fn joined(names: &[Vec<u8>]) -> Vec<u8> {
    names
        .iter()
        .flat_map(|name| name.iter().copied().chain([0]))
        .collect()
}

/// Asked with size 0 for the length, else for the bytes (`fuse_getxattr_in`).
pub(crate) fn xattr_reply(value: &[u8], size: u32, reply: ReplyXattr) {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    match size {
        0 => reply.size(length),
        _ if size < length => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

pub(crate) fn space_reply(numbers: &StatFs, reply: ReplyStatfs) {
    let block = 4096;
    let blocks = numbers.bytes.div_ceil(u64::from(block)) + FREE_BLOCKS;
    let files = numbers.files + FREE_FILES;
    reply.statfs(
        blocks,
        FREE_BLOCKS,
        FREE_BLOCKS,
        files,
        FREE_FILES,
        block,
        numbers.name_max,
        block,
    );
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
    fn now_stays_now_because_the_engine_has_the_clock() {
        assert_eq!(set_time(TimeOrNow::Now), SetTime::Now);
    }

    #[test]
    fn times_before_1970_and_after_2262_convert_without_a_panic() {
        assert_eq!(nanoseconds(system_time(-1_500_000_000)), -1_500_000_000);
        assert_eq!(nanoseconds(system_time(1)), 1);
        assert_eq!(
            nanoseconds(UNIX_EPOCH + Duration::from_secs(1 << 40)),
            i64::MAX
        );
        assert_eq!(nanoseconds(system_time(i64::MIN)), i64::MIN);
    }

    #[test]
    fn xattr_names_are_each_ended_by_a_zero() {
        assert_eq!(
            joined(&[b"user.a".to_vec(), b"user.b".to_vec()]),
            b"user.a\0user.b\0"
        );
    }
}
