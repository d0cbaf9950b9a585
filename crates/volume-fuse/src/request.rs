//! What the kernel asks for, read from its bytes.

use volume::{SetAttr, SetTime};

use crate::abi::{self, Fields, Malformed};
use crate::message::Request;

/// Bits of `fuse_setattr_in.valid`.
const MODE: u32 = 1;
const UID: u32 = 1 << 1;
const GID: u32 = 1 << 2;
const SIZE: u32 = 1 << 3;
const ATIME: u32 = 1 << 4;
const MTIME: u32 = 1 << 5;
const ATIME_NOW: u32 = 1 << 7;
const MTIME_NOW: u32 = 1 << 8;

/// A bit of `fuse_write_in.write_flags`.
const WRITE_KILL_SUIDGID: u32 = 1 << 2;

/// What is asked for. Handles are those that we gave at open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    Lookup {
        name: &'a [u8],
    },
    Forget {
        times: u64,
    },
    BatchForget(Forgotten<'a>),
    GetAttr,
    SetAttr(SetAttr),
    ReadLink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    MakeNode {
        mode: u32,
        device: u32,
        name: &'a [u8],
    },
    MakeDir {
        mode: u32,
        name: &'a [u8],
    },
    Unlink {
        name: &'a [u8],
    },
    RemoveDir {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        parent: u64,
        new_name: &'a [u8],
        flags: u32,
    },
    Link {
        ino: u64,
        name: &'a [u8],
    },
    Open {
        flags: i32,
    },
    Create {
        flags: i32,
        mode: u32,
        name: &'a [u8],
    },
    Read {
        offset: u64,
        size: u32,
    },
    Write {
        offset: u64,
        data: &'a mut [u8],
        kill: bool,
    },
    StatFs,
    Release {
        handle: u64,
    },
    Fsync,
    SetXattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: i32,
    },
    GetXattr {
        name: &'a [u8],
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a [u8],
    },
    Flush {
        handle: u64,
    },
    OpenDir,
    ReadDir {
        offset: u64,
        size: u32,
    },
    ReadDirPlus {
        offset: u64,
        size: u32,
    },
    ReleaseDir,
    Allocate {
        offset: u64,
        length: u64,
        mode: i32,
    },
    Seek {
        offset: i64,
        whence: i32,
    },
    /// The program got a signal while it waits; it waits on.
    Interrupt,
    Destroy,
    /// One that we do not have.
    Other,
}

/// Pairs of an inode and how often it is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forgotten<'a>(&'a [u8]);

impl Iterator for Forgotten<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let (one, rest) = self.0.split_at_checked(16)?;
        self.0 = rest;
        let mut fields = Fields::new(one);
        Some((fields.u64().ok()?, fields.u64().ok()?))
    }
}

impl<'a> Operation<'a> {
    /// Reads header and payload; both must hold exactly what the operation has.
    pub(crate) fn parse(request: Request<'a>) -> Result<Self, Malformed> {
        let Request {
            head,
            header,
            payload: whole,
        } = request;
        let header = Fields::new(header);
        if head.opcode == abi::WRITE {
            return write(header, whole);
        }
        let mut payload = Fields::new(whole);
        let operation = match head.opcode {
            abi::SETXATTR => return set_xattr(header, payload),
            abi::BATCH_FORGET => return batch_forget(header, whole),
            abi::LOOKUP => Self::Lookup {
                name: payload.name()?,
            },
            abi::SYMLINK => Self::Symlink {
                name: payload.name()?,
                target: payload.text()?,
            },
            abi::UNLINK => Self::Unlink {
                name: payload.name()?,
            },
            abi::RMDIR => Self::RemoveDir {
                name: payload.name()?,
            },
            abi::REMOVEXATTR => Self::RemoveXattr {
                name: payload.text()?,
            },
            abi::MKNOD | abi::MKDIR | abi::RENAME | abi::RENAME2 | abi::LINK | abi::CREATE => {
                named(head.opcode, header, &mut payload)?
            }
            abi::GETXATTR => Self::GetXattr {
                name: payload.text()?,
                size: first(header)?,
            },
            opcode => nameless(opcode, header)?,
        };
        if operation != Self::Other {
            payload.end()?;
        }
        Ok(operation)
    }
}

fn first(mut header: Fields<'_>) -> Result<u32, Malformed> {
    header.u32()
}

/// Operations that make or move a name.
fn named<'a>(
    opcode: u32,
    mut header: Fields<'a>,
    payload: &mut Fields<'a>,
) -> Result<Operation<'a>, Malformed> {
    let name = payload.name()?;
    Ok(match opcode {
        abi::MKNOD => Operation::MakeNode {
            mode: header.u32()?,
            device: header.u32()?,
            name,
        },
        abi::MKDIR => Operation::MakeDir {
            mode: header.u32()?,
            name,
        },
        abi::CREATE => Operation::Create {
            flags: header.i32()?,
            mode: header.u32()?,
            name,
        },
        abi::LINK => Operation::Link {
            ino: header.u64()?,
            name,
        },
        _ => Operation::Rename {
            name,
            parent: header.u64()?,
            new_name: payload.name()?,
            flags: if opcode == abi::RENAME2 {
                header.u32()?
            } else {
                0
            },
        },
    })
}

/// Operations on an inode alone.
fn nameless(opcode: u32, mut header: Fields<'_>) -> Result<Operation<'static>, Malformed> {
    Ok(match opcode {
        abi::FORGET => Operation::Forget {
            times: header.u64()?,
        },
        abi::GETATTR => Operation::GetAttr,
        abi::SETATTR => Operation::SetAttr(set_attr(header)?),
        abi::READLINK => Operation::ReadLink,
        abi::OPEN => Operation::Open {
            flags: header.i32()?,
        },
        abi::READ | abi::READDIR | abi::READDIRPLUS => {
            let (_handle, offset, size) = (header.u64()?, header.u64()?, header.u32()?);
            match opcode {
                abi::READ => Operation::Read { offset, size },
                abi::READDIR => Operation::ReadDir { offset, size },
                _ => Operation::ReadDirPlus { offset, size },
            }
        }
        abi::STATFS => Operation::StatFs,
        abi::RELEASE => Operation::Release {
            handle: header.u64()?,
        },
        abi::RELEASEDIR => Operation::ReleaseDir,
        abi::FSYNC | abi::FSYNCDIR => Operation::Fsync,
        abi::LISTXATTR => Operation::ListXattr {
            size: header.u32()?,
        },
        abi::FLUSH => Operation::Flush {
            handle: header.u64()?,
        },
        abi::OPENDIR => Operation::OpenDir,
        abi::FALLOCATE => {
            let (_handle, offset, length) = (header.u64()?, header.u64()?, header.u64()?);
            let mode = header.i32()?;
            Operation::Allocate {
                offset,
                length,
                mode,
            }
        }
        abi::LSEEK => {
            let (_handle, offset, whence) = (header.u64()?, header.i64()?, header.i32()?);
            Operation::Seek { offset, whence }
        }
        abi::INTERRUPT => Operation::Interrupt,
        abi::DESTROY => Operation::Destroy,
        _ => Operation::Other,
    })
}

fn write<'a>(mut header: Fields<'_>, data: &'a mut [u8]) -> Result<Operation<'a>, Malformed> {
    let (_handle, offset) = (header.u64()?, header.u64()?);
    let (size, flags) = (header.u32()?, header.u32()?);
    if u32::try_from(data.len()) != Ok(size) {
        return Err(Malformed);
    }
    Ok(Operation::Write {
        offset,
        data,
        kill: flags & WRITE_KILL_SUIDGID != 0,
    })
}

fn set_xattr<'a>(
    mut header: Fields<'a>,
    mut payload: Fields<'a>,
) -> Result<Operation<'a>, Malformed> {
    let (size, flags) = (header.u32()?, header.i32()?);
    Ok(Operation::SetXattr {
        name: payload.text()?,
        value: payload.rest(size)?,
        flags,
    })
}

fn batch_forget<'a>(header: Fields<'a>, pairs: &'a [u8]) -> Result<Operation<'a>, Malformed> {
    let count = first(header)? as usize;
    if count.checked_mul(16) != Some(pairs.len()) {
        return Err(Malformed);
    }
    Ok(Operation::BatchForget(Forgotten(pairs)))
}

fn set_attr(mut header: Fields<'_>) -> Result<SetAttr, Malformed> {
    let (valid, _padding) = (header.u32()?, header.u32()?);
    let (_handle, size, _lock_owner) = (header.u64()?, header.u64()?, header.u64()?);
    let (atime, mtime, _ctime) = (header.i64()?, header.i64()?, header.i64()?);
    let (atime_ns, mtime_ns, _ctime_ns) = (header.u32()?, header.u32()?, header.u32()?);
    let (mode, _unused) = (header.u32()?, header.u32()?);
    let (uid, gid) = (header.u32()?, header.u32()?);
    let has = |bit: u32| valid & bit != 0;
    let time = |bit, now, seconds, part| {
        has(bit).then(|| {
            if has(now) {
                SetTime::Now
            } else {
                SetTime::At(nanoseconds(seconds, part))
            }
        })
    };
    Ok(SetAttr {
        mode: has(MODE).then_some(mode & 0o7777),
        uid: has(UID).then_some(uid),
        gid: has(GID).then_some(gid),
        size: has(SIZE).then_some(size),
        atime: time(ATIME, ATIME_NOW, atime, atime_ns),
        mtime: time(MTIME, MTIME_NOW, mtime, mtime_ns),
    })
}

/// Nanoseconds since 1970, saturating at the ends of `i64` (the years 1677 and 2262).
fn nanoseconds(seconds: i64, part: u32) -> i64 {
    let exact = i128::from(seconds) * 1_000_000_000 + i128::from(part);
    i64::try_from(exact).unwrap_or(if seconds < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests;
