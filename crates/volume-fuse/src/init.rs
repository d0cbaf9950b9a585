//! INIT: how the kernel and the server agree to talk.

use nix::errno::Errno;

use crate::abi::{Fields, MAJOR, MINOR, Malformed};
use crate::device::MAX_REQUEST;
use crate::reply::Body;

const ASYNC_READ: u64 = 1;
const ATOMIC_O_TRUNC: u64 = 1 << 3;
/// File handles: "." of an inode is asked for.
const EXPORT_SUPPORT: u64 = 1 << 4;
const BIG_WRITES: u64 = 1 << 5;
const DO_READDIRPLUS: u64 = 1 << 13;
const READDIRPLUS_AUTO: u64 = 1 << 14;
const WRITEBACK_CACHE: u64 = 1 << 16;
const NO_OPEN_SUPPORT: u64 = 1 << 17;
const PARALLEL_DIROPS: u64 = 1 << 18;
const MAX_PAGES: u64 = 1 << 22;
const CACHE_SYMLINKS: u64 = 1 << 23;
const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
/// Cached content is never dropped by mtime: nobody else writes.
const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
/// Else each write is preceded by a GETXATTR of security.capability.
const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
/// There are more than 32 flags.
const INIT_EXT: u64 = 1 << 30;
pub(crate) const OVER_IO_URING: u64 = 1 << 41;

/// The oldest protocol that has what we ask for (Linux 5.4).
const OLDEST_MINOR: u32 = 31;
/// Read-ahead stops at the congestion threshold.
const BACKGROUND: u32 = 64;

/// What the kernel offers (`fuse_init_in`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    major: u32,
    minor: u32,
    max_readahead: u32,
    pub(crate) flags: u64,
}

/// What the server makes of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It is accepted.
    Fits,
    /// A newer major version; the kernel asks again when it hears ours.
    Newer,
    /// Too old.
    Old,
}

impl Offer {
    pub(crate) fn parse(mut fields: Fields<'_>) -> Result<Self, Malformed> {
        let (major, minor) = (fields.u32()?, fields.u32()?);
        let (max_readahead, low) = (fields.u32()?, u64::from(fields.u32()?));
        let high = if low & INIT_EXT == 0 {
            0
        } else {
            fields.u32()?
        };
        Ok(Self {
            major,
            minor,
            max_readahead,
            flags: low | u64::from(high) << 32,
        })
    }

    pub(crate) fn fit(&self) -> Fit {
        match self.major {
            MAJOR if self.minor >= OLDEST_MINOR => Fit::Fits,
            major if major > MAJOR => Fit::Newer,
            _ => Fit::Old,
        }
    }

    /// Writes the answer (`fuse_init_out`), which takes of `wanted` what is offered.
    pub(crate) fn accept(&self, wanted: u64, body: &mut Body<'_>) -> Result<(), Errno> {
        let flags = (wanted | INIT_EXT) & self.flags;
        let [low, high] = [flags, flags >> 32].map(|half| half & u64::from(u32::MAX));
        let [low, high] = [low, high].map(|half| u32::try_from(half).unwrap_or(0));
        let pages = MAX_REQUEST / 4096;
        body.words(&[MAJOR, MINOR, self.max_readahead, low])?;
        body.words(&[BACKGROUND | BACKGROUND << 16, MAX_REQUEST, 1, pages, high])?; // times are exact to 1 ns
        body.bytes(&[0; 28])
    }
}

/// What we ask of the kernel. Where nothing changes, every listing brings the attributes along: that spares a request
/// for each file that is opened later.
pub(crate) fn wanted(read_only: bool, writeback: bool) -> u64 {
    let mut flags = ASYNC_READ
        | ATOMIC_O_TRUNC
        | BIG_WRITES
        | MAX_PAGES
        | DO_READDIRPLUS
        | EXPORT_SUPPORT
        | PARALLEL_DIROPS
        | HANDLE_KILLPRIV_V2
        | CACHE_SYMLINKS
        | NO_OPEN_SUPPORT
        | NO_OPENDIR_SUPPORT
        | EXPLICIT_INVAL_DATA;
    if !read_only {
        flags |= READDIRPLUS_AUTO;
    }
    if writeback {
        flags |= WRITEBACK_CACHE;
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(words: &[u32]) -> Result<Offer, Malformed> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Offer::parse(Fields::new(&bytes))
    }

    #[test]
    fn writeback_is_only_asked_for_when_it_was_chosen() {
        assert_ne!(wanted(false, true) & WRITEBACK_CACHE, 0);
        assert_eq!(wanted(false, false) & WRITEBACK_CACHE, 0);
    }

    #[test]
    fn offers_of_older_and_newer_kernels_are_told_apart() {
        let fit = |major, minor| offer(&[major, minor, 0, 0]).map(|offer| offer.fit());
        assert_eq!(fit(7, 31), Ok(Fit::Fits));
        assert_eq!(fit(7, 30), Ok(Fit::Old));
        assert_eq!(fit(6, 99), Ok(Fit::Old));
        assert_eq!(fit(8, 0), Ok(Fit::Newer));
        assert_eq!(offer(&[7, 31, 0]), Err(Malformed));
        assert_eq!(
            offer(&[7, 45, 0, 1 << 30]),
            Err(Malformed),
            "flags2 is missing"
        );
    }

    #[test]
    fn answer_takes_only_what_was_offered_and_has_the_kernels_size() {
        let asked = offer(&[7, 45, 131_072, 1 << 30 | 1, 1 << 9]).expect("whole");
        let mut bytes = [0; 64];
        let mut body = Body::new(&mut bytes);
        asked
            .accept(wanted(true, true) | OVER_IO_URING, &mut body)
            .expect("it fits");
        assert_eq!(body.len(), 64);
        assert_eq!(bytes[12..16], (1_u32 << 30 | 1).to_ne_bytes());
        assert_eq!(bytes[32..36], (1_u32 << 9).to_ne_bytes());
    }
}
