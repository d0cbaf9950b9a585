//! What peers open: identity first, then the frame, then the policy, and only then the program.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::frame::{Answer, Frame, Open};
use super::handshake::accept;
use super::state::{Resumable, State, expiry};
use super::stats::add;
use super::stream::{self, Renewal};
use super::tunnel::{Tunnel, reset_on_close, tune};
use super::verify::{Expected, Verifier};

/// Tunnels for one stream that wait for its core.
const WAITING_TUNNELS: usize = 4;

/// Handles one connection of the tunnel listener from here to its end.
pub async fn inbound(state: Arc<State>, tcp: TcpStream, from: SocketAddr) {
    if let Some(reason) = state.revoked.borrow().clone() {
        return state.deny_inbound(format!("tunnel from {from}"), format!("revoked: {reason}"));
    }
    let mut tunnel = {
        let under_way = UnderWay::new(&state);
        if under_way.before >= state.limits.handshakes
            || state.stats.live.load(Ordering::Relaxed) >= state.limits.streams
        {
            return state
                .deny_inbound(format!("tunnel from {from}"), "too many connections".into());
        }
        match authenticate(&state, tcp).await {
            Ok(tunnel) => tunnel,
            Err(reason) => return state.deny_inbound(format!("tunnel from {from}"), reason),
        }
    };
    let peer = tunnel.peer.instance.clone();
    let frame = match timeout(state.limits.handshake, tunnel.receive()).await {
        Ok(Ok(bytes)) => Frame::parse(&bytes).map_err(|error| error.to_string()),
        // A peer that leaves without a frame asked for nothing: a new tunnel that was not worth the change.
        Ok(Err(_)) => return,
        Err(_) => Err("no frame in time".into()),
    };
    match frame {
        Ok(Frame::Open(open)) => open_stream(&state, tunnel, open).await,
        Ok(Frame::Resume(id)) => {
            let tunnels = match state.streams().get(&id) {
                Some(stream) if stream.owner == peer => Some(stream.tunnels.clone()),
                _ => None,
            };
            match tunnels.and_then(|tunnels| tunnels.try_reserve_owned().ok()) {
                Some(place) => drop(tunnel.into_parts().map(|parts| place.send(parts))),
                None => answer(&state, tunnel, Answer::UnknownStream).await,
            }
        }
        Err(reason) => state.deny_inbound(format!("tunnel of {peer}"), reason),
    }
}

async fn authenticate(state: &State, tcp: TcpStream) -> Result<Tunnel, String> {
    tune(&tcp).map_err(|error| error.to_string())?;
    let installed = state.installed();
    let verifier = Verifier::new(
        Arc::clone(&state.session),
        Expected::AnyOf(Arc::clone(&state.callers)),
    );
    let config = installed
        .server(Arc::clone(&verifier))
        .map_err(|error| error.to_string())?;
    let established = match timeout(state.limits.handshake, accept(&tcp, config)).await {
        Ok(Ok(established)) => established,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no handshake in time".into()),
    };
    let peer = verifier.peer().ok_or("the peer presented no certificate")?;
    state
        .session
        .generations
        .note(&peer.instance, peer.generation);
    let expires = expiry(&installed, &peer);
    Ok(Tunnel::new(tcp, established, peer, expires))
}

async fn open_stream(state: &Arc<State>, mut tunnel: Tunnel, open: Open) {
    let peer = tunnel.peer.instance.clone();
    let destination = format!(
        "{}/{}:{} from {peer}",
        open.workload, open.instance, open.port
    );
    let sources = match authorise(state, &tunnel, &open) {
        Ok(sources) => sources,
        Err(reason) => {
            state.deny_inbound(destination, reason.into());
            return answer(state, tunnel, Answer::Refused).await;
        }
    };
    let Ok(program) = dial_program(state, open.port, sources).await else {
        add(&state.stats.unreachable, 1);
        return answer(state, tunnel, Answer::NotListening).await;
    };
    let _ = program.set_nodelay(true);
    let (tunnels, waiting) = mpsc::channel(WAITING_TUNNELS);
    let Some(_registered) = Registered::new(
        state,
        &open,
        Resumable {
            owner: peer,
            tunnels,
        },
    ) else {
        state.deny_inbound(destination, "the stream id is taken".into());
        return answer(state, tunnel, Answer::Refused).await;
    };
    if let Ok(Ok(())) = timeout(state.limits.handshake, tunnel.send(&[Answer::Ok as u8])).await {
        add(&state.stats.inbound, 1);
        stream::run(
            Arc::clone(state),
            program,
            tunnel,
            open.stream,
            Renewal::Accepted { tunnels: waiting },
        )
        .await;
    }
}

/// Connects to the program as the first of `sources`, and as the next ones if it listens for another family only: the
/// peer's program has its connection already, and will not fall back from IPv6 to IPv4 itself.
async fn dial_program(
    state: &State,
    port: u16,
    sources: Vec<SocketAddr>,
) -> std::io::Result<TcpStream> {
    let inner = Arc::clone(&state.inner);
    let dial = move || {
        let mut last = std::io::ErrorKind::AddrNotAvailable.into();
        for source in sources {
            match inner.dial(port, source) {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => last = error,
                Ok(program) => {
                    // At once, and until the stream is complete: a relay that stops must not look like an end.
                    reset_on_close(&program);
                    return Ok(program);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    };
    let Ok(Ok(program)) = timeout(state.limits.dial, spawn_blocking(dial)).await else {
        return Err(std::io::ErrorKind::TimedOut.into());
    };
    let program = program?;
    program.set_nonblocking(true)?;
    TcpStream::from_std(program)
}

/// The addresses as which the peer may appear to the program, the one that it asks for first.
fn authorise(state: &State, tunnel: &Tunnel, open: &Open) -> Result<Vec<SocketAddr>, &'static str> {
    let peer = &tunnel.peer.instance;
    if open.workload != state.me.workload || open.instance != state.me.number {
        return Err("this is another member");
    }
    if open.source_instance != peer.number {
        return Err("the source is not the instance of the certificate");
    }
    let allowed = |rule: &&crate::policy::ListenRule| {
        rule.port == open.port && rule.from.contains(&peer.workload)
    };
    if !state.policy.listen.iter().any(|rule| allowed(&rule)) {
        return Err("the Manifest does not allow this peer on this port");
    }
    let mut peers = state.policy.peers.iter();
    let known = peers.find(|one| one.workload == peer.workload && one.instance == peer.number);
    let addresses = known.map_or(&[][..], |one| &one.addresses);
    if !addresses.contains(&open.source.ip()) {
        return Err("the source address is not the peer's");
    }
    let others = addresses.iter().filter(|ip| **ip != open.source.ip());
    let others = others.map(|ip| SocketAddr::new(*ip, open.source.port()));
    Ok(std::iter::once(open.source).chain(others).collect())
}

/// The last word in a tunnel that will carry no stream; whether it arrives is not our concern.
async fn answer(state: &State, tunnel: Tunnel, answer: Answer) {
    let _ = timeout(state.limits.handshake, tunnel.send_last(&[answer as u8])).await;
}

/// A stream in the table of those that may be resumed, until dropped.
struct Registered<'a> {
    state: &'a State,
    id: super::frame::StreamId,
}

impl<'a> Registered<'a> {
    fn new(state: &'a State, open: &Open, stream: Resumable) -> Option<Self> {
        use std::collections::hash_map::Entry;
        match state.streams().entry(open.stream) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => {
                place.insert(stream);
                Some(Self {
                    state,
                    id: open.stream,
                })
            }
        }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.state.streams().remove(&self.id);
    }
}

/// Counts a handshake while it lasts.
struct UnderWay<'a> {
    state: &'a State,
    before: usize,
}

impl<'a> UnderWay<'a> {
    fn new(state: &'a State) -> Self {
        Self {
            state,
            before: state.handshakes.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.state.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}
