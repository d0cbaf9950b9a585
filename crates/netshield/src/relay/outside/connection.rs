//! One client from its first byte to its end: handshake, then the statement or the program.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::server::Acceptor;
use rustls::{CertificateError, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::super::config::Installed;
use super::super::state::State;
use super::super::stats::add;
use super::super::tunnel::{end_on_close, reset_on_close};
use super::Shared;
use super::admission::Place;
use super::pass::pass;
use super::profile::{self, Rule, STATEMENT};
use super::statement::NONCE;

/// How long, and how many bytes, a refused client may go on sending until it has read our alert.
const FAREWELL: Duration = Duration::from_secs(2);
const FAREWELL_BYTES: usize = 65_536;

/// Read from the socket at once; rustls alone would take 4 KiB.
const READ_BYTES: usize = 32_768;

type Socket = BufReader<TcpStream>;
type Client = TlsStream<Socket>;

/// What a client came for.
enum Wish {
    Statement(Box<Client>, Arc<Installed>),
    Program(Box<Client>),
}

/// Handles one connection from here to its end.
pub async fn serve(
    shared: Arc<Shared>,
    rule: Arc<Rule>,
    tcp: TcpStream,
    from: IpAddr,
    mut place: Place,
) {
    let deadline = Instant::now() + shared.limits.handshake;
    if let Some(reason) = shared.state.revoked.borrow().clone() {
        return shared.deny(&rule, from, &format!("revoked: {reason}"));
    }
    let wish = match timeout_at(deadline, handshake(&shared, &rule, tcp)).await {
        Ok(Ok(wish)) => wish,
        Ok(Err(Some(reason))) => return shared.deny(&rule, from, &reason),
        Ok(Err(None)) => return, // it left: nothing was refused
        Err(_) => return shared.deny(&rule, from, "no handshake in time"),
    };
    match wish {
        Wish::Statement(client, ours) => {
            let answered = timeout_at(deadline, state_it(&shared, *client, &ours)).await;
            if let Err(reason) = answered.unwrap_or(Err("no nonce in time")) {
                shared.deny(&rule, from, reason);
            }
        }
        Wish::Program(client) => {
            place.established();
            if let Err(reason) = carry(&shared, &rule, *client).await {
                shared.deny(&rule, from, &reason);
            }
        }
    }
}

/// The handshake; its error is the reason for the log, none when there is nothing to tell.
async fn handshake(shared: &Shared, rule: &Rule, tcp: TcpStream) -> Result<Wish, Option<String>> {
    let socket = BufReader::with_capacity(READ_BYTES, tcp);
    let mut acceptor = std::pin::pin!(LazyConfigAcceptor::new(Acceptor::default(), socket));
    let start = match acceptor.as_mut().await {
        Ok(start) => start,
        Err(error) => {
            if let Some(tcp) = acceptor.take_io() {
                farewell(tcp).await;
            }
            return Err(plain(&error));
        }
    };
    let mut protocols = start.client_hello().alpn().into_iter().flatten();
    let is_statement = protocols.next() == Some(STATEMENT) && protocols.next().is_none();
    drop(protocols);
    let ours = shared.state.installed();
    if now_s() >= ours.not_after_s {
        return Err(Some(
            "our own certificate has expired: the CAS was not reached".into(),
        ));
    }
    let config = if is_statement {
        profile::statement(&shared.state, &ours)
    } else {
        rule.program(&shared.state, &ours)
    };
    let config = config.map_err(|error| Some(error.to_string()))?;
    match start.into_stream(config).into_fallible().await {
        Ok(client) if is_statement => Ok(Wish::Statement(Box::new(client), ours)),
        Ok(client) => Ok(Wish::Program(Box::new(client))),
        Err((error, tcp)) => {
            farewell(tcp).await;
            Err(plain(&error))
        }
    }
}

/// Closes so that our alert arrives: a socket that is closed with unread bytes resets the connection at once.
async fn farewell(mut tcp: Socket) {
    if tcp.shutdown().await.is_ok() {
        let mut rest = tcp.take(FAREWELL_BYTES as u64);
        let _ = timeout(FAREWELL, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
}

/// Our words for what went wrong, without anything of the client's.
fn plain(error: &io::Error) -> Option<String> {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    let text = match inner? {
        Error::PeerIncompatible(_) => "the client does not speak our TLS 1.3 profile",
        Error::NoApplicationProtocol => "the client offers none of the rule's protocols",
        Error::NoCertificatesPresented => "the client showed no key, and the rule names `clients`",
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
            "the client's key is not among the rule's `clients`"
        }
        Error::InvalidCertificate(_) => "the client's certificate is malformed",
        Error::InvalidMessage(_) => "the client does not speak TLS",
        Error::AlertReceived(_) => return None,
        _ => "the handshake failed",
    };
    Some(text.into())
}

/// Reads the nonce and answers with the statement.
async fn state_it(
    shared: &Shared,
    mut client: Client,
    ours: &Installed,
) -> Result<(), &'static str> {
    let statement = shared.statement().ok_or("there is no statement yet")?;
    let mut nonce = [0; NONCE];
    if client.read_exact(&mut nonce).await.is_err() {
        return Ok(()); // it left
    }
    let answer = statement.answer(ours, &nonce, now_s());
    let answer = answer.map_err(|_| "the statement cannot be made")?;
    add(&shared.state.stats.statements, 1);
    if client.write_all(&answer).await.is_ok() && client.shutdown().await.is_ok() {
        // Until the client has closed, or the deadline: closing earlier may reset what it has not read.
        let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
    }
    Ok(())
}

/// Connects to the program and passes bytes on until both have ended, or something ends it.
async fn carry(shared: &Shared, rule: &Rule, mut client: Client) -> Result<(), String> {
    let state = &shared.state;
    reset_on_close(client.get_ref().0.get_ref()); // whatever happens, a client must not take it for an end
    let Ok(mut program) = dial(state, rule.port).await else {
        add(&state.stats.unreachable, 1);
        return Ok(());
    };
    reset_on_close(&program);
    add(&state.stats.outside, 1);
    add(&state.stats.live, 1);
    let ended = {
        let passed = pass(&mut client, &mut program, &state.stats, shared.limits.idle);
        tokio::select! {
            biased;
            reason = lost(state) => Err(Some(reason)),
            passed = passed => passed.map_err(|_| None),
        }
    };
    state.stats.live.fetch_sub(1, Ordering::Relaxed);
    match ended {
        Ok(()) => {
            end_on_close(client.get_ref().0.get_ref());
            end_on_close(&program);
            Ok(())
        }
        Err(reason) => {
            add(&state.stats.cut, 1);
            reason.map_or(Ok(()), Err)
        }
    }
}

async fn dial(state: &State, port: u16) -> io::Result<TcpStream> {
    let inner = Arc::clone(&state.inner);
    let dialled = spawn_blocking(move || inner.dial_loopback(port));
    let program = timeout(state.limits.dial, dialled)
        .await
        .map_err(|_| io::ErrorKind::TimedOut)?
        .map_err(io::Error::other)??;
    program.set_nonblocking(true)?;
    program.set_nodelay(true)?;
    TcpStream::from_std(program)
}

/// Waits until this member has lost its right to serve: revoked, or not renewed until its certificate expired.
async fn lost(state: &State) -> String {
    let mut revoked = state.revoked.subscribe();
    loop {
        if let Some(reason) = revoked.borrow_and_update().clone() {
            return format!("cut: revoked: {reason}");
        }
        let left = state.installed().not_after_s.saturating_sub(now_s());
        if left == 0 {
            return "cut: our own certificate has expired: the CAS was not reached".into();
        }
        tokio::select! {
            () = sleep_until(Instant::now() + Duration::from_secs(left.min(86_400))) => {}
            _ = revoked.changed() => {}
        }
    }
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
