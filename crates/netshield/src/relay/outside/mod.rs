//! Clients outside of the session: TLS 1.3 on public ports, the program in plain TCP on its own loopback.
//! They have threads of their own, so that whoever floods a public port does not starve the members' tunnels.
//! `docs/reference/network-shield.md` has the rules, `docs/formats/service-statement-v1.md` the statement.

mod admission;
mod connection;
mod pass;
mod profile;
mod statement;

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};

use self::admission::{Admission, Throttle};
use self::profile::Rule;
pub use self::statement::Statement;
use super::state::State;
use super::stats::add;
use super::tunnel::tune;
use super::{NetError, TunnelListener};

/// More threads than this do not help one program.
const MOST_THREADS: usize = 4;
/// Between attempts to accept when the machine is out of descriptors.
const PAUSE: Duration = Duration::from_millis(20);

/// A public port and the name of its rule in the policy.
#[derive(Debug)]
pub struct OutsideListener {
    /// As in the Manifest.
    pub name: String,
    /// Where clients arrive.
    pub listener: TunnelListener,
}

/// Times and counts that bound what clients can make the relay wait for or keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutsideLimits {
    /// From the accepted connection to the end of its handshake, or of its statement.
    pub handshake: Duration,
    /// A connection on which no byte moved in either direction for this long is reset.
    pub idle: Duration,
    /// Handshakes and statements under way at once.
    pub handshakes: usize,
    /// Connections at once.
    pub connections: usize,
    /// Of these, from one address (IPv6: from one /64): half of both.
    pub share: usize,
}

impl Default for OutsideLimits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            idle: Duration::from_mins(10),
            handshakes: 1024,
            connections: 4096,
            share: 2,
        }
    }
}

/// What all public ports of one relay share.
struct Shared {
    state: Arc<State>,
    statement: RwLock<Option<Arc<Statement>>>,
    admission: Arc<Admission>,
    throttle: Throttle,
    limits: OutsideLimits,
}

impl Shared {
    fn statement(&self) -> Option<Arc<Statement>> {
        self.statement
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes a refusal. Nothing that the client sent is in `reason`. Of many, most are counted only: anybody can make some.
    fn deny(&self, rule: &Rule, from: std::net::IpAddr, reason: &str) {
        match self.throttle.take() {
            None => add(&self.state.stats.denied, 1),
            Some(0) => self.state.deny_inbound(rule.place(from), reason.into()),
            Some(more) => self.state.deny_inbound(
                rule.place(from),
                format!("{reason}; {more} more refusals at public ports were counted only"),
            ),
        }
    }
}

/// The public ports of one relay. Dropping it resets every connection.
pub struct Outside {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Outside {
    /// Serves each rule of the policy on its listener.
    ///
    /// # Errors
    /// [`NetError::Policy`] when a rule has no listener, or the reverse; [`NetError::Start`].
    pub fn start(
        state: &Arc<State>,
        listeners: Vec<OutsideListener>,
        limits: OutsideLimits,
    ) -> Result<Self, NetError> {
        let shared = Arc::new(Shared {
            state: Arc::clone(state),
            statement: RwLock::default(),
            admission: Arc::new(Admission::new(&limits)),
            throttle: Throttle::default(),
            limits,
        });
        let ports = ports(state, listeners)?;
        let (stop, stopped) = watch::channel(false);
        let mut outside = Self {
            shared,
            stop,
            threads: Vec::new(),
        };
        if !ports.is_empty() {
            outside.spawn(&ports, &stopped).map_err(NetError::Start)?;
        }
        Ok(outside)
    }

    /// From now on this is answered to clients that ask for a statement.
    pub fn set_statement(&self, statement: Statement) {
        *self
            .shared
            .statement
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(statement));
    }

    fn spawn(&mut self, ports: &[Port], stopped: &watch::Receiver<bool>) -> io::Result<()> {
        let count = thread::available_parallelism()
            .map_or(1, Into::into)
            .min(MOST_THREADS);
        for number in 0..count {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(64)
                .build()?;
            let ports = ports
                .iter()
                .map(|(rule, listener)| Ok((Arc::clone(rule), listener.try_clone()?)))
                .collect::<io::Result<Vec<_>>>()?;
            let (shared, stopped) = (Arc::clone(&self.shared), stopped.clone());
            let builder = thread::Builder::new().name(format!("outside-{number}"));
            self.threads
                .push(builder.spawn(move || run(&runtime, &shared, ports, stopped))?);
        }
        Ok(())
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            // A panic of it has been printed; there is nobody else to tell.
            let _ = thread.join();
        }
    }
}

type Port = (Arc<Rule>, StdTcpListener);

/// Pairs the rules of the policy with listeners.
fn ports(state: &State, listeners: Vec<OutsideListener>) -> Result<Vec<Port>, NetError> {
    let mut left = listeners;
    let mut ports = Vec::new();
    for rule in &state.policy.outside {
        let found = left.iter().position(|one| one.name == rule.name);
        let found =
            found.ok_or_else(|| NetError::Policy(format!("nothing listens for {}", rule.name)))?;
        let listener = left.swap_remove(found).listener.0;
        listener.set_nonblocking(true).map_err(NetError::Listen)?;
        ports.push((Arc::new(Rule::new(rule)?), listener));
    }
    match left.first() {
        None => Ok(ports),
        Some(other) => Err(NetError::Policy(format!("no rule is named {}", other.name))),
    }
}

fn run(
    runtime: &Runtime,
    shared: &Arc<Shared>,
    ports: Vec<Port>,
    mut stopped: watch::Receiver<bool>,
) {
    let local = LocalSet::new();
    local.block_on(runtime, async move {
        for (rule, listener) in ports {
            if let Ok(listener) = TcpListener::from_std(listener) {
                spawn_local(accept(Arc::clone(shared), rule, listener));
            }
        }
        // The sender lives as long as this thread is waited for.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    });
}

async fn accept(shared: Arc<Shared>, rule: Arc<Rule>, listener: TcpListener) {
    loop {
        let Ok((tcp, from)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let from = from.ip().to_canonical();
        match shared.admission.enter(from) {
            Err(reason) => shared.deny(&rule, from, reason),
            // A client that has left by now needs no answer.
            Ok(place) if tune(&tcp).is_ok() => {
                let (shared, rule) = (Arc::clone(&shared), Arc::clone(&rule));
                spawn_local(connection::serve(shared, rule, tcp, from, place));
            }
            Ok(_) => {}
        }
    }
}
