//! "tls passthrough": named destinations outside the session. The program speaks TLS with them itself; the relay checks
//! that it does, and to whom, and passes the bytes on. Host names are resolved by the untrusted host.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::client_hello::{MAX_HELLO, server_name};
use super::handshake::write_all;
use super::pool::Buffer;
use super::state::State;
use super::stats::add;
use super::tunnel::{end_on_close, reset_on_close, tune};
use crate::event::Caller;
use crate::policy::ExternalRule;

/// Handles one connection from here to its end; the program's socket is set to close with a reset.
pub async fn run(state: &Arc<State>, program: TcpStream, rule: &ExternalRule, caller: &Caller) {
    let destination = format!("{}:{}", rule.host, rule.port);
    let hello = match hello(state, &program, rule).await {
        Ok(hello) => hello,
        Err(reason) => return state.deny_outbound(caller, destination, reason),
    };
    let server = timeout(
        state.limits.dial,
        TcpStream::connect((rule.host.as_str(), rule.port)),
    );
    let server = match server.await {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => return state.unreachable(caller, destination, &error.to_string()),
        Err(_) => return state.unreachable(caller, destination, "no answer in time"),
    };
    state.reached(&destination);
    add(&state.stats.outbound, 1);
    add(&state.stats.live, 1);
    let mut revoked = state.revoked.subscribe();
    let passed = async {
        tune(&server)?;
        write_all(&server, &hello).await?;
        add(&state.stats.sent_bytes, hello.len() as u64);
        tokio::try_join!(
            pass(&program, &server, &state.stats.sent_bytes),
            pass(&server, &program, &state.stats.received_bytes)
        )
    };
    let ended = tokio::select! {
        ended = passed => ended.is_ok(),
        _ = revoked.wait_for(Option::is_some) => false,
    };
    if ended {
        end_on_close(&program);
    } else {
        add(&state.stats.cut, 1);
        reset_on_close(&server);
    }
    state
        .stats
        .live
        .fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
}

/// Reads the program's `ClientHello` and checks its name.
async fn hello(state: &State, program: &TcpStream, rule: &ExternalRule) -> Result<Vec<u8>, String> {
    let deadline = Instant::now() + state.limits.handshake;
    let mut bytes = Vec::new();
    loop {
        let ready = timeout_at(deadline, program.readable()).await;
        ready
            .map_err(|_| "no TLS ClientHello in time".to_owned())?
            .map_err(|error| error.to_string())?;
        let mut buffer = [0; 4096];
        match program.try_read(&mut buffer) {
            Ok(0) => return Err("the program closed before its TLS ClientHello".into()),
            Ok(count) => bytes.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.to_string()),
        }
        match server_name(&bytes).map_err(|error| error.to_string())? {
            Some(name) if name == rule.host.to_ascii_lowercase() => return Ok(bytes),
            Some(name) => return Err(format!("the TLS ClientHello names {name}")),
            None if bytes.len() > MAX_HELLO => return Err("the TLS ClientHello is too long".into()),
            None => {}
        }
    }
}

async fn pass(
    from: &TcpStream,
    to: &TcpStream,
    counter: &std::sync::atomic::AtomicU64,
) -> io::Result<()> {
    loop {
        let mut buffer = Buffer::take();
        match from.try_read(buffer.bytes()) {
            Ok(0) => return Ok(rustix::net::shutdown(to, rustix::net::Shutdown::Write)?),
            Ok(count) => {
                write_all(to, buffer.bytes().get(..count).unwrap_or_default()).await?;
                add(counter, count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                drop(buffer);
                from.readable().await?;
            }
            Err(error) => return Err(error),
        }
    }
}
