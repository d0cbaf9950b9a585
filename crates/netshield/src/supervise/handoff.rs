//! Brings together the two ends of a connection: what the supervisor connected, and what the inner listener accepts.
//!
//! A connection that no supervised call made is a stranger's, for the loopback is the machine's: it is reset and
//! noted. The program's socket is held until its connection is accepted, so that nobody can take over its port.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::sockaddr::canonical;
use crate::event::{Caller, Denial, DenialLog, Outbound};
use crate::names;
use crate::names::responder::{OnUnknown, Responder};
use crate::namespace::OnOutbound;

const EARLY_AT_MOST: usize = 1024;
const EARLY_FOR: Duration = Duration::from_secs(2);
const EXPECTED_FOR: Duration = Duration::from_mins(1);
const SWEEP_ABOVE: usize = 256;

pub(super) struct Handoff {
    state: Mutex<State>,
    denials: Arc<dyn DenialLog>,
    responder: Responder,
    test: Ipv4Addr,
}

#[derive(Default)]
struct State {
    expected: HashMap<SocketAddr, Expected>,
    /// Accepted before the supervisor came to say whose they are.
    early: HashMap<SocketAddr, (TcpStream, Instant)>,
    /// Takes what the program opens, from the start on.
    on_outbound: Option<OnOutbound>,
    /// Opened before the start.
    waiting: Vec<Outbound>,
    /// Counts connections of the self-test, which go nowhere.
    tests: u32,
}

/// A connection of the program that is about to be accepted.
struct Expected {
    destination: SocketAddr,
    caller: Caller,
    /// The program's socket; also if the program closes it, its port stays its own until we have seen it.
    socket: OwnedFd,
    since: Instant,
}

impl Handoff {
    pub(super) fn new(denials: Arc<dyn DenialLog>, responder: Responder, test: Ipv4Addr) -> Self {
        let state = Mutex::default();
        Self {
            state,
            denials,
            responder,
            test,
        }
    }

    /// From now on connections go to `on_outbound`, those that wait first; false when it was called before.
    pub(super) fn start(&self, on_outbound: OnOutbound) -> bool {
        let mut state = self.state.lock();
        if state.on_outbound.is_some() {
            return false;
        }
        for outbound in std::mem::take(&mut state.waiting) {
            on_outbound(outbound);
        }
        state.on_outbound = Some(on_outbound);
        true
    }

    /// The supervisor has connected the program's `socket`, whose own address is `source`, to the inner listener.
    pub(super) fn expect(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        socket: OwnedFd,
        caller: Caller,
    ) {
        let mut state = self.state.lock();
        if let Some((stream, _)) = state.early.remove(&source) {
            self.deliver(state, stream, source, destination, caller);
            return;
        }
        let since = Instant::now();
        if state.expected.len() > SWEEP_ABOVE {
            state
                .expected
                .retain(|_, one| since - one.since < EXPECTED_FOR);
        }
        state.expected.insert(
            source,
            Expected {
                destination,
                caller,
                socket,
                since,
            },
        );
    }

    /// The inner listener has accepted a connection from `peer`.
    fn arrived(&self, stream: TcpStream, peer: SocketAddr) {
        let mut state = self.state.lock();
        if let Some(expected) = state.expected.remove(&peer) {
            self.deliver(state, stream, peer, expected.destination, expected.caller);
            drop(expected.socket);
        } else if state.early.len() < EARLY_AT_MOST {
            state.early.insert(peer, (stream, Instant::now()));
        } else {
            drop(state);
            self.refuse(&stream, peer);
        }
    }

    fn deliver(
        &self,
        mut state: parking_lot::MutexGuard<'_, State>,
        stream: TcpStream,
        source: SocketAddr,
        destination: SocketAddr,
        caller: Caller,
    ) {
        if destination.ip() == self.test {
            state.tests += 1;
            return;
        }
        if destination == names::RESOLVER {
            drop(state);
            return self.resolve(stream, caller);
        }
        let outbound = Outbound {
            stream,
            destination,
            source,
            caller,
        };
        if let Some(on_outbound) = state.on_outbound.clone() {
            drop(state);
            on_outbound(outbound);
        } else {
            state.waiting.push(outbound);
        }
    }

    /// Answers the program's questions for names; those that no rule has are noted.
    fn resolve(&self, stream: TcpStream, caller: Caller) {
        let denials = Arc::clone(&self.denials);
        let on_unknown: OnUnknown = Arc::new(move |name| {
            denials.deny(Denial {
                time_s: super::now_s(),
                direction: "outbound",
                process: caller.describe(),
                destination: format!("{name} (name)"),
                reason: names::UNKNOWN.to_owned(),
            });
        });
        self.responder.take(stream, on_unknown);
    }

    /// Refuses who has waited too long for the supervisor to know him; says whether others still wait.
    fn sweep(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let late: Vec<_> = state
            .early
            .extract_if(|_, (_, since)| now - *since > EARLY_FOR)
            .collect();
        let waiting = !state.early.is_empty();
        drop(state);
        for (peer, (stream, _)) in late {
            self.refuse(&stream, peer);
        }
        waiting
    }

    fn refuse(&self, stream: &TcpStream, peer: SocketAddr) {
        self.denials.deny(Denial {
            time_s: super::now_s(),
            direction: "outbound",
            process: String::new(),
            destination: "inner listener".to_owned(),
            reason: format!("{peer} is no connection of the program"),
        });
        // A reset when the caller drops it; nothing was read or written either way.
        let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
    }

    /// How many connections of the self-test arrived.
    pub(super) fn tests(&self) -> u32 {
        self.state.lock().tests
    }

    /// Accepts until `stop` becomes readable or is closed.
    pub(super) fn serve(&self, listener: &TcpListener, stop: &OwnedFd) {
        let mut timeout = None;
        loop {
            let mut waits = [super::readable(listener), super::readable(stop)];
            let polled = rustix::event::poll(&mut waits, timeout.as_ref());
            let [arrival, end] = &waits;
            if !end.revents().is_empty() {
                return;
            }
            if polled.is_ok() && !arrival.revents().is_empty() {
                self.accept_all(listener);
            }
            let second = rustix::event::Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            timeout = self.sweep().then_some(second);
        }
    }

    fn accept_all(&self, listener: &TcpListener) {
        loop {
            match listener.accept() {
                Ok((stream, peer)) => {
                    // Accepted sockets do not inherit O_NONBLOCK on Linux.
                    self.arrived(stream, canonical(peer));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    // No descriptor or no memory left: whoever waits is told by the kernel's time-outs.
                    std::thread::sleep(Duration::from_millis(10));
                    return;
                }
            }
        }
    }
}
