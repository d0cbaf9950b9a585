//! From the program to the peer: read into the places of full records, seal them where they lie, write them at once.

use std::convert::Infallible;
use std::io::{self, IoSliceMut};
use std::rc::Rc;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use super::frame::Switch;
use super::handshake::write_all;
use super::limits::Limits;
use super::link::{Cut, Link};
use super::pool::{Buffer, RECORDS};
use super::record::{HEADER, MAX_PLAIN, STRIDE};
use super::stats::add;
use super::tunnel::{Outgoing, TunnelError, read_once};

/// Reads in a row before other streams of the core get their turn.
const TURNS: u32 = 8;

/// The direction from our program to the peer.
pub struct Upward {
    pub link: Rc<Link>,
    pub tunnel: Outgoing,
    /// Tunnels to change to, in order.
    pub next: UnboundedReceiver<Outgoing>,
    pub limits: Limits,
    sent: u64,
}

impl Upward {
    pub fn new(
        link: Rc<Link>,
        tunnel: Outgoing,
        next: UnboundedReceiver<Outgoing>,
        limits: Limits,
    ) -> Self {
        Self {
            link,
            tunnel,
            next,
            limits,
            sent: 0,
        }
    }

    /// Runs until the stream is cut; after the end of the program's bytes it only changes tunnels.
    pub async fn run(mut self) -> Result<Infallible, Cut> {
        let mut heartbeat = std::pin::pin!(sleep_until(Instant::now() + self.limits.heartbeat));
        let mut last_sent = Instant::now();
        let mut turns = 0;
        loop {
            while let Ok(tunnel) = self.next.try_recv() {
                self.change(tunnel).await?;
            }
            if self.link.up_finished.get() {
                match self.next.recv().await {
                    Some(tunnel) => self.change(tunnel).await?,
                    None => std::future::pending().await,
                }
                continue;
            }
            match self.forward().await? {
                Forwarded::Bytes => {
                    last_sent = Instant::now();
                    turns += 1;
                    if turns % TURNS == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                Forwarded::End => self.finish().await?,
                Forwarded::Nothing => {
                    tokio::select! {
                        biased;
                        ready = self.link.program.readable() => ready.map_err(Cut::Program)?,
                        Some(tunnel) = self.next.recv() => self.change(tunnel).await?,
                        () = &mut heartbeat => {
                            if last_sent.elapsed() >= self.limits.heartbeat {
                                self.send(&[]).await?;
                                last_sent = Instant::now();
                            }
                            heartbeat.as_mut().reset(last_sent + self.limits.heartbeat);
                        }
                    }
                }
            }
        }
    }

    /// Reads once and sends what came.
    async fn forward(&mut self) -> Result<Forwarded, Cut> {
        let mut buffer = Buffer::take();
        let capacity = buffer.records();
        let count = {
            let mut places = buffer.bytes().chunks_mut(STRIDE);
            let mut slices: [IoSliceMut<'_>; RECORDS] = std::array::from_fn(|_| {
                let place = places
                    .next()
                    .and_then(|place| place.get_mut(HEADER..HEADER + MAX_PLAIN));
                IoSliceMut::new(place.unwrap_or_default())
            });
            let program = &self.link.program;
            let slices = slices.get_mut(..capacity).unwrap_or_default();
            match read_once(program, capacity * MAX_PLAIN, || {
                rustix::io::readv(program, slices)
            }) {
                Ok(0) => return Ok(Forwarded::End),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Forwarded::Nothing);
                }
                Err(error) => return Err(Cut::Program(error)),
            }
        };
        if self.tunnel.sealer.is_due(self.limits.records_per_key) {
            let record = self.tunnel.sealer.key_update()?;
            self.write(&record).await?;
        }
        let mut sealed = 0;
        let mut left = count;
        for place in buffer.bytes().chunks_mut(STRIDE) {
            if left == 0 {
                break;
            }
            let plain = left.min(MAX_PLAIN);
            sealed += self.tunnel.sealer.seal_data(place, plain)?;
            left -= plain;
        }
        self.write(buffer.bytes().get(..sealed).unwrap_or_default())
            .await?;
        let bytes = count as u64;
        self.sent += bytes;
        add(&self.link.stats.sent_bytes, bytes);
        Ok(Forwarded::Bytes)
    }

    /// The program will not send more.
    async fn finish(&mut self) -> Result<(), Cut> {
        let record = self.tunnel.sealer.close_notify()?;
        self.write(&record).await?;
        self.link.set(&self.link.up_finished, true);
        Ok(())
    }

    /// Ends our direction of the old tunnel and goes on in the new one.
    async fn change(&mut self, tunnel: Outgoing) -> Result<(), Cut> {
        let finished = self.link.up_finished.get();
        if !finished {
            let record = self.tunnel.sealer.close_notify()?;
            self.write(&record).await?;
        }
        self.tunnel = tunnel;
        self.send(
            &Switch {
                sent: self.sent,
                finished,
            }
            .encode(),
        )
        .await?;
        if finished {
            let record = self.tunnel.sealer.close_notify()?;
            self.write(&record).await?;
        }
        self.link.set(
            &self.link.up_moves,
            self.link.up_moves.get().saturating_sub(1),
        );
        Ok(())
    }

    async fn send(&mut self, data: &[u8]) -> Result<(), Cut> {
        let record = self.tunnel.sealer.data(data)?;
        self.write(&record).await
    }

    async fn write(&self, bytes: &[u8]) -> Result<(), Cut> {
        write_all(&self.tunnel.tcp, bytes)
            .await
            .map_err(|error| TunnelError::Io(error).into())
    }
}

enum Forwarded {
    Bytes,
    End,
    Nothing,
}
