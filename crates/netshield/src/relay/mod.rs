//! The relay: one mutually authenticated TLS 1.3 connection per connection of the program.
//! `docs/formats/tunnel-v1.md` is the protocol.

mod client_hello;
mod config;
mod cores;
mod der;
mod dial;
mod downward;
mod external;
mod frame;
mod generations;
mod handshake;
mod identity;
mod limits;
mod link;
mod outside;
mod part;
mod peer;
mod pool;
mod record;
mod refusal;
mod serve;
mod state;
mod stats;
mod stream;
mod tunnel;
mod unanswered;
mod upward;
mod verify;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, PoisonError};

use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;

pub use self::client_hello::{HelloError, server_name};
pub use self::frame::{Answer, Frame, FrameError, Open, StreamId, Switch};
pub use self::identity::{Identity, NetworkKey};
pub use self::limits::Limits;
pub use self::outside::{OutsideLimits, OutsideListener, Statement};
pub use self::stats::Snapshot;

use self::config::{Installed, provider};
use self::cores::{Cores, Work};
use self::outside::Outside;
use self::peer::Instance;
use self::state::{Parties, State};
use self::tunnel::reset_on_close;
use self::verify::Session;
use crate::event::{DenialLog, Inner, Outbound};
use crate::policy::Policy;

/// The relay cannot start, or cannot take what it is given.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The tunnel listener.
    #[error("cannot listen for tunnels: {0}")]
    Listen(io::Error),
    /// Threads or event loops.
    #[error("cannot start the relay: {0}")]
    Start(io::Error),
    /// Key, chain or trust root.
    #[error("the network identity is not usable: {0}")]
    Identity(String),
    /// A field of the policy.
    #[error("the network policy is not usable: {0}")]
    Policy(String),
    /// The cryptographic library.
    #[error("a cryptographic operation failed")]
    Crypto,
}

/// The socket on which peers arrive. It listens before there is an identity, since its port is part of the attestation;
/// connections wait in its backlog until [`Relay::start`].
#[derive(Debug)]
pub struct TunnelListener(TcpListener);

impl TunnelListener {
    /// Listens on `address`; port 0 chooses one.
    ///
    /// # Errors
    /// [`NetError::Listen`].
    pub fn bind(address: SocketAddr) -> Result<Self, NetError> {
        TcpListener::bind(address)
            .map(Self)
            .map_err(NetError::Listen)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// [`NetError::Listen`].
    pub fn address(&self) -> Result<SocketAddr, NetError> {
        self.0.local_addr().map_err(NetError::Listen)
    }
}

/// What a relay needs.
pub struct RelayConfig {
    /// What is allowed.
    pub policy: Policy,
    /// Who we are.
    pub identity: Identity,
    /// DER of the session's CA certificate, the only trust root.
    pub trust_root: Vec<u8>,
    /// Where peers arrive.
    pub tunnel: TunnelListener,
    /// How to reach the program.
    pub inner: Arc<dyn Inner>,
    /// Where refusals are noted.
    pub denials: Arc<dyn DenialLog>,
    /// Times and counts; `Limits::default()`.
    pub limits: Limits,
}

/// A running relay. Its threads, and the sockets that they dial, are in the network namespace of the thread that
/// starts it. Dropping it resets every connection.
pub struct Relay {
    state: Arc<State>,
    cores: Cores,
    address: SocketAddr,
    outside: Option<Outside>,
}

impl Relay {
    /// Checks the identity as peers will, and starts.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn start(config: RelayConfig) -> Result<Self, NetError> {
        let RelayConfig {
            policy,
            identity,
            trust_root,
            tunnel,
            inner,
            denials,
            limits,
        } = config;
        let provider = provider();
        let root = CertificateDer::from(trust_root);
        let root = webpki::anchor_from_trusted_cert(&root)
            .map_err(|error| NetError::Identity(error.to_string()))?;
        let session = Arc::new(Session {
            root: root.to_owned(),
            trust_domain: policy.trust_domain.clone(),
            name: policy.session.clone(),
            manifest_hash: manifest_hash(&policy.manifest_hash)?,
            algorithms: provider.signature_verification_algorithms,
            generations: generations::Generations::default(),
        });
        let me = Instance {
            workload: policy.me.workload.clone(),
            number: policy.me.instance,
        };
        let installed = Installed::new(identity, &session, &me, Arc::clone(&provider))?;
        session.generations.note(&me, installed.generation);
        let address = tunnel.address()?;
        let parties = Parties { inner, denials };
        let state = Arc::new(State::new(
            policy, session, provider, installed, parties, limits,
        ));
        let cores = Cores::start(&state, tunnel.0).map_err(NetError::Start)?;
        Ok(Self {
            state,
            cores,
            address,
            outside: None,
        })
    }

    /// Serves clients outside of the session: each `outside` rule of the policy on its listener.
    ///
    /// # Errors
    /// [`NetError::Policy`] when a rule has no listener, or the reverse; [`NetError::Start`].
    pub fn open_outside(
        &mut self,
        listeners: Vec<OutsideListener>,
        limits: OutsideLimits,
    ) -> Result<(), NetError> {
        self.outside = Some(Outside::start(&self.state, listeners, limits)?);
        Ok(())
    }

    /// What clients outside get when they ask for the statement, from now on.
    pub fn set_statement(&self, statement: Statement) {
        if let Some(outside) = &self.outside {
            outside.set_statement(statement);
        }
    }

    /// Where peers arrive.
    #[must_use]
    pub fn tunnel_address(&self) -> SocketAddr {
        self.address
    }

    /// Takes a connection that the program opened: carries it, or resets it and notes why. Returns at once.
    pub fn outbound(&self, outbound: Outbound) {
        let (destination, caller) = (outbound.destination, outbound.caller.clone());
        // Closing what is not carried is a reset, so that the program hears of it at once.
        reset_on_close(&outbound.stream);
        if !self.cores.give(Work::Outbound(outbound)) {
            self.state.deny_outbound(
                &caller,
                destination.to_string(),
                "too many connections".into(),
            );
        }
    }

    /// Where peers are, as the untrusted host says; replaces what was told before. Identity decides, not the address.
    pub fn set_endpoints(&self, endpoints: Vec<(String, u16, SocketAddr)>) {
        let endpoints = endpoints.into_iter();
        let endpoints = endpoints
            .map(|(workload, number, address)| (Instance { workload, number }, address))
            .collect();
        *self
            .state
            .endpoints
            .write()
            .unwrap_or_else(PoisonError::into_inner) = endpoints;
    }

    /// Takes a renewed chain, for the present key or a new one. New tunnels use it at once; live streams change to new
    /// tunnels before their present ones expire.
    ///
    /// # Errors
    /// [`NetError::Identity`] if peers would not accept it; then nothing changes.
    pub fn install(&self, chain: Vec<Vec<u8>>, key: Option<NetworkKey>) -> Result<(), NetError> {
        let key = key.unwrap_or_else(|| self.state.installed().identity.key.clone());
        let identity = Identity { key, chain };
        let provider = Arc::clone(&self.state.provider);
        let installed = Installed::new(identity, &self.state.session, &self.state.me, provider)?;
        self.state
            .session
            .generations
            .note(&self.state.me, installed.generation);
        *self
            .state
            .installed
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(installed);
        Ok(())
    }

    /// Resets every connection and refuses all others from now on.
    pub fn revoke(&self, reason: &str) {
        self.state.revoked.send_replace(Some(reason.into()));
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> Snapshot {
        self.state.stats.snapshot()
    }

    /// Resets every connection and ends the threads.
    pub fn stop(mut self) {
        self.outside = None;
        self.cores.stop();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cores.stop();
    }
}

fn manifest_hash(text: &str) -> Result<[u8; 32], NetError> {
    let wrong = || NetError::Policy("manifest_hash is not 64 hex digits".into());
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    let hash = HEXLOWER.decode(text.as_bytes()).map_err(|_| wrong())?;
    hash.try_into().map_err(|_| wrong())
}
