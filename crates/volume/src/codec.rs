//! Bounded reading and writing of big-endian fields.

use crate::error::VolumeError;

/// Reads fields from the front of a slice; every length is checked before use.
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// `what` names the structure in errors.
    pub fn new(raw: &'a [u8], what: &'static str) -> Self {
        Self { rest: raw, what }
    }

    /// The error for this structure.
    pub fn bad(&self, problem: &str) -> VolumeError {
        malformed(self.what, problem)
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], VolumeError> {
        let (head, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| self.bad("it ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], VolumeError> {
        let (head, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| self.bad("it ends too early"))?;
        self.rest = rest;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, VolumeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, VolumeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, VolumeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, VolumeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64, VolumeError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// Bytes preceded by their length (32 bits), at most `max`.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], VolumeError> {
        let length = self.u32()? as usize;
        if length > max {
            return Err(self.bad("a length is above its limit"));
        }
        self.take(length)
    }
}

/// Appends bytes preceded by their length (32 bits).
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// An authentic structure that this release cannot read, or one that is not authentic and not even well-formed.
pub fn malformed(what: &str, problem: &str) -> VolumeError {
    VolumeError::Format {
        problem: format!("{what} of the volume is malformed: {problem}"),
        fix: "read it with the release that wrote it, or restore the volume directory from another copy".to_owned(),
    }
}

/// Bytes of the store that do not authenticate.
pub fn damaged(what: impl Into<String>, problem: impl Into<String>) -> VolumeError {
    VolumeError::Integrity {
        what: what.into(),
        problem: problem.into(),
    }
}
