//! Which listening sockets are the program's own. A private address alone does not say so: a service of the host
//! on 0.0.0.0 answers at every loopback address, too, and so could a stranger who binds to ours.
//!
//! The kernel is asked by `sock_diag(7)`, one question for one socket; a reader of
//! `/proc/net/tcp` can miss sockets while others open and close.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::Mutex;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16; // struct nlmsghdr
const REQUEST: u32 = 72; // with struct inet_diag_req_v2
const INODE: usize = HEADER + 68; // idiag_inode of struct inet_diag_msg
const ANY_STATE: u32 = u32::MAX;

/// Sockets remembered for one address and port: those of `SO_REUSEPORT`, and closed ones.
const KEPT: usize = 256;

/// Inode numbers of sockets on which the program called `listen` through us.
#[derive(Debug)]
pub(super) struct Listening {
    inodes: Mutex<HashMap<(Ipv4Addr, u16), VecDeque<u64>>>,
    /// One question at a time.
    diagnosis: Mutex<OwnedFd>,
}

impl Listening {
    /// # Errors
    /// The kernel lacks `sock_diag` for TCP (module `tcp_diag`).
    pub(super) fn open() -> io::Result<Self> {
        let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
        let protocol = Some(netlink::SOCK_DIAG);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, protocol)?;
        let (inodes, diagnosis) = (Mutex::default(), Mutex::new(socket));
        let listening = Self { inodes, diagnosis };
        listening.inode(Ipv4Addr::LOCALHOST, 1)?; // loads the module, or tells that there is none
        Ok(listening)
    }

    /// Remember a socket that now listens there.
    pub(super) fn note(&self, socket: impl AsFd, ip: Ipv4Addr, port: u16) -> io::Result<()> {
        let inode = rustix::fs::fstat(socket)?.st_ino;
        let mut inodes = self.inodes.lock();
        let here = inodes.entry((ip, port)).or_default();
        if !here.contains(&inode) {
            here.push_back(inode);
        }
        if here.len() > KEPT {
            here.pop_front();
        }
        Ok(())
    }

    /// The first of `candidates` where a socket of the program listens on `port`.
    pub(super) fn find(&self, candidates: &[Ipv4Addr], port: u16) -> io::Result<Option<Ipv4Addr>> {
        for &ip in candidates {
            let noted = self.inodes.lock().get(&(ip, port)).cloned();
            let Some(noted) = noted else {
                continue;
            };
            if self
                .inode(ip, port)?
                .is_some_and(|inode| noted.contains(&inode))
            {
                return Ok(Some(ip));
            }
        }
        Ok(None)
    }

    /// The socket that a connection to `ip` and `port` would reach now; IPv6 sockets with mapped addresses included.
    fn inode(&self, ip: Ipv4Addr, port: u16) -> io::Result<Option<u64>> {
        let socket = self.diagnosis.lock();
        rustix::net::send(&*socket, &request(ip, port), SendFlags::empty())?;
        let mut answer = [0_u8; 1024];
        let (length, _) = rustix::net::recv(&*socket, &mut answer[..], RecvFlags::empty())?;
        let answer = answer.get(..length).unwrap_or_default();
        let kind = u16::from_ne_bytes(field(answer, 4)?);
        if kind == SOCK_DIAG_BY_FAMILY {
            return Ok(Some(u32::from_ne_bytes(field(answer, INODE)?).into()));
        }
        match i32::from_ne_bytes(field(answer, HEADER)?).checked_neg() {
            Some(libc::ENOENT) if kind == NLMSG_ERROR => Ok(None),
            Some(errno) if kind == NLMSG_ERROR => Err(io::Error::from_raw_os_error(errno)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn request(ip: Ipv4Addr, port: u16) -> Vec<u8> {
    let (tcp, padding) = (6_u8, 0_u8);
    let family = 2_u8; // AF_INET
    let mut request = Vec::with_capacity(72);
    request.extend(REQUEST.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]); // sequence, port id
    request.extend([family, tcp, 0, padding]);
    request.extend(ANY_STATE.to_ne_bytes());
    request.extend(port.to_be_bytes());
    request.extend([0; 2]); // port of the other side
    request.extend(ip.octets());
    request.extend([0; 12 + 16]); // rest of our address, address of the other side
    request.extend([0; 4]); // device
    request.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
    request
}

fn field<const N: usize>(message: &[u8], at: usize) -> io::Result<[u8; N]> {
    let field = message.get(at..).and_then(|rest| rest.first_chunk());
    field
        .copied()
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
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
        let listening = Listening::open().unwrap();
        assert_eq!(listening.find(&[ip], port).unwrap(), None);
        listening.note(&ours, ip, port).unwrap();
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
        let listening = Listening::open().unwrap();
        let port = ours.local_addr().unwrap().port();
        listening.note(&ours, ip, port).unwrap();
        assert_eq!(listening.find(&[ip], port).unwrap(), Some(ip));
    }
}
