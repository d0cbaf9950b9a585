//! What relay and interceptors tell each other.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

/// A connection that the program opened, with where it wanted to go.
#[derive(Debug)]
pub struct Outbound {
    /// Our end of the program's connection.
    pub stream: TcpStream,
    /// Original destination; IPv4-mapped addresses are given as IPv4.
    pub destination: SocketAddr,
    /// Source address of the program's socket.
    pub source: SocketAddr,
    /// Who opened it.
    pub caller: Caller,
}

/// Which process of the program opened a connection, as far as the interceptor knows; found when it is asked for.
#[derive(Clone)]
pub struct Caller(Arc<dyn Fn() -> String + Send + Sync>);

impl Caller {
    /// `describe` gives `pid comm`, or `one of` several.
    pub fn new(describe: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(describe))
    }

    /// `pid comm`, `one of …` when several may be it.
    #[must_use]
    pub fn describe(&self) -> String {
        (self.0)()
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Caller").finish_non_exhaustive()
    }
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
