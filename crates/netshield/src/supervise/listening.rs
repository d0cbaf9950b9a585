//! Which listening sockets are the program's own. A private address alone does not say so: a service of the host
//! on 0.0.0.0 answers at every loopback address, too, and so could a stranger who binds to ours.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use parking_lot::Mutex;

const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
const LISTEN: &str = "0A"; // net/tcp_states.h; listening sockets stand first in the tables
const KEPT: usize = 1024;

/// Inode numbers of sockets on which the program called `listen` through us.
#[derive(Debug, Default)]
pub(super) struct Listening {
    inodes: Mutex<HashSet<u64>>,
}

impl Listening {
    /// Remember a socket that now listens. Those that were closed are forgotten when there are many.
    pub(super) fn note(&self, socket: impl AsFd) -> io::Result<()> {
        let inode = rustix::fs::fstat(socket)?.st_ino;
        let mut inodes = self.inodes.lock();
        inodes.insert(inode);
        if inodes.len() > KEPT {
            let mut alive = HashSet::from([inode]);
            visit(|line| {
                alive.insert(line.inode);
            })?;
            inodes.retain(|inode| alive.contains(inode));
        }
        Ok(())
    }

    /// The first of `candidates` where a socket of the program listens on `port`.
    pub(super) fn find(&self, candidates: &[Ipv4Addr], port: u16) -> io::Result<Option<Ipv4Addr>> {
        let inodes = self.inodes.lock();
        let mut found = HashSet::new();
        visit(|line| {
            if line.port == port && inodes.contains(&line.inode) {
                found.insert(line.ip);
            }
        })?;
        Ok(candidates.iter().find(|ip| found.contains(*ip)).copied())
    }
}

struct Line {
    ip: Ipv4Addr,
    port: u16,
    inode: u64,
}

/// Calls `visitor` for each listening socket with an IPv4 address. `proc_pid_net(5)`.
fn visit(mut visitor: impl FnMut(Line)) -> io::Result<()> {
    for table in TABLES {
        let file = match std::fs::File::open(table) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // no IPv6
            other => other?,
        };
        for line in BufReader::new(file).lines().skip(1) {
            let line = line?;
            let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
            let [_, local, _, state, .., inode] = fields.as_slice() else {
                continue;
            };
            if *state != LISTEN {
                break;
            }
            let parsed = parse_local(local).zip(inode.parse().ok());
            if let Some(((ip, port), inode)) = parsed {
                visitor(Line { ip, port, inode });
            }
        }
    }
    Ok(())
}

/// `0100007F:1538`; words of the address in the machine's byte order. None for IPv6 that is not mapped.
fn parse_local(text: &str) -> Option<(Ipv4Addr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for word in ip.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => Ipv4Addr::from(v4),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_ipv4_mapped()?,
    };
    Some((ip, port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn only_noted_sockets_are_found_and_only_while_they_listen() {
        let ip = Ipv4Addr::new(127, 77, 255, 1);
        let ours = TcpListener::bind((ip, 0)).unwrap();
        let port = ours.local_addr().unwrap().port();
        let listening = Listening::default();
        assert_eq!(listening.find(&[ip], port).unwrap(), None);
        listening.note(&ours).unwrap();
        assert_eq!(
            listening.find(&[Ipv4Addr::LOCALHOST, ip], port).unwrap(),
            Some(ip)
        );
        assert_eq!(listening.find(&[Ipv4Addr::LOCALHOST], port).unwrap(), None);
        drop(ours);
        assert_eq!(listening.find(&[ip], port).unwrap(), None);
    }

    #[test]
    fn a_mapped_socket_is_found_under_its_ipv4_address() {
        let ip = Ipv4Addr::new(127, 77, 255, 2);
        let ours = TcpListener::bind((ip.to_ipv6_mapped(), 0)).unwrap();
        let listening = Listening::default();
        listening.note(&ours).unwrap();
        let port = ours.local_addr().unwrap().port();
        assert_eq!(listening.find(&[ip], port).unwrap(), Some(ip));
    }
}
