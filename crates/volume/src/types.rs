//! The values of the inode interface.

/// Inode number; the root directory is [`ROOT_INO`]. Stable over mounts.
pub type Ino = u64;

/// The root directory.
pub const ROOT_INO: Ino = 1;
/// Longest name in bytes.
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link in bytes.
pub const TARGET_MAX: usize = 4095;
/// Longest value of an extended attribute in bytes (Linux's limit).
pub const XATTR_VALUE_MAX: usize = 65536;
/// All extended attributes of one inode together, in bytes.
pub const XATTR_TOTAL_MAX: usize = 256 << 10;

/// How the contents of a volume's files lie on the storage. Names and attributes are sealed in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// As sealed chunks in segments.
    Encrypted,
    /// As plain files in place; their digests are sealed, and what is read is compared with these.
    Authenticated,
}

impl std::fmt::Display for Protection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Encrypted => "encrypted",
            Self::Authenticated => "authenticated",
        })
    }
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe: the kernel's, a volume keeps its name and attributes.
    Fifo,
    /// The name of a UNIX socket.
    Socket,
    /// A character device; the mount lets nobody open it.
    CharDevice,
    /// A block device; the mount lets nobody open it.
    BlockDevice,
}

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind<'a> {
    /// An empty regular file.
    File,
    /// An empty directory.
    Dir,
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A named pipe.
    Fifo,
    /// The name of a UNIX socket.
    Socket,
    /// A character device of this number (as Linux encodes it in 32 bits).
    CharDevice(u32),
    /// A block device of this number.
    BlockDevice(u32),
}

/// What the content of a file is asked for at an offset (`SEEK_DATA`, `SEEK_HOLE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that may be other than zero.
    Data,
    /// The next hole; the end of the file counts as one.
    Hole,
}

/// Attributes of an inode. Times are nanoseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileType,
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u32,
    /// Number of a device, as Linux encodes it in 32 bits; 0 for anything else.
    pub device: u32,
    /// Size in bytes.
    pub size: u64,
    /// Occupied 512-byte blocks.
    pub blocks: u64,
    /// Last access.
    pub atime: i64,
    /// Last change of content.
    pub mtime: i64,
    /// Last change of attributes.
    pub ctime: i64,
}

/// Attributes to change; `None` keeps. `ctime` is set by the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes: cuts or extends by a hole.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The engine's clock.
    Now,
    /// Nanoseconds since 1970 UTC.
    At(i64),
}

/// One entry of a directory, "." and ".." included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// Pass this to `read_dir` to go on after this entry.
    pub cookie: u64,
    /// Inode number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileType,
    /// Its name.
    pub name: &'a [u8],
}

/// Behaviour of a rename.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RenameFlags {
    /// Replace an existing target.
    #[default]
    Replace,
    /// Fail when the target exists (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swap both (`RENAME_EXCHANGE`).
    Exchange,
}

/// Behaviour of setting an extended attribute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrMode {
    /// Make or replace.
    #[default]
    Set,
    /// Fail when it exists (`XATTR_CREATE`).
    Create,
    /// Fail when it is missing (`XATTR_REPLACE`).
    Replace,
}

/// Numbers for statfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Inodes in use.
    pub files: u64,
    /// Bytes in use by live content.
    pub bytes: u64,
    /// Preferred I/O size: the chunk size.
    pub block_size: u32,
    /// Longest name.
    pub name_max: u32,
}

/// State of an open volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Epoch of this open (grant).
    pub epoch: u32,
    /// Anchored sequence.
    pub seq: u64,
    /// Anchored root.
    pub root: [u8; 32],
    /// Inodes, the root directory included.
    pub files: u64,
    /// Sizes of all regular files together, in bytes.
    pub bytes: u64,
    /// Bytes in segments that nothing references any more.
    pub dead_bytes: u64,
    /// Plain bytes in memory that are not yet sealed.
    pub dirty_bytes: u64,
}

/// One damage that `check` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Path of the damaged file in the volume, or of the object in the store.
    pub path: String,
    /// What is wrong.
    pub what: String,
}

/// One state in the chain of roots. Times are nanoseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Its sequence.
    pub seq: u64,
    /// Its root.
    pub root: [u8; 32],
    /// The epoch of its writer.
    pub epoch: u32,
    /// Of the mount, or the newest change of an inode in it; none when it has neither.
    pub time: Option<i64>,
    /// Inodes that were written or removed.
    pub inodes: u64,
    /// Names that were made or removed.
    pub names: u64,
    /// Bytes of its records.
    pub journal_bytes: u64,
    /// A writer began with it.
    pub mount: bool,
    /// Its state is in a snapshot: nothing before it is held.
    pub snapshot: bool,
}

/// What `rekey` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rekeyed {
    /// Plain bytes that were sealed anew.
    pub moved_bytes: u64,
    /// Nothing that the anchored state references needs an older key.
    pub complete: bool,
}

/// What `compact` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Segments that were emptied and removed.
    pub segments: u64,
    /// Plain bytes that were sealed anew elsewhere.
    pub moved_bytes: u64,
    /// Dead bytes before.
    pub dead_before: u64,
    /// Dead bytes that remain.
    pub dead_after: u64,
}
