//! The test at the start, from inside the namespace: what is forbidden must fail, also while no relay listens and
//! the program itself listens on the same port; what is permitted must reach the relay with its destination.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::error::NamespaceError;
use super::rules;
use crate::policy::Policy;

const PATIENCE: Duration = Duration::from_secs(2); // local connections take microseconds
/// Documentation addresses (RFC 5737, RFC 3849): in no policy.
const FOREIGN: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Before the relay listens: neither permitted nor forbidden destinations connect, and a listener of the program's
/// on that port gets nothing.
pub(super) fn closed_without_relay(policy: &Policy) -> Result<(), NamespaceError> {
    let foreign = FOREIGN.iter().filter(|address| has_family(policy, address));
    let foreign = foreign.map(|&address| SocketAddr::from((address, 0)));
    let permitted = one_of_each_family(policy);
    for destination in foreign.chain(permitted) {
        let own = own_listener(destination.port())?;
        let port = own.local_addr().map_err(|error| setup(&error))?.port();
        let destination = SocketAddr::new(destination.ip(), port);
        match TcpStream::connect_timeout(&destination, PATIENCE) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(failed(destination, &format!("not refused but: {error}"))),
            Ok(_) => return Err(failed(destination, "connected although nothing may")),
        }
        if own.accept().is_ok() {
            return Err(failed(destination, "arrived at the program's own listener"));
        }
    }
    Ok(())
}

/// With the relay's listeners: a permitted connection of each family arrives there and shows where it wanted to go.
pub(super) fn permitted_reaches_relay(
    policy: &Policy,
    listeners: &[TcpListener; 2],
) -> Result<(), NamespaceError> {
    let [v4, v6] = listeners;
    for destination in one_of_each_family(policy) {
        let _client = TcpStream::connect_timeout(&destination, PATIENCE)
            .map_err(|error| failed(destination, &format!("permitted, but: {error}")))?;
        let listener = if destination.is_ipv4() { v4 } else { v6 };
        let accepted = accept(listener).map_err(|error| failed(destination, &error.to_string()))?;
        let seen = accepted.local_addr().map_err(|error| setup(&error))?;
        // With RST: else our end would keep the program's port for a minute (TIME_WAIT).
        sockopt::set_socket_linger(&accepted, Some(Duration::ZERO))
            .map_err(|errno| setup(&errno.into()))?;
        if seen != destination {
            return Err(failed(destination, &format!("arrived as {seen}")));
        }
    }
    for foreign in FOREIGN.iter().filter(|address| has_family(policy, address)) {
        let destination = SocketAddr::from((*foreign, 443));
        if TcpStream::connect_timeout(&destination, PATIENCE).is_ok() {
            return Err(failed(destination, "connected although it is in no rule"));
        }
    }
    Ok(())
}

fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Err(_) if Instant::now() > deadline => {
                return Err(io::Error::other("connected, but not to the relay"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Tries for a while: a child of another thread, between fork and exec, still holds the listener before this one.
fn own_listener(port: u16) -> Result<TcpListener, NamespaceError> {
    let deadline = Instant::now() + PATIENCE;
    let own = loop {
        match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            outcome => break outcome.map_err(|error| setup(&error))?,
        }
    };
    own.set_nonblocking(true).map_err(|error| setup(&error))?;
    Ok(own)
}

fn one_of_each_family(policy: &Policy) -> impl Iterator<Item = SocketAddr> {
    let permitted = rules::permitted(policy);
    let v4 = permitted.iter().find(|pair| pair.is_ipv4()).copied();
    let v6 = permitted.iter().find(|pair| pair.is_ipv6()).copied();
    v4.into_iter().chain(v6)
}

/// Without an address of a family there is no route, and other errors than a refusal.
fn has_family(policy: &Policy, address: &IpAddr) -> bool {
    let own = &policy.me.addresses;
    own.iter().any(|one| one.is_ipv4() == address.is_ipv4())
}

fn setup(error: &io::Error) -> NamespaceError {
    NamespaceError::refused("the network shield's self-test cannot run", error)
}

fn failed(destination: SocketAddr, what: &str) -> NamespaceError {
    NamespaceError::new(
        format!("the network shield's self-test failed: a connection to {destination} {what}"),
        "nothing was started; report this with the output of `nft --version` and `uname -r`",
    )
}
