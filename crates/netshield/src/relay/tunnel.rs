//! A mutually authenticated connection between two relays, before and after it carries a stream.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::frame::FrameError;
use super::handshake::{Established, write_all};
use super::record::{Content, MAX_RECORD, Opener, RecordError, Sealer};
use super::verify::Peer;

/// Bytes in each direction of a path within this machine, four of the largest reads and writes of a relay. Each thread on the
/// way runs until its buffer is full or empty; what is under way is to stay in the processor's caches (decision 9).
const LOCAL_BUFFER: usize = 4 << 20;

/// What ends a tunnel before it carries a stream.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A record is wrong, or an alert came.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// A frame is wrong.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// The peer closed where a frame was due.
    #[error("the peer closed the tunnel")]
    Closed,
}

/// A tunnel on the core that owns it.
pub struct Tunnel {
    pub tcp: TcpStream,
    pub sealer: Sealer,
    pub opener: Opener,
    /// Protected bytes that were read and not opened yet.
    pub received: Vec<u8>,
    pub peer: Peer,
    /// The earlier `notAfter` of both certificates.
    pub expires: Instant,
}

/// A tunnel on its way to another core.
pub struct Parts {
    tcp: StdTcpStream,
    sealer: Sealer,
    opener: Opener,
    received: Vec<u8>,
    peer: Peer,
    expires: Instant,
}

impl Tunnel {
    /// Puts together what the handshake gave.
    pub fn new(tcp: TcpStream, established: Established, peer: Peer, expires: Instant) -> Self {
        let Established {
            sealer,
            opener,
            received,
        } = established;
        Self {
            tcp,
            sealer,
            opener,
            received,
            peer,
            expires,
        }
    }

    /// Sends one frame in a record of its own.
    ///
    /// # Errors
    /// [`TunnelError`].
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), TunnelError> {
        let record = self.sealer.data(frame)?;
        Ok(write_all(&self.tcp, &record).await?)
    }

    /// Sends one frame and closes our direction.
    ///
    /// # Errors
    /// [`TunnelError`].
    pub async fn send_last(mut self, frame: &[u8]) -> Result<(), TunnelError> {
        self.send(frame).await?;
        let record = self.sealer.close_notify()?;
        Ok(write_all(&self.tcp, &record).await?)
    }

    /// The plaintext of the next record with data.
    ///
    /// # Errors
    /// [`TunnelError`].
    pub async fn receive(&mut self) -> Result<Vec<u8>, TunnelError> {
        receive(&self.tcp, &mut self.opener, &mut self.received).await
    }

    /// Detaches the tunnel from this core.
    ///
    /// # Errors
    /// When the socket cannot be deregistered.
    pub fn into_parts(self) -> io::Result<Parts> {
        let Self {
            tcp,
            sealer,
            opener,
            received,
            peer,
            expires,
        } = self;
        Ok(Parts {
            tcp: tcp.into_std()?,
            sealer,
            opener,
            received,
            peer,
            expires,
        })
    }

    /// Attaches a tunnel to this core.
    ///
    /// # Errors
    /// When the socket cannot be registered.
    pub fn from_parts(parts: Parts) -> io::Result<Self> {
        let Parts {
            tcp,
            sealer,
            opener,
            received,
            peer,
            expires,
        } = parts;
        Ok(Self {
            tcp: TcpStream::from_std(tcp)?,
            sealer,
            opener,
            received,
            peer,
            expires,
        })
    }

    /// The two directions.
    pub fn split(self) -> (Outgoing, Incoming) {
        let tcp = Rc::new(self.tcp);
        let outgoing = Outgoing {
            tcp: Rc::clone(&tcp),
            sealer: self.sealer,
        };
        (
            outgoing,
            Incoming {
                tcp,
                opener: self.opener,
                received: self.received,
            },
        )
    }
}

/// The direction from us to the peer.
pub struct Outgoing {
    pub tcp: Rc<TcpStream>,
    pub sealer: Sealer,
}

/// The direction from the peer to us.
pub struct Incoming {
    pub tcp: Rc<TcpStream>,
    pub opener: Opener,
    pub received: Vec<u8>,
}

/// The plaintext of the next record with data; heartbeats are passed over.
///
/// # Errors
/// [`TunnelError`].
pub async fn receive(
    tcp: &TcpStream,
    opener: &mut Opener,
    received: &mut Vec<u8>,
) -> Result<Vec<u8>, TunnelError> {
    loop {
        while let Some((length, content)) = opener.open(received)? {
            let data = match content {
                Content::Data(range) => received.get(range).unwrap_or_default().to_vec(),
                Content::CloseNotify => return Err(TunnelError::Closed),
                Content::KeyUpdate(_) => Vec::new(),
            };
            received.drain(..length);
            if !data.is_empty() {
                return Ok(data);
            }
        }
        tcp.readable().await?;
        let mut buffer = [0; 4096];
        match tcp.try_read(&mut buffer) {
            Ok(0) => return Err(TunnelError::Closed),
            Ok(count) if received.len() + count <= 2 * MAX_RECORD => {
                received.extend_from_slice(buffer.get(..count).unwrap_or_default());
            }
            Ok(_) => return Err(RecordError::Header.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// One read of a socket by `read`, which returns how much came. Less than `room` says that the socket is empty: its readiness is
/// cleared at once, which saves the read that would find nothing. An end or a failure sets it again.
///
/// # Errors
/// What `read` says; `WouldBlock` when nothing is there.
pub fn read_once(
    tcp: &TcpStream,
    room: usize,
    read: impl FnOnce() -> rustix::io::Result<usize>,
) -> io::Result<usize> {
    let mut short = None;
    let done = tcp.try_io(Interest::READABLE, || {
        let count = read()?;
        if count > 0 && count < room {
            short = Some(count);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(count)
    });
    short.map_or(done, Ok)
}

/// Options of every socket between relays: no delay, and keepalive for what heartbeats do not cover.
///
/// # Errors
/// What `setsockopt(2)` says.
pub fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, Duration::from_secs(10))?;
    sockopt::set_tcp_keepintvl(tcp, Duration::from_secs(3))?;
    sockopt::set_tcp_keepcnt(tcp, 3)?;
    let (own, other) = (tcp.local_addr()?.ip(), tcp.peer_addr()?.ip());
    if other.is_loopback() || own == other {
        tune_local(tcp);
    }
    Ok(())
}

/// Options of a path that is memory. There is no bottleneck to find: pacing goes, since BBR's timers cost a sixth of the
/// throughput. What fits into the buffers needs no change of threads; an idle connection has nothing in them.
pub fn tune_local(tcp: &TcpStream) {
    // Always there; if the kernel refuses it, the default stays.
    let _ = sockopt::set_tcp_congestion(tcp, "reno");
    // Needs CAP_NET_ADMIN. Without it the kernel finds sizes by itself, which is better than a small fixed one.
    let _ = sockopt::set_socket_recv_buffer_size_force(tcp, LOCAL_BUFFER);
    let _ = sockopt::set_socket_send_buffer_size_force(tcp, LOCAL_BUFFER);
}

/// Makes the coming close a reset.
pub fn reset_on_close(tcp: &impl AsFd) {
    // Fails only on a socket that is no longer connected; that one is closed anyway.
    let _ = sockopt::set_socket_linger(tcp, Some(Duration::ZERO));
}

/// Undoes [`reset_on_close`].
pub fn end_on_close(tcp: &TcpStream) {
    let _ = sockopt::set_socket_linger(tcp, None);
}
