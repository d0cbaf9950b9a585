//! A request as the kernel sends it, by either transport, before its operation is read.

use crate::abi::{self, Fields, IN_HEADER, Malformed};

/// Who asks, and of what (`fuse_in_header`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes of the whole message.
    pub(crate) length: u32,
    pub(crate) opcode: u32,
    /// What the answer repeats.
    pub(crate) unique: u64,
    pub(crate) ino: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Head {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes.get(..IN_HEADER).ok_or(Malformed)?);
        Ok(Self {
            length: fields.u32()?,
            opcode: fields.u32()?,
            unique: fields.u64()?,
            ino: fields.u64()?,
            uid: fields.u32()?,
            gid: fields.u32()?,
        })
    }
}

/// One request: its head, the header of its operation, and the names or the data that follow. Data is sealed where it
/// stands.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) head: Head,
    pub(crate) header: &'a [u8],
    pub(crate) payload: &'a mut [u8],
}

impl<'a> Request<'a> {
    /// Of one message as `/dev/fuse` gives it.
    pub(crate) fn of_message(message: &'a mut [u8]) -> Result<Self, Malformed> {
        let head = Head::parse(message)?;
        if u32::try_from(message.len()) != Ok(head.length) {
            return Err(Malformed);
        }
        let body = message.get_mut(IN_HEADER..).ok_or(Malformed)?;
        let (header, payload) = body
            .split_at_mut_checked(abi::op_header(head.opcode).unwrap_or(0))
            .ok_or(Malformed)?;
        Ok(Self {
            head,
            header,
            payload,
        })
    }

    /// Of the parts that an `io_uring` entry keeps apart: `header` is an area that the operation's header begins.
    pub(crate) fn of_parts(
        head: Head,
        header: &'a [u8],
        payload: &'a mut [u8],
    ) -> Result<Self, Malformed> {
        let Some(size) = abi::op_header(head.opcode) else {
            return Ok(Self {
                head,
                header: &[],
                payload: &mut [],
            });
        };
        let header = header.get(..size).ok_or(Malformed)?;
        let length = IN_HEADER + header.len() + payload.len();
        if u32::try_from(length) != Ok(head.length) {
            return Err(Malformed);
        }
        Ok(Self {
            head,
            header,
            payload,
        })
    }
}
