//! What the parts of one stream share: where it stands between its tunnels, and why it ended.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::record::RecordError;
use super::stats::Stats;
use super::tunnel::{TunnelError, end_on_close, reset_on_close};

/// Why a stream is cut: both programs get a reset.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// Our program's socket failed, usually by a reset of its own.
    #[error("the program reset the connection: {0}")]
    Program(io::Error),
    /// The tunnel's socket failed, usually because the other program reset its connection.
    #[error("the tunnel broke: {0}")]
    Tunnel(#[from] TunnelError),
    /// The tunnel ended without `close_notify`.
    #[error("the tunnel ended without close_notify")]
    Truncated,
    /// Bytes are missing or doubled at the change from one tunnel to the next.
    #[error("the stream is not whole where it changed tunnels")]
    NotWhole,
    /// Nothing was heard from the peer, not even a heartbeat.
    #[error("the peer is silent")]
    Silent,
    /// A certificate expired and the stream could not go on under a new one.
    #[error("the certificate expired")]
    Expired,
    /// This relay's right to the network was taken away.
    #[error("revoked: {0}")]
    Revoked(Arc<str>),
    /// A later attestation of the peer was seen.
    #[error("the peer was replaced")]
    Replaced,
    /// It is unknown whether the peer has changed tunnels.
    #[error("the change of tunnels was not answered")]
    Unanswered,
}

impl From<RecordError> for Cut {
    fn from(error: RecordError) -> Self {
        Self::Tunnel(error.into())
    }
}

/// A tunnel that we asked the peer to change to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// None.
    No,
    /// It has not answered yet.
    Waiting,
    /// It will not answer: the tunnel is gone.
    Unanswered,
}

/// Shared by the directions and the guards of one stream, all on one core.
pub struct Link {
    pub program: TcpStream,
    pub stats: Arc<Stats>,
    /// No more bytes from our program; the peer was told.
    pub up_finished: Cell<bool>,
    /// No more bytes from the peer; our program was told.
    pub down_finished: Cell<bool>,
    /// Tunnels agreed on that a direction has not changed to yet.
    pub up_moves: Cell<u32>,
    pub down_moves: Cell<u32>,
    /// The last tunnel of the peer's direction has been read to its `close_notify`.
    pub down_settled: Cell<bool>,
    /// The peer has closed the last tunnel: its program has got everything.
    pub peer_done: Cell<bool>,
    pub asked: Cell<Asked>,
    pub expires: Cell<Instant>,
    /// Sockets of all tunnels so far.
    tunnels: RefCell<Vec<Weak<TcpStream>>>,
    /// Something above has changed.
    pub changed: Notify,
}

impl Link {
    pub fn new(program: TcpStream, stats: Arc<Stats>, expires: Instant) -> Self {
        Self {
            program,
            stats,
            up_finished: Cell::new(false),
            down_finished: Cell::new(false),
            up_moves: Cell::new(0),
            down_moves: Cell::new(0),
            down_settled: Cell::new(false),
            peer_done: Cell::new(false),
            asked: Cell::new(Asked::No),
            expires: Cell::new(expires),
            tunnels: RefCell::default(),
            changed: Notify::new(),
        }
    }

    /// Both programs' bytes have all been passed on by us, and no change of tunnels is under way.
    pub fn is_done(&self) -> bool {
        let finished =
            self.up_finished.get() && self.down_finished.get() && self.down_settled.get();
        let moves = self.up_moves.get() + self.down_moves.get();
        finished && moves == 0 && self.asked.get() != Asked::Waiting
    }

    /// [`Link::is_done`] here and at the peer. Until then the peer may have bytes of ours that its program has not read,
    /// so the stream must live on, and change tunnels, for the peer's sake. Then nothing is unread, so that closing
    /// the sockets cannot turn into resets that overtake what was sent.
    pub fn is_complete(&self) -> bool {
        self.is_done() && self.peer_done.get()
    }

    /// The program has all it will get, so that closing its socket may be an end. Until now it was a reset, also for the
    /// kernel that closes the sockets of a relay that was killed.
    pub fn program_is_done(&self) {
        end_on_close(&self.program);
    }

    /// Tells the peer that we are done: the end of the TCP connection, after `close_notify`.
    pub fn tell_done(&self) {
        for tunnel in self.tunnels.borrow().iter().filter_map(Weak::upgrade) {
            // Fails only when the peer is gone.
            let _ = rustix::net::shutdown(&*tunnel, rustix::net::Shutdown::Write);
        }
    }

    /// Notes a tunnel of this stream.
    pub fn joins(&self, tunnel: &Rc<TcpStream>) {
        let mut tunnels = self.tunnels.borrow_mut();
        tunnels.retain(|one| one.strong_count() > 0);
        tunnels.push(Rc::downgrade(tunnel));
    }

    /// Makes the coming close of every socket a reset.
    pub fn cut(&self) {
        reset_on_close(&self.program);
        for tunnel in self.tunnels.borrow().iter().filter_map(Weak::upgrade) {
            reset_on_close(&*tunnel);
        }
    }

    /// Changes a cell and wakes who waits for it.
    pub fn set<T>(&self, cell: &Cell<T>, value: T) {
        cell.set(value);
        self.changed.notify_waiters();
    }

    /// A new tunnel is agreed on: both directions will change to it.
    pub fn agreed(&self, expires: Instant) {
        self.up_moves.set(self.up_moves.get() + 1);
        self.down_moves.set(self.down_moves.get() + 1);
        self.expires.set(expires);
        self.set(&self.asked, Asked::No);
    }
}
