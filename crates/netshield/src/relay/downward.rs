//! From the peer to the program: read many records, open them where they lie, give them to the program in one write.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::rc::Rc;

use rustix::net::RecvFlags;
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until, timeout};

use super::frame::Switch;
use super::limits::Limits;
use super::link::{Asked, Cut, Link};
use super::pool::Buffer;
use super::record::{Content, MAX_RECORD, RecordError};
use super::stats::add;
use super::tunnel::{Incoming, TunnelError, read_once, receive};
use super::unanswered::unanswered;

/// Records given to the program with one system call.
const BATCH: usize = 64;
/// Reads in a row before other streams of the core get their turn.
const TURNS: u32 = 8;

/// The direction from the peer to our program.
pub struct Downward {
    pub link: Rc<Link>,
    pub tunnel: Incoming,
    /// Tunnels to change to, in order.
    pub next: UnboundedReceiver<Incoming>,
    pub limits: Limits,
    received: u64,
}

impl Downward {
    pub fn new(
        link: Rc<Link>,
        tunnel: Incoming,
        next: UnboundedReceiver<Incoming>,
        limits: Limits,
    ) -> Self {
        Self {
            link,
            tunnel,
            next,
            limits,
            received: 0,
        }
    }

    /// Runs until the stream is cut; after the end of the peer's bytes it only changes tunnels.
    pub async fn run(mut self) -> Result<Infallible, Cut> {
        loop {
            self.until_close_notify().await?;
            self.at_close_notify().await?;
        }
    }

    /// Gives the program what comes in this tunnel until its `close_notify`.
    async fn until_close_notify(&mut self) -> Result<(), Cut> {
        let mut held: Option<Buffer> = None;
        let mut filled = 0;
        let mut last_heard = Instant::now();
        let mut silence = std::pin::pin!(sleep_until(last_heard + self.limits.silence));
        let mut turns = 0;
        loop {
            let mut buffer = held.take().unwrap_or_else(Buffer::take);
            if filled == 0 && !self.tunnel.received.is_empty() {
                filled = self.take_leftover(&mut buffer);
            } else {
                let room = buffer.bytes().get_mut(filled..).unwrap_or_default();
                let tcp = &self.tunnel.tcp;
                match read_once(tcp, room.len(), || {
                    rustix::net::recv(tcp, room, RecvFlags::empty()).map(|(count, _)| count)
                }) {
                    Ok(0) => return Err(Cut::Truncated),
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if filled > 0 {
                            held = Some(buffer);
                        } else {
                            drop(buffer);
                        }
                        tokio::select! {
                            biased;
                            ready = self.tunnel.tcp.readable() => ready.map_err(TunnelError::Io)?,
                            () = &mut silence => {
                                if last_heard.elapsed() >= self.limits.silence {
                                    return Err(Cut::Silent);
                                }
                                silence.as_mut().reset(last_heard + self.limits.silence);
                            }
                        }
                        continue;
                    }
                    Err(error) => return Err(TunnelError::Io(error).into()),
                }
            }
            let (used, closed) = self.deliver(buffer.bytes(), filled).await?;
            last_heard = Instant::now();
            if closed {
                let is_last = used == filled && self.tunnel.received.is_empty();
                let nothing_follows = if is_last {
                    Ok(())
                } else {
                    Err(RecordError::Header)
                };
                return nothing_follows.map_err(Cut::from);
            }
            buffer.bytes().copy_within(used..filled, 0);
            filled -= used;
            held = (filled > 0).then_some(buffer);
            turns += 1;
            if turns % TURNS == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Bytes that were read with the frame before.
    fn take_leftover(&mut self, buffer: &mut Buffer) -> usize {
        let leftover = std::mem::take(&mut self.tunnel.received);
        let (now, later) = leftover.split_at(leftover.len().min(MAX_RECORD));
        buffer
            .bytes()
            .get_mut(..now.len())
            .unwrap_or_default()
            .copy_from_slice(now);
        self.tunnel.received = later.to_vec();
        now.len()
    }

    /// Opens every whole record and writes the plaintext; returns the bytes used and whether `close_notify` was among them.
    async fn deliver(&mut self, bytes: &mut [u8], filled: usize) -> Result<(usize, bool), Cut> {
        let mut used = 0;
        loop {
            let mut ranges: [Range<usize>; BATCH] = std::array::from_fn(|_| 0..0);
            let mut count = 0;
            let mut more = true;
            let mut closed = false;
            while more && count < BATCH {
                let rest = bytes.get_mut(used..filled).unwrap_or_default();
                match self.tunnel.opener.open(rest)? {
                    None => more = false,
                    Some((length, content)) => {
                        match (content, ranges.get_mut(count)) {
                            (Content::Data(range), Some(slot)) if !range.is_empty() => {
                                *slot = used + range.start..used + range.end;
                                count += 1;
                            }
                            (Content::CloseNotify, _) => {
                                closed = true;
                                more = false;
                            }
                            _ => {}
                        }
                        used += length;
                    }
                }
            }
            let ranges = ranges.get(..count).unwrap_or_default();
            let total: usize = ranges.iter().map(Range::len).sum();
            write_ranges(&self.link.program, bytes, ranges)
                .await
                .map_err(Cut::Program)?;
            self.received += total as u64;
            add(&self.link.stats.received_bytes, total as u64);
            if closed || !more {
                return Ok((used, closed));
            }
        }
    }

    /// `close_notify` is the end of the peer's bytes, unless a change of tunnels is under way.
    async fn at_close_notify(&mut self) -> Result<(), Cut> {
        loop {
            match (self.link.down_moves.get(), self.link.asked.get()) {
                (0, Asked::No) => {
                    self.finish()?;
                    tokio::select! {
                        biased;
                        Some(tunnel) = self.next.recv() => return self.change(tunnel).await,
                        ended = end_of(&self.tunnel.tcp), if !self.link.peer_done.get() => {
                            ended?;
                            self.link.set(&self.link.peer_done, true);
                        }
                        () = unanswered(&self.tunnel.tcp, self.limits), if !self.link.peer_done.get() => {
                            if !self.link.is_done() {
                                return Err(Cut::Silent);
                            }
                            // Our program has got everything, and what it sent is with the peer's machine or lost with it.
                            self.link.set(&self.link.peer_done, true);
                        }
                        () = self.link.changed.notified() => {}
                    }
                }
                (0, Asked::Waiting) => self.link.changed.notified().await,
                (0, Asked::Unanswered) => return Err(Cut::Unanswered),
                _ => match self.next.recv().await {
                    Some(tunnel) => return self.change(tunnel).await,
                    None => std::future::pending().await,
                },
            }
        }
    }

    fn finish(&self) -> Result<(), Cut> {
        if self.link.down_finished.get() {
            self.link.set(&self.link.down_settled, true);
            return Ok(());
        }
        // ENOTCONN says that the program is gone; then there is nobody to tell.
        match rustix::net::shutdown(&self.link.program, rustix::net::Shutdown::Write) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => {}
            Err(error) => return Err(Cut::Program(error.into())),
        }
        self.link.down_settled.set(true);
        self.link.set(&self.link.down_finished, true);
        Ok(())
    }

    /// Goes on in the next tunnel; its first frame says how many bytes came before it.
    async fn change(&mut self, tunnel: Incoming) -> Result<(), Cut> {
        self.link.down_settled.set(false);
        self.link.peer_done.set(false);
        self.tunnel = tunnel;
        let Incoming {
            tcp,
            opener,
            received,
        } = &mut self.tunnel;
        let frame = timeout(self.limits.silence, receive(tcp, opener, received))
            .await
            .map_err(|_| Cut::Silent)??;
        let switch = Switch::parse(&frame).map_err(TunnelError::Frame)?;
        let must_be_finished = self.link.down_finished.get();
        if switch.sent != self.received || (must_be_finished && !switch.finished) {
            return Err(Cut::NotWhole);
        }
        self.link.set(
            &self.link.down_moves,
            self.link.down_moves.get().saturating_sub(1),
        );
        Ok(())
    }
}

async fn write_ranges(tcp: &TcpStream, bytes: &[u8], ranges: &[Range<usize>]) -> io::Result<()> {
    let mut slices: [IoSlice<'_>; BATCH] = std::array::from_fn(|index| {
        let range = ranges.get(index).cloned().unwrap_or_default();
        IoSlice::new(bytes.get(range).unwrap_or_default())
    });
    let mut left = slices.get_mut(..ranges.len()).unwrap_or_default();
    while !left.is_empty() {
        match tcp.try_write_vectored(left) {
            Ok(count) => IoSlice::advance_slices(&mut left, count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tcp.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits for the end of the TCP connection behind `close_notify`; a peer that is gone has ended it too.
async fn end_of(tcp: &TcpStream) -> Result<(), Cut> {
    loop {
        if tcp.readable().await.is_err() {
            return Ok(());
        }
        match tcp.try_read(&mut [0]) {
            Ok(0) => return Ok(()),
            Ok(_) => return Err(TunnelError::Record(RecordError::Header).into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Ok(()),
        }
    }
}
