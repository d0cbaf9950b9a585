//! Frames of the tunnel protocol, version 1: `docs/formats/tunnel-v1.md` section 3. Each is alone in its TLS record.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const VERSION: u8 = 1;
const OPEN: u8 = 1;
const RESUME: u8 = 2;
const HEADER: usize = 4;
/// Longest name of a workload in bytes.
const MAX_NAME: usize = 64;
/// Longest frame in bytes.
pub const MAX_FRAME: usize = HEADER + 32 + 2 + 2 + 2 + 1 + 16 + 2 + 1 + MAX_NAME;

/// 32 random bytes, chosen by the side that dials; knowing them is needed to resume a stream.
pub type StreamId = [u8; 32];

/// The first frame of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A new connection of the program.
    Open(Open),
    /// An existing stream goes on in this tunnel.
    Resume(StreamId),
}

/// Where a new connection goes and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Name of the stream.
    pub stream: StreamId,
    /// Workload that is dialled.
    pub workload: String,
    /// Instance that is dialled.
    pub instance: u16,
    /// TCP port that is dialled.
    pub port: u16,
    /// Instance of the dialling workload.
    pub source_instance: u16,
    /// Virtual address and port of the dialling program.
    pub source: SocketAddr,
}

/// A frame is not as section 3 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another protocol version.
    #[error("frame version {0} is unknown")]
    Version(u8),
    /// Another kind of frame.
    #[error("frame kind {0} is unknown")]
    Kind(u8),
    /// The length does not match the bytes or the kind.
    #[error("the frame has a wrong length")]
    Length,
    /// A field is out of range.
    #[error("frame field {0} is out of range")]
    Field(&'static str),
}

impl Frame {
    /// Parses exactly one frame.
    ///
    /// # Errors
    /// [`FrameError`] for the first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        let (&[version, kind, high, low], body) =
            bytes.split_first_chunk().ok_or(FrameError::Length)?;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if bytes.len() > MAX_FRAME || body.len() != usize::from(u16::from_be_bytes([high, low])) {
            return Err(FrameError::Length);
        }
        match kind {
            OPEN => Open::parse(body).map(Self::Open),
            RESUME => body
                .try_into()
                .map(Self::Resume)
                .map_err(|_| FrameError::Length),
            other => Err(FrameError::Kind(other)),
        }
    }

    /// The bytes of the frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Open(open) => (OPEN, open.encode()),
            Self::Resume(stream) => (RESUME, stream.to_vec()),
        };
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
        [&[VERSION, kind], &length[..], &body].concat()
    }
}

impl Open {
    fn parse(body: &[u8]) -> Result<Self, FrameError> {
        let (stream, rest) = body.split_first_chunk::<32>().ok_or(FrameError::Length)?;
        let (port, rest) = number(rest)?;
        let (instance, rest) = number(rest)?;
        let (source_instance, rest) = number(rest)?;
        let (&family, rest) = rest.split_first().ok_or(FrameError::Length)?;
        let (address, rest): (IpAddr, _) = match family {
            4 => rest
                .split_first_chunk::<4>()
                .map(|(ip, rest)| (Ipv4Addr::from(*ip).into(), rest)),
            6 => rest
                .split_first_chunk::<16>()
                .map(|(ip, rest)| (Ipv6Addr::from(*ip).into(), rest)),
            _ => return Err(FrameError::Field("address family")),
        }
        .ok_or(FrameError::Length)?;
        let (source_port, rest) = number(rest)?;
        let (&length, name) = rest.split_first().ok_or(FrameError::Length)?;
        if name.len() != usize::from(length) {
            return Err(FrameError::Length);
        }
        if port == 0 || source_port == 0 {
            return Err(FrameError::Field("port"));
        }
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        if name.is_empty() || name.len() > MAX_NAME || !name.iter().all(allowed) {
            return Err(FrameError::Field("workload"));
        }
        let workload = std::str::from_utf8(name)
            .map_err(|_| FrameError::Field("workload"))?
            .to_owned();
        let source = SocketAddr::new(address, source_port);
        Ok(Self {
            stream: *stream,
            workload,
            instance,
            port,
            source_instance,
            source,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = self.stream.to_vec();
        for number in [self.port, self.instance, self.source_instance] {
            body.extend(number.to_be_bytes());
        }
        match self.source.ip() {
            IpAddr::V4(ip) => {
                body.push(4);
                body.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                body.push(6);
                body.extend(ip.octets());
            }
        }
        body.extend(self.source.port().to_be_bytes());
        body.push(u8::try_from(self.workload.len()).unwrap_or(u8::MAX));
        body.extend(self.workload.as_bytes());
        body
    }
}

fn number(bytes: &[u8]) -> Result<(u16, &[u8]), FrameError> {
    let (two, rest) = bytes.split_first_chunk().ok_or(FrameError::Length)?;
    Ok((u16::from_be_bytes(*two), rest))
}

/// The one-byte answer to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Bytes of the stream follow.
    Ok = 1,
    /// The policy does not allow it.
    Refused = 2,
    /// The program does not accept a connection on that port.
    NotListening = 3,
    /// There is no such stream of this peer.
    UnknownStream = 4,
}

impl Answer {
    /// Parses exactly one answer.
    ///
    /// # Errors
    /// [`FrameError`] for another length or value.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        match bytes {
            [1] => Ok(Self::Ok),
            [2] => Ok(Self::Refused),
            [3] => Ok(Self::NotListening),
            [4] => Ok(Self::UnknownStream),
            [_] => Err(FrameError::Field("answer")),
            _ => Err(FrameError::Length),
        }
    }
}

/// The first frame of each direction of a tunnel that resumes a stream, after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// Bytes of the stream that this side had sent in this direction before this tunnel.
    pub sent: u64,
    /// True when they were all: the program had closed its writing side.
    pub finished: bool,
}

impl Switch {
    /// Parses exactly 9 bytes.
    ///
    /// # Errors
    /// [`FrameError`] for another length or flag.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        let (sent, flag) = bytes.split_first_chunk().ok_or(FrameError::Length)?;
        let finished = match flag {
            [0] => false,
            [1] => true,
            [_] => return Err(FrameError::Field("finished")),
            _ => return Err(FrameError::Length),
        };
        Ok(Self {
            sent: u64::from_be_bytes(*sent),
            finished,
        })
    }

    /// The 9 bytes.
    #[must_use]
    pub fn encode(self) -> [u8; 9] {
        let mut bytes = [0; 9];
        let (sent, flag) = bytes.split_at_mut(8);
        sent.copy_from_slice(&self.sent.to_be_bytes());
        flag.fill(self.finished.into());
        bytes
    }
}
