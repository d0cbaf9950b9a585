//! Interceptor and relay as one: what the launcher raises for a program, and lowers.

use std::sync::Arc;

use confine::{ConfineError, Spawn};
use parking_lot::RwLock;
use rustix::process::Pid;

use crate::denials::Denials;
use crate::event::{DenialLog, Outbound};
use crate::names;
use crate::namespace::{Namespace, NamespaceError};
use crate::policy::Policy;
use crate::relay::{
    Identity, Limits, NetError, NetworkKey, OutsideLimits, OutsideListener, Relay, RelayConfig,
    Snapshot, Statement, TunnelListener,
};
use crate::supervise::{SuperviseError, Supervisor};

/// Which interceptor to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// [`Choice::Namespace`] where it can be raised, else [`Choice::Seccomp`].
    Auto,
    /// A network namespace of the program's own; needs privileges.
    Namespace,
    /// System calls under supervision; needs none.
    Seccomp,
}

/// What the relay of a program with network rules needs.
pub struct Grant {
    /// Key and certificate.
    pub identity: Identity,
    /// DER of the session's CA certificate.
    pub trust_root: Vec<u8>,
    /// Where peers arrive.
    pub tunnel: TunnelListener,
    /// Where clients outside of the session arrive, one for each such rule of the policy.
    pub outside: Vec<OutsideListener>,
}

/// The shield is not raised; nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {fix}")]
pub struct ShieldError {
    /// What was found and what was expected.
    pub problem: String,
    /// What the operator does next.
    pub fix: String,
}

impl From<NamespaceError> for ShieldError {
    fn from(NamespaceError { problem, fix }: NamespaceError) -> Self {
        Self { problem, fix }
    }
}

impl From<SuperviseError> for ShieldError {
    fn from(error: SuperviseError) -> Self {
        Self {
            problem: error.problem().to_owned(),
            fix: error.fix().to_owned(),
        }
    }
}

impl From<NetError> for ShieldError {
    fn from(error: NetError) -> Self {
        let fix =
            "start this member again; if it repeats, check this machine's clock and report it";
        Self {
            problem: error.to_string(),
            fix: fix.to_owned(),
        }
    }
}

enum Interceptor {
    Namespace(Box<Namespace>),
    Seccomp(Supervisor),
}

type Sink = Arc<dyn Fn(Outbound) + Send + Sync>;
/// Emptied when the shield is lowered: interceptor and relay know each other.
type RelaySlot = Arc<RwLock<Option<Arc<Relay>>>>;

/// A raised shield. Dropping it is lowering it: connections are reset, and the program reaches nothing.
pub struct Shield {
    interceptor: Interceptor,
    relay: RelaySlot,
    denials: Arc<Denials>,
    hosts: String,
    fallback: Option<String>,
}

impl Shield {
    /// Raises interceptor and relay and tests them from inside. Without a grant there is no relay: all that the
    /// program tries is refused. The relay's sockets are in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`ShieldError`] names the step that failed, or what the self-test reached.
    pub fn raise(
        policy: &Policy,
        grant: Option<Grant>,
        choice: Choice,
    ) -> Result<Self, ShieldError> {
        let denials = Arc::new(Denials::default());
        let relay = RelaySlot::default();
        let (interceptor, fallback) = intercept(policy, choice, &denials)?;
        denials.take(); // those of the self-test
        let mut shield = Self {
            interceptor,
            relay,
            denials,
            hosts: names::hosts(policy),
            fallback,
        };
        if let Some(grant) = grant {
            shield.start_relay(policy, grant)?;
        }
        match &mut shield.interceptor {
            Interceptor::Namespace(namespace) => namespace.start(sink(&shield.relay))?,
            Interceptor::Seccomp(supervisor) => supervisor.start(sink(&shield.relay))?,
        }
        Ok(shield)
    }

    fn start_relay(&self, policy: &Policy, grant: Grant) -> Result<(), ShieldError> {
        let inner = match &self.interceptor {
            Interceptor::Namespace(namespace) => namespace.inner(),
            Interceptor::Seccomp(supervisor) => supervisor.inner(),
        };
        let mut relay = Relay::start(RelayConfig {
            policy: policy.clone(),
            identity: grant.identity,
            trust_root: grant.trust_root,
            tunnel: grant.tunnel,
            inner,
            denials: self.denials.clone() as Arc<dyn DenialLog>,
            limits: Limits::default(),
        })?;
        relay.open_outside(grant.outside, OutsideLimits::default())?;
        *self.relay.write() = Some(Arc::new(relay));
        Ok(())
    }

    /// `namespace` or `seccomp`.
    #[must_use]
    pub fn interceptor(&self) -> &'static str {
        match self.interceptor {
            Interceptor::Namespace(_) => "namespace",
            Interceptor::Seccomp(_) => "seccomp",
        }
    }

    /// Why [`Choice::Auto`] did not take the namespace.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Text of the program's `/etc/hosts`.
    #[must_use]
    pub fn hosts(&self) -> &str {
        &self.hosts
    }

    /// Text of the program's `/etc/resolv.conf`.
    #[must_use]
    pub fn resolv_conf(&self) -> &'static str {
        names::RESOLV_CONF
    }

    /// Starts the program confined, as a child of the calling thread.
    ///
    /// # Errors
    /// As [`confine::spawn`].
    pub fn spawn(&self, what: &Spawn<'_>) -> Result<Pid, ConfineError> {
        match &self.interceptor {
            Interceptor::Namespace(namespace) => confine::spawn(&Spawn {
                argv: what.argv,
                env: what.env,
                cwd: what.cwd,
                uid: what.uid,
                gid: what.gid,
                netns: Some(namespace.netns()),
                extra: what.extra,
            }),
            Interceptor::Seccomp(supervisor) => supervisor.spawn(what),
        }
    }

    /// As [`Relay::set_endpoints`].
    pub fn set_endpoints(&self, endpoints: Vec<(String, u16, std::net::SocketAddr)>) {
        if let Some(relay) = self.relay() {
            relay.set_endpoints(endpoints);
        }
    }

    /// As [`Relay::install`].
    ///
    /// # Errors
    /// As [`Relay::install`].
    pub fn install(&self, chain: Vec<Vec<u8>>, key: Option<NetworkKey>) -> Result<(), ShieldError> {
        match self.relay() {
            Some(relay) => Ok(relay.install(chain, key)?),
            None => Ok(()),
        }
    }

    /// As [`Relay::set_statement`].
    pub fn set_statement(&self, statement: Statement) {
        if let Some(relay) = self.relay() {
            relay.set_statement(statement);
        }
    }

    /// As [`Relay::revoke`].
    pub fn revoke(&self, reason: &str) {
        if let Some(relay) = self.relay() {
            relay.revoke(reason);
        }
    }

    /// Refusals since the last call, and how many more there were.
    #[must_use]
    pub fn denials(&self) -> (Vec<crate::event::Denial>, u64) {
        self.denials.take()
    }

    /// The relay's counters; none without a relay.
    #[must_use]
    pub fn stats(&self) -> Option<Snapshot> {
        self.relay().map(|relay| relay.stats())
    }

    fn relay(&self) -> Option<Arc<Relay>> {
        self.relay.read().clone()
    }
}

impl Drop for Shield {
    fn drop(&mut self) {
        let relay = self.relay.write().take();
        drop(relay); // resets every connection; then the interceptor goes
    }
}

/// Hands connections to the relay, once it is there; without one they are dropped, which resets them.
fn sink(relay: &RelaySlot) -> Sink {
    let relay = Arc::clone(relay);
    Arc::new(move |outbound| {
        let found = relay.read().clone();
        if let Some(relay) = found {
            relay.outbound(outbound);
        }
    })
}

fn intercept(
    policy: &Policy,
    choice: Choice,
    denials: &Arc<Denials>,
) -> Result<(Interceptor, Option<String>), ShieldError> {
    let mut fallback = None;
    if choice != Choice::Seccomp {
        match Namespace::raise(policy, denials.clone()) {
            Ok(namespace) => return Ok((Interceptor::Namespace(Box::new(namespace)), None)),
            Err(error) if choice == Choice::Namespace => return Err(error.into()),
            Err(error) => fallback = Some(error.problem),
        }
    }
    match (Supervisor::raise(policy, denials.clone()), fallback) {
        (Ok(supervisor), fallback) => Ok((Interceptor::Seccomp(supervisor), fallback)),
        (Err(error), None) => Err(error.into()),
        (Err(error), Some(first)) => Err(ShieldError {
            problem: format!("{first}; and {}", error.problem()),
            fix: error.fix().to_owned(),
        }),
    }
}
