//! The order of a stream: headers, extended headers, contents, padding, and the blocks of zeros at its end.

use std::io::{self, Read};
use std::path::Path;

use tar::{EntryType, Header};

use super::member::{self, Member};
use super::pax::{self, Record};
use super::{BLOCK, BLOCK_U64, sparse};
use crate::error::PackError;

/// Largest extended header, and most bytes of all those for one member: attributes of a file have up to 256 KiB.
const EXTENDED_MAX: u64 = 1 << 20;
const RECORDS_MAX: usize = 4 << 20;
/// What a record takes beside its key and value.
const RECORD_BYTES: usize = 48;
/// How compressed streams begin.
const COMPRESSED: [(&[u8], &str); 4] = [
    (&[0x1f, 0x8b], "gzip"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (b"BZh", "bzip2"),
];

/// A stream that is being read.
pub(super) struct Stream<'a, R> {
    source: R,
    named: &'a Path,
    /// Bytes of the current content, and of its padding, that were not read.
    content: u64,
    padding: u64,
    /// Records for all members that follow.
    global: Vec<Record>,
    begun: bool,
    /// The last member, for messages.
    last: Vec<u8>,
}

impl<'a, R: Read> Stream<'a, R> {
    pub fn new(source: R, named: &'a Path) -> Self {
        Self {
            source,
            named,
            content: 0,
            padding: 0,
            global: Vec::new(),
            begun: false,
            last: Vec::new(),
        }
    }

    /// The next member; `None` at the end of a stream that is whole.
    pub fn next(&mut self) -> Result<Option<Member>, PackError> {
        self.skip(self.content + self.padding)?;
        (self.content, self.padding) = (0, 0);
        let (mut long_name, mut long_link, mut records) = (None, None, self.global.clone());
        let mut announced = false;
        loop {
            let header = match self.header()? {
                Some(header) => header,
                None if announced => {
                    return Err(self.malformed("ends after a header that announces a member"));
                }
                None => return self.end().map(|()| None),
            };
            announced = true;
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(self.text(&header)?),
                EntryType::GNULongLink => long_link = Some(self.text(&header)?),
                EntryType::XHeader => records.extend(self.records(&header)?),
                EntryType::XGlobalHeader => {
                    let found = self.records(&header)?;
                    self.global.extend(found.iter().cloned());
                    records.extend(found);
                    announced = false;
                }
                _ => {
                    let member = member::interpret(&header, &records, long_name, long_link);
                    let member = member.map_err(|(path, what)| refused(&path, &what))?;
                    return self.begin(&header, member).map(Some);
                }
            }
            let bytes = |(key, value): &Record| key.len() + value.len() + RECORD_BYTES;
            if records.iter().map(bytes).sum::<usize>() > RECORDS_MAX {
                return Err(
                    self.malformed("has more than 4 MiB of extended headers for one member")
                );
            }
        }
    }

    /// Reads content of the current member; 0 at its end.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, PackError> {
        let most = usize::try_from(self.content)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let into = buf.get_mut(..most).unwrap_or_default();
        self.fill(into)?;
        self.content -= most as u64;
        Ok(most)
    }

    fn begin(&mut self, header: &Header, mut member: Member) -> Result<Member, PackError> {
        self.last.clone_from(&member.path);
        let stored = member.stored;
        self.content = stored;
        self.padding = stored.next_multiple_of(BLOCK_U64) - stored;
        let map = if member.map_in_header {
            let gnu = header.as_gnu();
            gnu.and_then(|gnu| sparse::old_form(gnu, &mut self.source))
        } else if member.map_inside {
            let read = sparse::read_inside(&mut self.source, stored);
            read.map(|(parts, bytes)| {
                self.content -= bytes;
                (parts, member.size)
            })
        } else {
            Some((std::mem::take(&mut member.parts), member.size))
        };
        let Some(map) = map.filter(|map| sparse::fits(map, self.content)) else {
            return Err(refused(
                &member.path,
                "has a sparse map that does not fit its content, or the stream is cut there",
            ));
        };
        (member.parts, member.size) = map;
        Ok(member)
    }

    /// The next header, its checksum compared; `None` for a block of zeros.
    fn header(&mut self) -> Result<Option<Header>, PackError> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let got = self.some(block)?;
        let first = !std::mem::replace(&mut self.begun, true);
        if first {
            for (magic, name) in COMPRESSED {
                if block.starts_with(magic) {
                    return Err(PackError::usage(
                        format!("{} is compressed with {name}", self.named.display()),
                        "decompress it on the way, as in `zcat FILE | securetf volume pack - …`",
                    ));
                }
            }
        }
        if got < BLOCK {
            return Err(self.malformed(if first {
                "is no tar stream: it has less than one header"
            } else {
                "is cut: the blocks of zeros at its end are missing"
            }));
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| match at {
                148..156 => u32::from(b' '),
                _ => u32::from(*byte),
            })
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(self.malformed(if first {
                "is no tar stream: the checksum of its first header is wrong"
            } else {
                "is damaged: the checksum of a header is wrong"
            }));
        }
        Ok(Some(header))
    }

    /// Reads to the end, where there are only zeros: the writer of a pipe is not cut off, and no second stream is lost.
    fn end(&mut self) -> Result<(), PackError> {
        let mut rest = vec![0; 1 << 16];
        loop {
            let got = self.some(&mut rest)?;
            if rest.iter().take(got).any(|byte| *byte != 0) {
                return Err(self.malformed("goes on after its end: several streams in one?"));
            }
            if got < rest.len() {
                return Ok(());
            }
        }
    }

    fn records(&mut self, header: &Header) -> Result<Vec<Record>, PackError> {
        let data = self.extended(header)?;
        pax::parse(&data).ok_or_else(|| self.malformed("has a malformed extended header"))
    }

    fn text(&mut self, header: &Header) -> Result<Vec<u8>, PackError> {
        let mut data = self.extended(header)?;
        let end = data.iter().position(|byte| *byte == 0);
        data.truncate(end.unwrap_or(data.len()));
        Ok(data)
    }

    fn extended(&mut self, header: &Header) -> Result<Vec<u8>, PackError> {
        let size = header
            .entry_size()
            .ok()
            .filter(|size| *size <= EXTENDED_MAX);
        let size = size.ok_or_else(|| self.malformed("has an extended header above 1 MiB"))?;
        let mut data = vec![0; usize::try_from(size.next_multiple_of(BLOCK_U64)).unwrap_or(0)];
        self.fill(&mut data)?;
        data.truncate(usize::try_from(size).unwrap_or(0));
        Ok(data)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), PackError> {
        let mut scratch = [0; 16 << 10];
        let mut left = bytes;
        while left > 0 {
            let most = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(scratch.len());
            self.fill(scratch.get_mut(..most).unwrap_or_default())?;
            left -= most as u64;
        }
        Ok(())
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<(), PackError> {
        if self.some(buf)? < buf.len() {
            return Err(self.malformed("is cut: it ends within a member"));
        }
        Ok(())
    }

    /// Fills the buffer; less only at the end of the stream.
    fn some(&mut self, buf: &mut [u8]) -> Result<usize, PackError> {
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.source.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(PackError::io("read", self.named, &error)),
            }
        }
        Ok(filled)
    }

    fn malformed(&self, what: &str) -> PackError {
        let after = match String::from_utf8_lossy(&self.last) {
            name if name.is_empty() => String::new(),
            name => format!(" (after the member {name})"),
        };
        PackError::usage(
            format!("{} {what}{after}", self.named.display()),
            "make the stream anew; the volume was not changed",
        )
    }
}

/// A member that is not taken.
pub(super) fn refused(path: &[u8], what: &str) -> PackError {
    PackError::usage(
        format!("member {} {what}", String::from_utf8_lossy(path)),
        "make the stream without it, or with another name or target; the volume was not changed",
    )
}
