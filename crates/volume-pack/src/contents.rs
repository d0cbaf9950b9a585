//! The contents of one file, between a plain tree and a volume. Holes stay holes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use volume::{Attr, Ino, Seek, SetAttr, Volume, VolumeError};

use crate::progress::Meter;
use crate::resume::holds;

/// Bytes that are compared and written at once: whole chunks of any size that a volume may have.
const BLOCK: usize = 1 << 20;
const BLOCK_U64: u64 = BLOCK as u64;

/// Which side failed.
pub(crate) enum Failed {
    Plain(io::Error),
    Volume(VolumeError),
}

impl From<VolumeError> for Failed {
    fn from(error: VolumeError) -> Self {
        Self::Volume(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Plain(error)
    }
}

/// Copies contents, with room for a block of both sides.
pub(crate) struct Copier<'a> {
    volume: &'a Volume,
    meter: &'a Meter,
    plain: Vec<u8>,
    stored: Vec<u8>,
}

impl<'a> Copier<'a> {
    pub(crate) fn new(volume: &'a Volume, meter: &'a Meter) -> Self {
        Self {
            volume,
            meter,
            plain: vec![0; BLOCK],
            stored: Vec::new(),
        }
    }

    /// Makes the contents of `ino` those of `file`, writes only what differs, and tells whether anything did. What cannot
    /// be read of the older contents counts as different: the whole file is then written anew.
    pub(crate) fn bring(&mut self, file: &File, ino: Ino) -> Result<bool, Failed> {
        let size = self.volume.attr(ino)?.size;
        match self.bring_over(file, ino, size) {
            Err(Failed::Volume(VolumeError::Integrity { .. })) => {
                self.resize(ino, 0)?;
                self.bring_over(file, ino, 0).map(|_| true)
            }
            other => other,
        }
    }

    /// The same, over contents of `old` bytes.
    fn bring_over(&mut self, file: &File, ino: Ino, old: u64) -> Result<bool, Failed> {
        let mut length = file.metadata()?.len();
        let (mut at, mut changed) = (0, false);
        while at < length && !self.meter.stopped() {
            let data = next_data(file, at, length)?;
            changed |= self.hole(ino, at..data.start.min(old))?;
            at = data.start;
            while at < data.end.min(length) && !self.meter.stopped() {
                let end = block_end(at, data.end);
                let (count, written) = self.block(file, ino, at..end, old)?;
                changed |= written;
                at += count as u64;
                if at < end {
                    length = at; // it became shorter meanwhile
                }
            }
        }
        if self.volume.attr(ino)?.size != length && !self.meter.stopped() {
            self.resize(ino, length)?;
            changed = true;
        }
        Ok(changed)
    }

    /// Makes a range of the older contents zeros, if it is anything else.
    fn hole(&mut self, ino: Ino, range: Range<u64>) -> Result<bool, Failed> {
        let (mut at, mut changed) = (range.start, false);
        while at < range.end && !self.meter.stopped() {
            let from = match self.volume.seek(ino, at, Seek::Data) {
                Err(VolumeError::NoMore) => break,
                other => other?.min(range.end),
            };
            let end = block_end(from, range.end);
            let there = stored(self.volume, ino, &(from..end), &mut self.stored)?;
            if there.iter().any(|byte| *byte != 0) {
                self.volume.zero(ino, from, end - from, true)?;
                changed = true;
            }
            at = end;
        }
        Ok(changed)
    }

    /// Brings at most a block; returns how much of it the plain file has, and whether it was written.
    fn block(
        &mut self,
        file: &File,
        ino: Ino,
        range: Range<u64>,
        old: u64,
    ) -> Result<(usize, bool), Failed> {
        let count = read_full(file, range.start, window(&mut self.plain, &range))?;
        let data = self.plain.get(..count).unwrap_or_default();
        let here = range.start..range.start + count as u64;
        if here.end <= old && stored(self.volume, ino, &here, &mut self.stored)? == data {
            return Ok((count, false));
        }
        self.volume.write(ino, here.start, data)?;
        self.meter.add_bytes(count);
        Ok((count, count > 0))
    }

    fn resize(&self, ino: Ino, size: u64) -> Result<(), VolumeError> {
        let size = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        self.volume.set_attr(ino, &size).map(drop)
    }

    /// Writes the contents of a file of the volume, every byte verified, to `file`, which is empty.
    pub(crate) fn restore(&mut self, attr: &Attr, file: &File) -> Result<(), Failed> {
        let mut at = 0;
        while at < attr.size && !self.meter.stopped() {
            at = match self.volume.seek(attr.ino, at, Seek::Data) {
                Err(VolumeError::NoMore) => break,
                other => other?,
            };
            let end = self.volume.seek(attr.ino, at, Seek::Hole)?;
            while at < end && !self.meter.stopped() {
                let count = self
                    .volume
                    .read(attr.ino, at, window(&mut self.plain, &(at..end)))?;
                if count == 0 {
                    let text = "the file became shorter meanwhile".to_owned();
                    return Err(VolumeError::Io(text).into());
                }
                file.write_all_at(self.plain.get(..count).unwrap_or_default(), at)?;
                self.meter.add_bytes(count);
                at += count as u64;
            }
        }
        if at < attr.size {
            file.set_len(attr.size)?; // it ends with a hole
        }
        Ok(())
    }

    /// As [`Copier::restore`], over what an earlier run wrote; returns how many bytes were there, and whether any was not.
    pub(crate) fn go_on(&mut self, attr: &Attr, file: &File) -> Result<(u64, bool), Failed> {
        let (mut at, mut kept, mut written) = (0, 0, false);
        while at < attr.size && !self.meter.stopped() {
            let count = self.volume.read(attr.ino, at, &mut self.plain)?;
            if count == 0 {
                break;
            }
            let bytes = self.plain.get(..count).unwrap_or_default();
            if holds(file, at, bytes, &mut self.stored) {
                kept += count as u64;
            } else {
                file.write_all_at(bytes, at)?;
                written = true;
            }
            self.meter.add_bytes(count);
            at += count as u64;
        }
        if !self.meter.stopped() {
            file.set_len(at)?;
        }
        Ok((kept, written))
    }
}

/// At most a block of what the volume has.
fn stored<'a>(
    volume: &Volume,
    ino: Ino,
    range: &Range<u64>,
    buffer: &'a mut Vec<u8>,
) -> Result<&'a [u8], VolumeError> {
    buffer.resize(BLOCK, 0);
    let count = volume.read(ino, range.start, window(buffer, range))?;
    Ok(buffer.get(..count).unwrap_or_default())
}

/// Where the block that `at` lies in ends, or the range before it.
fn block_end(at: u64, end: u64) -> u64 {
    end.min((at / BLOCK_U64 + 1).saturating_mul(BLOCK_U64))
}

/// The part of a buffer that a range takes.
fn window<'a>(buffer: &'a mut [u8], range: &Range<u64>) -> &'a mut [u8] {
    let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let most = wanted.min(buffer.len());
    buffer.get_mut(..most).unwrap_or_default()
}

/// The next range with data from `at` on; an empty one at `length` when none follows.
fn next_data(file: &File, at: u64, length: u64) -> io::Result<Range<u64>> {
    let from = match seek(file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => return Ok(length..length),
        Err(Errno::INVAL) => return Ok(at..length), // this file system does not tell
        other => other?,
    };
    let end = match seek(file, SeekFrom::Hole(from)) {
        Err(Errno::NXIO) => length, // it became shorter meanwhile
        other => other?,
    };
    Ok(from.min(length)..end.min(length))
}

/// Fills the buffer; less only at the end of the file.
fn read_full(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
