//! What relay and interceptors tell each other.

use std::io;
use std::net::{SocketAddr, TcpStream};

/// A connection that the program opened, with where it wanted to go.
#[derive(Debug)]
pub struct Outbound {
    /// Our end of the program's connection.
    pub stream: TcpStream,
    /// Original destination; IPv4-mapped addresses are given as IPv4.
    pub destination: SocketAddr,
    /// Source address of the program's socket.
    pub source: SocketAddr,
}

/// How the relay reaches the program for a connection that a peer opened and the policy allows.
pub trait Inner: Send + Sync {
    /// Connect to the program's `port`; the program sees `peer` as the other end where the interceptor can do that.
    ///
    /// # Errors
    /// What `connect(2)` says: `ConnectionRefused` when the program does not listen.
    fn dial(&self, port: u16, peer: SocketAddr) -> io::Result<TcpStream>;

    /// Connect to the program's `port` on its own loopback, for a client outside of the session: 127.0.0.1, then `::1`.
    /// What listens on all addresses is found there, too.
    ///
    /// # Errors
    /// As [`Inner::dial`].
    fn dial_loopback(&self, port: u16) -> io::Result<TcpStream>;
}

/// One refusal, for the log and the CAS's audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Seconds since the epoch by the local clock.
    pub time_s: u64,
    /// `outbound` or `inbound`.
    pub direction: &'static str,
    /// `pid comm` of the program's process where it is known, else empty.
    pub process: String,
    /// Where the connection wanted to go.
    pub destination: String,
    /// Why not, in plain words.
    pub reason: String,
}

/// Takes denials; bounded, never blocks, counts what it drops.
pub trait DenialLog: Send + Sync {
    /// Note one refusal.
    fn deny(&self, denial: Denial);
}
