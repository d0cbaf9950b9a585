//! Makes the namespace, in a thread of its own that stays inside: sockets belong to the namespace in which they are
//! created, so that every other thread can use them from outside.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::error::NamespaceError;
use super::nflog::RefusalSocket;
use super::{rules, selftest};
use crate::policy::Policy;
use crate::{names, socket};

const BACKLOG: i32 = 4096; // connections that wait for the relay; the kernel's own limit in a new namespace
const SYSTEM_PATH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Everything of the namespace that is used from outside.
pub(super) struct Parts {
    pub(super) namespace: File,
    /// Inner listeners of the relay, not blocking: IPv4, IPv6.
    pub(super) listeners: [TcpListener; 2],
    pub(super) responder: TcpListener,
    pub(super) refusals: RefusalSocket,
}

/// Gives the calling thread, which must be ours alone, a new network namespace and builds everything in it.
pub(super) fn build(policy: &Policy) -> Result<Parts, NamespaceError> {
    let (nft, ip) = (
        program("nft", "nftables", &SYSTEM_PATH)?,
        program("ip", "iproute2", &SYSTEM_PATH)?,
    );
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
        NamespaceError::refused("no network namespace of its own", &errno.into())
    })?;
    let namespace = File::open("/proc/thread-self/ns/net")
        .map_err(|error| NamespaceError::refused("the new namespace cannot be opened", &error))?;
    let (v4, v4_address) = transparent_socket(policy, false)?;
    let (v6, v6_address) = transparent_socket(policy, true)?;
    run(
        &nft,
        &["-f", "-"],
        &rules::ruleset(policy, v4_address, v6_address),
    )?;
    configure()?;
    run(&ip, &["-batch", "-"], &rules::addresses(policy))?;
    selftest::closed_without_relay(policy)?;
    let listeners = [listening(v4)?, listening(v6)?];
    selftest::permitted_reaches_relay(policy, &listeners)?;
    let responder = TcpListener::bind(names::RESOLVER).map_err(|error| {
        NamespaceError::refused("the DNS responder cannot listen in the namespace", &error)
    })?;
    let refusals = RefusalSocket::open(rules::LOG_GROUP).map_err(|error| {
        NamespaceError::new(
            format!("refusals of the namespace cannot be read (NFLOG): {error}"),
            "use a kernel with CONFIG_NETFILTER_NETLINK_LOG and CONFIG_NFT_LOG",
        )
    })?;
    Ok(Parts {
        namespace,
        listeners,
        responder,
        refusals,
    })
}

/// A bound, not yet listening socket on loopback. Accepted sockets inherit `SO_REUSEADDR`: they have the peer's port as
/// local port, and a program that listens on it later must be able to; on a port that no rule of the policy names, as the program's
/// listener on all addresses would clash with it.
fn transparent_socket(policy: &Policy, v6: bool) -> Result<(OwnedFd, SocketAddr), NamespaceError> {
    let listen = policy.listen.iter().map(|rule| rule.port);
    let outside = policy.outside.iter().map(|rule| rule.port);
    let named: Vec<u16> = listen.chain(outside).collect();
    let (family, address) = if v6 {
        (
            AddressFamily::INET6,
            SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
        )
    } else {
        (
            AddressFamily::INET,
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        )
    };
    let attempt = || -> io::Result<(OwnedFd, SocketAddr)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let one = socket_with(family, SocketType::STREAM, flags, None)?;
        socket::set_transparent(&one, v6)?;
        sockopt::set_socket_reuseaddr(&one, true)?;
        bind(&one, &address)?;
        let bound = rustix::net::getsockname(&one)?;
        let bound = SocketAddr::try_from(bound).map_err(io::Error::from)?;
        Ok((one, bound))
    };
    let mut refused = Vec::new(); // kept, so that the kernel chooses another port
    loop {
        let (one, bound) = attempt().map_err(|error| {
            NamespaceError::refused(
                "no transparent socket in the namespace (IP_TRANSPARENT)",
                &error,
            )
        })?;
        if !named.contains(&bound.port()) {
            return Ok((one, bound));
        }
        refused.push(one);
    }
}

fn listening(bound: OwnedFd) -> Result<TcpListener, NamespaceError> {
    listen(&bound, BACKLOG)
        .map_err(|errno| NamespaceError::refused("the relay cannot listen", &errno.into()))?;
    Ok(TcpListener::from(bound))
}

/// Settings of the new namespace. No fast open, which would carry data in a SYN; low ports without a capability, as
/// the program has none; no guesses about reverse paths, which the machine's setting would otherwise bring along; no pacing of
/// what the program sends, as all of it goes to the relay through memory (`relay::tunnel::tune_local`).
fn configure() -> Result<(), NamespaceError> {
    for (key, value) in [
        ("ipv4/tcp_fastopen", "0"),
        ("ipv4/ip_unprivileged_port_start", "0"),
        ("ipv4/tcp_congestion_control", "reno"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/lo/rp_filter", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/lo/disable_ipv6", "0"),
    ] {
        fs::write(format!("/proc/sys/net/{key}"), value).map_err(|error| {
            NamespaceError::new(
                format!("net/{key} cannot be set in the namespace: {error}"),
                "run as root, on a kernel that was not started with `ipv6.disable=1`, with /proc/sys writable",
            )
        })?;
    }
    Ok(())
}

fn program(name: &str, package: &str, path: &[&str]) -> Result<PathBuf, NamespaceError> {
    let mut places = path
        .iter()
        .map(|directory| PathBuf::from(directory).join(name));
    places.find(|path| path.is_file()).ok_or_else(|| {
        NamespaceError::new(
            format!("the program {name} is missing"),
            format!("install the package {package}"),
        )
    })
}

/// Runs a program in this thread's namespace with `input`; what it says becomes the error.
fn run(program: &PathBuf, arguments: &[&str], input: &str) -> Result<(), NamespaceError> {
    let failed = |why: String| {
        NamespaceError::new(
            format!(
                "{} does not take the shield's rules: {why}",
                program.display()
            ),
            "use nftables 1.0.6 or newer and a kernel with CONFIG_NFT_TPROXY, CONFIG_NFT_REJECT_INET and CONFIG_NFT_LOG",
        )
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(failed(
            text.chars().take(400).collect::<String>().trim().to_owned(),
        ));
    }
    written.map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_told_with_its_package() {
        let error = program("nft", "nftables", &["/no/such"]).unwrap_err();
        assert_eq!(error.problem(), "the program nft is missing");
        assert_eq!(error.fix(), "install the package nftables");
    }

    #[test]
    fn what_a_program_says_is_the_error() {
        let nft = program("nft", "nftables", &SYSTEM_PATH).unwrap();
        let error = run(&nft, &["--check", "-f", "-"], "table inet x { nonsense }").unwrap_err();
        assert!(error.problem().contains("nonsense"), "{error}");
    }
}
