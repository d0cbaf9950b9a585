//! One connection of a program: both directions, and the guards that end it or move it to a new tunnel.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::dial;
use super::downward::Downward;
use super::frame::{Answer, Frame, StreamId};
use super::link::{Asked, Cut, Link};
use super::part::Part;
use super::peer::Instance;
use super::state::State;
use super::stats::add;
use super::tunnel::{Incoming, Outgoing, Parts, Tunnel, TunnelError, tune_local};
use super::upward::Upward;
use super::verify::Peer;
use crate::event::Caller;

/// Tunnels agreed on and not changed to yet: as many times the certificates may be renewed while a program does not
/// read. More are refused, and the stream is cut when the last one expires.
const MOST_MOVES: u32 = 64;
/// Between attempts at a new tunnel.
const LEAST_PAUSE: Duration = Duration::from_millis(250);

/// How a stream gets the tunnels it changes to.
pub enum Renewal {
    /// We dialled; we dial again.
    Dialled {
        /// Where to.
        target: Instance,
        /// For the log.
        caller: Caller,
    },
    /// The peer dialled; it will dial again.
    Accepted {
        /// From the cores that accept.
        tunnels: mpsc::Receiver<Parts>,
    },
}

/// Carries one connection until both directions are closed or something cuts it. The program's socket is set to close
/// with a reset, and stays so until it has all that it will get.
pub async fn run(
    state: Arc<State>,
    program: TcpStream,
    tunnel: Tunnel,
    id: StreamId,
    mut renewal: Renewal,
) {
    tune_local(&program);
    add(&state.stats.live, 1);
    let link = Rc::new(Link::new(program, Arc::clone(&state.stats), tunnel.expires));
    let peer = tunnel.peer.instance.clone();
    if let Err(cut) = carry(&state, &link, tunnel, id, &mut renewal).await {
        add(&state.stats.cut, 1);
        // What ends by itself is no refusal: resets of programs, peers that went away.
        if !matches!(cut, Cut::Program(_) | Cut::Tunnel(_) | Cut::Truncated) {
            let (peer, reason) = (peer.to_string(), format!("cut: {cut}"));
            match &renewal {
                Renewal::Dialled { caller, .. } => state.deny_outbound(caller, peer, reason),
                Renewal::Accepted { .. } => state.deny_inbound(peer, reason),
            }
        }
    }
    state.stats.live.fetch_sub(1, Ordering::Relaxed);
    if let Renewal::Accepted { mut tunnels, .. } = renewal {
        decline(&state, &mut tunnels).await;
    }
}

/// Answers the peers that came to resume a stream that has just ended: without an answer they could not tell an end of
/// the stream from a change of tunnels.
async fn decline(state: &State, tunnels: &mut mpsc::Receiver<Parts>) {
    tunnels.close();
    while let Some(parts) = tunnels.recv().await {
        if let Ok(tunnel) = Tunnel::from_parts(parts) {
            let _ = timeout(
                state.limits.handshake,
                tunnel.send_last(&[Answer::UnknownStream as u8]),
            )
            .await;
        }
    }
}

async fn carry(
    state: &Arc<State>,
    link: &Rc<Link>,
    tunnel: Tunnel,
    id: StreamId,
    renewal: &mut Renewal,
) -> Result<(), Cut> {
    let (up_changes, up_next) = mpsc::unbounded_channel();
    let (down_changes, down_next) = mpsc::unbounded_channel();
    let peer = tunnel.peer.clone();
    let (outgoing, incoming) = tunnel.split();
    link.joins(&outgoing.tcp);
    let up = Upward::new(Rc::clone(link), outgoing, up_next, state.limits).run();
    let down = Downward::new(Rc::clone(link), incoming, down_next, state.limits).run();
    let changes = Changes {
        link: Rc::clone(link),
        up: up_changes,
        down: down_changes,
    };
    let renewals = async {
        match renewal {
            Renewal::Dialled { target, .. } => redial(state, &changes, target, id).await,
            Renewal::Accepted { tunnels } => adopt(state, &changes, tunnels).await,
        }
    };
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    let mut guards = std::pin::pin!(guard(state, link, &peer));
    let mut renewals = std::pin::pin!(renewals);
    let (mut up, mut down) = (Part::new(up.as_mut()), Part::new(down.as_mut()));
    let (mut guards, mut renewals) = (Part::new(guards.as_mut()), Part::new(renewals.as_mut()));
    let ended = tokio::select! {
        biased;
        ended = &mut guards => ended,
        ended = &mut up => ended.map(|_| ()),
        ended = &mut down => ended.map(|_| ()),
        never = &mut renewals => match never {},
    };
    if ended.is_err() {
        // While the sockets are still held above.
        link.cut();
    }
    ended
}

/// Ends the stream when it is complete, expired, replaced or revoked.
async fn guard(state: &State, link: &Link, peer: &Peer) -> Result<(), Cut> {
    let mut revoked = state.revoked.subscribe();
    let mut replaced = state.session.generations.watch();
    loop {
        if link.is_done() {
            link.program_is_done();
            if link.is_complete() {
                return Ok(());
            }
            link.tell_done();
        }
        if let Some(reason) = revoked.borrow_and_update().clone() {
            return Err(Cut::Revoked(reason));
        }
        replaced.borrow_and_update();
        if state
            .session
            .generations
            .check(&peer.instance, peer.generation)
            .is_err()
        {
            return Err(Cut::Replaced);
        }
        let expires = link.expires.get();
        if Instant::now() >= expires {
            return if link.is_done() {
                Ok(())
            } else {
                Err(Cut::Expired)
            };
        }
        tokio::select! {
            () = link.changed.notified() => {}
            () = sleep_until(expires) => {}
            _ = revoked.changed() => {}
            _ = replaced.changed() => {}
        }
    }
}

/// Hands agreed tunnels to both directions.
struct Changes {
    link: Rc<Link>,
    up: mpsc::UnboundedSender<Outgoing>,
    down: mpsc::UnboundedSender<Incoming>,
}

impl Changes {
    fn to(&self, tunnel: Tunnel) {
        let expires = tunnel.expires;
        let (outgoing, incoming) = tunnel.split();
        self.link.joins(&outgoing.tcp);
        self.link.agreed(expires);
        add(&self.link.stats.resumed, 1);
        // The receivers live as long as the stream, of which this runs a part.
        let _ = self.up.send(outgoing);
        let _ = self.down.send(incoming);
    }

    fn has_room(&self) -> bool {
        self.link.up_moves.get().max(self.link.down_moves.get()) < MOST_MOVES
    }
}

/// Dials a new tunnel well before the present one expires, again and again until one lasts longer.
async fn redial(
    state: &Arc<State>,
    changes: &Changes,
    target: &Instance,
    id: StreamId,
) -> Infallible {
    // Streams of one relay renew at different times: between 40 % and 55 % of what is left, so that
    // there is time for more attempts.
    let share = 0.4 + 0.15 * f64::from(id.first().copied().unwrap_or_default()) / 256.0;
    loop {
        let left = changes
            .link
            .expires
            .get()
            .saturating_duration_since(Instant::now());
        sleep(left.mul_f64(share).max(LEAST_PAUSE)).await;
        if !changes.has_room() {
            continue;
        }
        let Ok(tunnel) = dial::tunnel(state, target).await else {
            add(&state.stats.resume_failures, 1);
            continue;
        };
        // Without a later end it is not worth the change: one of both certificates has not been renewed yet.
        if tunnel.expires > changes.link.expires.get() {
            resume(state, changes, tunnel, id).await;
        }
    }
}

async fn resume(state: &State, changes: &Changes, mut tunnel: Tunnel, id: StreamId) {
    let link = &changes.link;
    link.set(&link.asked, Asked::Waiting);
    let answer = timeout(state.limits.handshake, async {
        tunnel.send(&Frame::Resume(id).encode()).await?;
        let answer = tunnel.receive().await?;
        Answer::parse(&answer).map_err(TunnelError::Frame)
    });
    match answer.await {
        Ok(Ok(Answer::Ok)) => changes.to(tunnel),
        Ok(Ok(_)) => {
            add(&state.stats.resume_failures, 1);
            link.set(&link.asked, Asked::No);
        }
        _ => {
            add(&state.stats.resume_failures, 1);
            link.set(&link.asked, Asked::Unanswered);
        }
    }
}

/// Takes the tunnels that the peer dialled for this stream.
async fn adopt(
    state: &State,
    changes: &Changes,
    tunnels: &mut mpsc::Receiver<Parts>,
) -> Infallible {
    loop {
        let Some(parts) = tunnels.recv().await else {
            std::future::pending().await
        };
        let Ok(mut tunnel) = Tunnel::from_parts(parts) else {
            continue;
        };
        let answer = if changes.has_room() {
            Answer::Ok
        } else {
            Answer::Refused
        };
        // The answer fits into the socket's buffer. Once it is sent, the peer may change at any time, so the change
        // is noted at once; if sending fails, reading from the tunnel will fail too and cut the stream.
        let sent = timeout(state.limits.handshake, tunnel.send(&[answer as u8])).await;
        if answer == Answer::Ok && matches!(sent, Ok(Ok(()))) {
            changes.to(tunnel);
        } else {
            add(&state.stats.resume_failures, 1);
        }
    }
}
