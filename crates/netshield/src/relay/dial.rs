//! What the program opens: decided by destination, dialled where the host says, proven by identity.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};

use aws_lc_rs::rand;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::NetError;
use super::external;
use super::frame::{Answer, Frame, Open, StreamId};
use super::handshake::{HandshakeError, connect};
use super::peer::Instance;
use super::state::{State, expiry};
use super::stats::add;
use super::stream::{self, Renewal};
use super::tunnel::{Tunnel, TunnelError, tune};
use super::verify::{Expected, Verifier};
use crate::event::{Caller, Outbound};
use crate::policy::ExternalRule;

/// Why there is no tunnel to a peer.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The host has not told where the peer is.
    #[error("no endpoint is known for {0}")]
    NoEndpoint(Instance),
    /// No TCP connection.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// A deadline passed.
    #[error("no answer in time")]
    Timeout,
    /// The peer is not who it should be, or refuses us.
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    /// The tunnel failed.
    #[error("{0}")]
    Tunnel(#[from] TunnelError),
    /// The peer answered no.
    #[error("{0}")]
    Answer(&'static str),
    /// Our own set-up failed.
    #[error("{0}")]
    Own(#[from] NetError),
}

impl DialError {
    /// True when it is about identity or policy, not about reaching the peer.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Handshake(error) => !matches!(error, HandshakeError::Io(_)),
            Self::Tunnel(error) => matches!(error, TunnelError::Record(_) | TunnelError::Frame(_)),
            Self::Answer(text) => *text == REFUSED,
            Self::NoEndpoint(_) | Self::Connect(..) | Self::Timeout | Self::Own(_) => false,
        }
    }
}

const REFUSED: &str = "the peer's policy refuses it";
const NOT_LISTENING: &str = "the peer's program does not listen";

/// Where a destination of the program leads.
enum Target<'a> {
    Member(Instance),
    External(&'a ExternalRule),
}

/// Handles one connection of the program from here to its end; its socket is set to close with a reset.
pub async fn outbound(
    state: Arc<State>,
    program: TcpStream,
    destination: SocketAddr,
    source: SocketAddr,
    caller: Caller,
) {
    let text = destination.to_string();
    if let Some(reason) = state.revoked.borrow().clone() {
        return state.deny_outbound(&caller, text, format!("revoked: {reason}"));
    }
    match find(&state, destination) {
        None => state.deny_outbound(
            &caller,
            text,
            "the Manifest does not allow this destination".into(),
        ),
        Some(Target::External(rule)) => external::run(&state, program, rule, &caller).await,
        Some(Target::Member(target)) => {
            member(&state, program, target, destination, source, caller).await;
        }
    }
}

fn find(state: &State, destination: SocketAddr) -> Option<Target<'_>> {
    let (address, port) = (destination.ip(), destination.port());
    let policy = &state.policy;
    let member = policy
        .connect
        .iter()
        .find(|rule| rule.member.addresses.contains(&address) && rule.ports.contains(&port));
    if let Some(rule) = member {
        let instance = Instance {
            workload: rule.member.workload.clone(),
            number: rule.member.instance,
        };
        return Some(Target::Member(instance));
    }
    policy
        .external
        .iter()
        .find(|rule| rule.addresses.contains(&address) && rule.port == port)
        .map(Target::External)
}

async fn member(
    state: &Arc<State>,
    program: TcpStream,
    target: Instance,
    destination: SocketAddr,
    source: SocketAddr,
    caller: Caller,
) {
    let port = destination.port();
    let text = format!("{target}:{port}");
    let opened = open(state, &target, destination.ip(), port, source.port()).await;
    match opened {
        Ok((tunnel, id)) => {
            state.reached(&text);
            add(&state.stats.outbound, 1);
            stream::run(
                Arc::clone(state),
                program,
                tunnel,
                id,
                Renewal::Dialled { target, caller },
            )
            .await;
        }
        Err(error) if error.is_refusal() => state.deny_outbound(&caller, text, error.to_string()),
        Err(error) => state.unreachable(&caller, text, &error.to_string()),
    }
}

async fn open(
    state: &State,
    target: &Instance,
    address: IpAddr,
    port: u16,
    source_port: u16,
) -> Result<(Tunnel, StreamId), DialError> {
    let source = state
        .own_address(address)
        .ok_or_else(|| NetError::Policy("no address of our own".into()))?;
    let mut tunnel = tunnel(state, target).await?;
    let mut stream = StreamId::default();
    rand::fill(&mut stream).map_err(|_| NetError::Crypto)?;
    let open = Frame::Open(Open {
        stream,
        workload: target.workload.clone(),
        instance: target.number,
        port,
        source_instance: state.me.number,
        source: SocketAddr::new(source, source_port),
    });
    let answer = timeout(state.limits.handshake, async {
        tunnel.send(&open.encode()).await?;
        tunnel.receive().await
    });
    let answer = answer.await.map_err(|_| DialError::Timeout)??;
    match Answer::parse(&answer).map_err(TunnelError::Frame)? {
        Answer::Ok => Ok((tunnel, stream)),
        Answer::NotListening => Err(DialError::Answer(NOT_LISTENING)),
        Answer::Refused | Answer::UnknownStream => Err(DialError::Answer(REFUSED)),
    }
}

/// A tunnel to exactly this instance.
///
/// # Errors
/// [`DialError`].
pub async fn tunnel(state: &State, target: &Instance) -> Result<Tunnel, DialError> {
    let endpoint = state
        .endpoints
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(target)
        .copied();
    let endpoint = endpoint.ok_or_else(|| DialError::NoEndpoint(target.clone()))?;
    let tcp = timeout(state.limits.dial, TcpStream::connect(endpoint))
        .await
        .map_err(|_| DialError::Timeout)?;
    let tcp = tcp.map_err(|error| DialError::Connect(endpoint, error))?;
    tune(&tcp).map_err(TunnelError::Io)?;
    let installed = state.installed();
    let verifier = Verifier::new(
        Arc::clone(&state.session),
        Expected::Exactly(target.clone()),
    );
    let config = installed.client(Arc::clone(&verifier))?;
    let established = timeout(state.limits.handshake, connect(&tcp, config))
        .await
        .map_err(|_| DialError::Timeout)??;
    let peer = verifier.peer().ok_or(HandshakeError::Protocol)?;
    state
        .session
        .generations
        .note(&peer.instance, peer.generation);
    let expires = expiry(&installed, &peer);
    Ok(Tunnel::new(tcp, established, peer, expires))
}

impl From<Outbound> for super::cores::Work {
    fn from(outbound: Outbound) -> Self {
        Self::Outbound(outbound)
    }
}
