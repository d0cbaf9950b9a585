//! Answers to the kernel, written as its bytes (linux/fuse.h) into a buffer of bounded size.

use std::time::Duration;

use nix::errno::Errno;
use volume::{Attr, StatFs};

use crate::abi::OUT_HEADER;
use crate::convert::{FREE_BLOCKS, FREE_FILES, kind_bits};

/// Keep what the kernel has of the file; of a directory; keep the listing.
pub(crate) const FOPEN_KEEP_CACHE: u32 = 1 << 1;
pub(crate) const FOPEN_CACHE_DIR: u32 = 1 << 3;

/// Bytes of `fuse_entry_out` and `fuse_dirent`, without the name.
const ENTRY: usize = 128;
const DIRENT: usize = 24;

/// `fuse_out_header`. An answer has a body, or an error.
pub(crate) fn out_header(unique: u64, outcome: Result<usize, Errno>) -> [u8; OUT_HEADER] {
    let (body, error) = match outcome {
        Ok(body) => (body, 0),
        Err(Errno::UnknownErrno) => (0, -(Errno::EIO as i32)), // 0 would say that all went well
        Err(errno) => (0, -(errno as i32)),
    };
    message_header(unique, error, body)
}

pub(crate) fn message_header(unique: u64, error: i32, body: usize) -> [u8; OUT_HEADER] {
    let length = u32::try_from(OUT_HEADER + body).unwrap_or(u32::MAX);
    let mut bytes = [0; OUT_HEADER];
    let mut header = Body::new(&mut bytes);
    let _ = header
        .u32(length)
        .and_then(|()| header.u32(error.cast_unsigned()));
    let _ = header.u64(unique);
    bytes
}

/// What is said of a node: its number for the kernel and its attributes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    pub(crate) ino: u64,
    pub(crate) attr: Attr,
    pub(crate) block_size: u32,
}

/// The body of one answer, in a buffer that it does not leave.
pub(crate) struct Body<'a> {
    buffer: &'a mut [u8],
    used: usize,
}

impl<'a> Body<'a> {
    pub(crate) fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, used: 0 }
    }

    /// Bytes written until now.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// Room for `size` bytes or as many as there are, of which `fill` says how many it wrote.
    pub(crate) fn fill<E>(
        &mut self,
        size: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let room = self.buffer.get_mut(self.used..).unwrap_or_default();
        let size = size.min(room.len());
        let written = fill(room.get_mut(..size).unwrap_or_default())?;
        self.used += written.min(size);
        Ok(())
    }

    /// All of `bytes`, or ERANGE.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let end = self.used.checked_add(bytes.len()).ok_or(Errno::ERANGE)?;
        let room = self.buffer.get_mut(self.used..end).ok_or(Errno::ERANGE)?;
        room.copy_from_slice(bytes);
        self.used = end;
        Ok(())
    }

    fn u32(&mut self, value: u32) -> Result<(), Errno> {
        self.bytes(&value.to_ne_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> Result<(), Errno> {
        self.bytes(&value.to_ne_bytes())
    }

    pub(crate) fn words(&mut self, values: &[u32]) -> Result<(), Errno> {
        values.iter().try_for_each(|value| self.u32(*value))
    }

    /// `fuse_attr`.
    fn attributes(&mut self, shown: &Shown) -> Result<(), Errno> {
        let attr = &shown.attr;
        let times = [attr.atime, attr.mtime, attr.ctime];
        self.u64(shown.ino)?;
        self.u64(attr.size)?;
        self.u64(attr.blocks)?;
        for time in times {
            self.u64(time.div_euclid(1_000_000_000).cast_unsigned())?;
        }
        for time in times {
            self.u32(u32::try_from(time.rem_euclid(1_000_000_000)).unwrap_or(0))?;
        }
        let mode = kind_bits(attr.kind) | (attr.mode & 0o7777);
        self.words(&[mode, attr.nlink, attr.uid, attr.gid, attr.device])?;
        self.words(&[shown.block_size, 0])
    }

    /// `fuse_attr_out`: the kernel may keep it so long.
    pub(crate) fn attr(&mut self, shown: &Shown, keep: Duration) -> Result<(), Errno> {
        self.u64(keep.as_secs())?;
        self.words(&[keep.subsec_nanos(), 0])?;
        self.attributes(shown)
    }

    /// `fuse_entry_out`. Inode numbers are never used twice: their generation is 0.
    pub(crate) fn entry(&mut self, shown: &Shown, keep: Duration) -> Result<(), Errno> {
        self.u64(shown.ino)?;
        self.u64(0)?;
        self.u64(keep.as_secs())?;
        self.u64(keep.as_secs())?;
        self.words(&[keep.subsec_nanos(), keep.subsec_nanos()])?;
        self.attributes(shown)
    }

    /// An entry that says "there is no such name", and may be remembered so long.
    pub(crate) fn absent(&mut self, keep: Duration) -> Result<(), Errno> {
        self.u64(0)?;
        self.u64(0)?;
        self.u64(keep.as_secs())?;
        self.u64(keep.as_secs())?;
        self.words(&[keep.subsec_nanos(), keep.subsec_nanos()])?;
        self.bytes(&[0; ENTRY - 40])
    }

    /// `fuse_open_out`.
    pub(crate) fn opened(&mut self, handle: u64, flags: u32) -> Result<(), Errno> {
        self.u64(handle)?;
        self.words(&[flags, 0])
    }

    /// `fuse_write_out`, and `fuse_getxattr_out`.
    pub(crate) fn size(&mut self, size: u32) -> Result<(), Errno> {
        self.words(&[size, 0])
    }

    /// Asked with size 0 for the length, else for the bytes (`fuse_getxattr_in`).
    pub(crate) fn xattr(&mut self, value: &[u8], size: u32) -> Result<(), Errno> {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        match size {
            0 => self.size(length),
            _ if size < length => Err(Errno::ERANGE),
            _ => self.bytes(value),
        }
    }

    /// `fuse_statfs_out`.
    pub(crate) fn space(&mut self, numbers: &StatFs) -> Result<(), Errno> {
        let block = 4096;
        let blocks = numbers.bytes.div_ceil(u64::from(block)) + FREE_BLOCKS;
        let files = numbers.files + FREE_FILES;
        for count in [blocks, FREE_BLOCKS, FREE_BLOCKS, files, FREE_FILES] {
            self.u64(count)?;
        }
        self.words(&[block, numbers.name_max, block, 0])?;
        self.bytes(&[0; 24])
    }

    /// One name of a listing of at most `size` bytes (`fuse_dirent`), after `shown` if attributes were asked for.
    /// False, and nothing written, if it does not fit.
    pub(crate) fn name(
        &mut self,
        size: u32,
        one: &Listed<'_>,
        shown: Option<(&Shown, Duration)>,
    ) -> bool {
        let head = DIRENT + if shown.is_some() { ENTRY } else { 0 };
        let Some(length) = (head + one.name.len()).checked_next_multiple_of(8) else {
            return false;
        };
        if self.used + length > self.buffer.len().min(size as usize) {
            return false;
        }
        let padding = length - head - one.name.len();
        let mut write = || {
            if let Some((shown, keep)) = shown {
                self.entry(shown, keep)?;
            }
            self.u64(one.ino)?;
            self.u64(one.cookie)?;
            let name_length = u32::try_from(one.name.len()).unwrap_or(u32::MAX);
            self.words(&[name_length, one.kind_bits >> 12])?;
            self.bytes(one.name)?;
            self.bytes([0; 8].get(..padding).unwrap_or_default())
        };
        write().is_ok()
    }
}

/// One name in a listing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed<'a> {
    pub(crate) ino: u64,
    pub(crate) cookie: u64,
    pub(crate) kind_bits: u32,
    pub(crate) name: &'a [u8],
}
