//! What all cores of a relay share.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::config::Installed;
use super::frame::StreamId;
use super::limits::Limits;
use super::peer::Instance;
use super::stats::{Stats, add};
use super::tunnel::Parts;
use super::verify::{Peer, Session};
use crate::event::{Caller, Denial, DenialLog, Inner};
use crate::policy::Policy;

/// Shared by everything that runs for one relay.
pub struct State {
    pub policy: Policy,
    pub me: Instance,
    pub session: Arc<Session>,
    pub provider: Arc<CryptoProvider>,
    /// Workloads that may reach any of our ports.
    pub callers: Arc<[String]>,
    pub installed: RwLock<Arc<Installed>>,
    pub endpoints: RwLock<HashMap<Instance, SocketAddr>>,
    pub inner: Arc<dyn Inner>,
    pub denials: Arc<dyn DenialLog>,
    pub stats: Arc<Stats>,
    pub limits: Limits,
    /// Why the network was taken away, once it was.
    pub revoked: watch::Sender<Option<Arc<str>>>,
    /// Streams that peers opened and may resume.
    pub streams: Mutex<HashMap<StreamId, Resumable>>,
    /// Handshakes of peers under way.
    pub handshakes: AtomicUsize,
    /// Peers whose failure to answer was logged; each is logged once until it answers.
    silent: Mutex<HashSet<String>>,
}

/// How a new tunnel reaches the stream that it resumes.
pub struct Resumable {
    pub owner: Instance,
    pub tunnels: mpsc::Sender<Parts>,
}

/// Fields of [`State`] that its maker chooses.
pub struct Parties {
    pub inner: Arc<dyn Inner>,
    pub denials: Arc<dyn DenialLog>,
}

impl State {
    pub fn new(
        policy: Policy,
        session: Arc<Session>,
        provider: Arc<CryptoProvider>,
        installed: Installed,
        parties: Parties,
        limits: Limits,
    ) -> Self {
        let mut callers: Vec<String> = policy
            .listen
            .iter()
            .flat_map(|rule| rule.from.iter().cloned())
            .collect();
        callers.sort();
        callers.dedup();
        Self {
            me: Instance {
                workload: policy.me.workload.clone(),
                number: policy.me.instance,
            },
            policy,
            session,
            provider,
            callers: callers.into(),
            installed: RwLock::new(Arc::new(installed)),
            endpoints: RwLock::default(),
            inner: parties.inner,
            denials: parties.denials,
            stats: Arc::default(),
            limits,
            revoked: watch::channel(None).0,
            streams: Mutex::default(),
            handshakes: AtomicUsize::new(0),
            silent: Mutex::default(),
        }
    }

    /// Our identity now.
    pub fn installed(&self) -> Arc<Installed> {
        Arc::clone(
            &self
                .installed
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Streams that may be resumed.
    pub fn streams(&self) -> MutexGuard<'_, HashMap<StreamId, Resumable>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a refusal of what a peer or a client opened.
    pub fn deny_inbound(&self, destination: String, reason: String) {
        add(&self.stats.denied, 1);
        self.log("inbound", String::new(), destination, reason);
    }

    /// Notes a refusal of what the program opened.
    pub fn deny_outbound(&self, caller: &Caller, destination: String, reason: String) {
        add(&self.stats.denied, 1);
        self.log("outbound", caller.describe(), destination, reason);
    }

    /// Notes that a peer did not answer; once, until it does.
    pub fn unreachable(&self, caller: &Caller, destination: String, reason: &str) {
        add(&self.stats.unreachable, 1);
        let is_new = self
            .silent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(destination.clone());
        if is_new {
            let reason = format!("unreachable: {reason}");
            self.log("outbound", caller.describe(), destination, reason);
        }
    }

    /// A peer has answered.
    pub fn reached(&self, destination: &str) {
        self.silent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(destination);
    }

    fn log(&self, direction: &'static str, process: String, destination: String, reason: String) {
        let time_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        self.denials.deny(Denial {
            time_s,
            direction,
            process,
            destination,
            reason,
        });
    }

    /// Our virtual address of the same family as `other`; peers know the program by it.
    pub fn own_address(&self, other: IpAddr) -> Option<IpAddr> {
        self.policy
            .me
            .addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == other.is_ipv4())
    }
}

/// When a tunnel between us and `peer` must end.
pub fn expiry(installed: &Installed, peer: &Peer) -> Instant {
    let not_after = UNIX_EPOCH + Duration::from_secs(installed.not_after_s.min(peer.not_after_s));
    let left = not_after
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    // The far future is not representable everywhere; a year is as good.
    Instant::now() + left.min(Duration::from_hours(366 * 24))
}
