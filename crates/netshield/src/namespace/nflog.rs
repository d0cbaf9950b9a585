//! Reads what the ruleset refused: NFLOG messages (`linux/netfilter/nfnetlink_log.h`) with the first bytes of each packet.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

const SUBSYSTEM: u16 = 4 << 8; // NFNL_SUBSYS_ULOG
const PACKET: u16 = SUBSYSTEM; // NFULNL_MSG_PACKET
const CONFIG: u16 = SUBSYSTEM | 1; // NFULNL_MSG_CONFIG
const ERROR: u16 = 2; // NLMSG_ERROR
const REQUEST_ACK: u16 = 1 | 4; // NLM_F_REQUEST | NLM_F_ACK
const HEADER: usize = 16; // struct nlmsghdr
const FAMILY_HEADER: usize = 4; // struct nfgenmsg
const PAYLOAD: u16 = 9; // NFULA_PAYLOAD
const UID: u16 = 11; // NFULA_UID
const TYPE_MASK: u16 = 0x3fff; // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
const TCP: u8 = 6;

/// One refused packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) destination: SocketAddr,
    /// `tcp`, `udp` or `protocol N`.
    pub(super) protocol: String,
    /// User of the process that sent it.
    pub(super) uid: Option<u32>,
}

/// Created in the namespace, read from outside.
pub(super) struct RefusalSocket(OwnedFd);

impl RefusalSocket {
    pub(super) fn open(group: u16) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            flags,
            Some(netlink::NETFILTER),
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        let bind_group = attribute(1, &[1]); // NFULA_CFG_CMD: NFULNL_CFG_CMD_BIND
        let copy = attribute(2, &[0, 0, 0, 80, 2, 0]); // NFULA_CFG_MODE: 80 bytes, NFULNL_COPY_PACKET
        let at_once = attribute(5, &1_u32.to_be_bytes()); // NFULA_CFG_QTHRESH
        for part in [bind_group, copy, at_once] {
            configure(&socket, group, &part)?;
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self(socket))
    }

    /// What is waiting; none: nothing. `Err` with `ENOBUFS` says that some were lost.
    pub(super) fn read(&self) -> io::Result<Option<Vec<Refused>>> {
        let mut buffer = [0_u8; 8192];
        match recv(&self.0, &mut buffer, RecvFlags::empty()) {
            Ok((length, _)) => Ok(Some(parse(buffer.get(..length).unwrap_or_default()))),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for RefusalSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn configure(socket: &OwnedFd, group: u16, part: &[u8]) -> io::Result<()> {
    let length = u32::try_from(HEADER + FAMILY_HEADER + part.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(CONFIG.to_ne_bytes());
    message.extend(REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]); // sequence, port
    message.extend([0, 0]); // AF_UNSPEC, NFNETLINK_V0
    message.extend(group.to_be_bytes());
    message.extend(part);
    send(socket, &message, SendFlags::empty())?;
    let mut buffer = [0_u8; 1024];
    let (length, _) = recv(socket, &mut buffer, RecvFlags::empty())?;
    let answer = buffer.get(..length).unwrap_or_default();
    let errno = number(answer, HEADER).map(u32::cast_signed);
    match (short(answer, 4), errno) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(errno)) => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(io::Error::other("netlink gave no answer")),
    }
}

/// All packets of one read; what does not parse is left out.
fn parse(mut bytes: &[u8]) -> Vec<Refused> {
    let mut found = Vec::new();
    while let Some(length) = number(bytes, 0).and_then(|length| usize::try_from(length).ok()) {
        let Some(message) = bytes
            .get(..length)
            .filter(|message| message.len() >= HEADER)
        else {
            break;
        };
        if short(message, 4) == Some(PACKET) {
            found.extend(packet(
                message.get(HEADER + FAMILY_HEADER..).unwrap_or_default(),
            ));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn packet(mut attributes: &[u8]) -> Option<Refused> {
    let (mut payload, mut uid) = (None, None);
    while let (Some(length), Some(kind)) = (short(attributes, 0), short(attributes, 2)) {
        let length = usize::from(length);
        let value = attributes.get(4..length)?;
        match kind & TYPE_MASK {
            PAYLOAD => payload = Some(value),
            UID => uid = Some(u32::from_be_bytes(value.try_into().ok()?)),
            _ => {}
        }
        attributes = attributes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    let (address, protocol, transport) = network(payload?)?;
    let port = transport.get(2..4).and_then(|port| port.try_into().ok());
    let name = match protocol {
        TCP => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => format!("protocol {other}"),
    };
    let port = port.filter(|_| protocol == TCP || protocol == 17);
    Some(Refused {
        destination: SocketAddr::new(address, port.map_or(0, u16::from_be_bytes)),
        protocol: name,
        uid,
    })
}

/// Destination, protocol and what follows the network header: IPv4 (RFC 791), IPv6 without extensions (RFC 8200).
fn network(packet: &[u8]) -> Option<(IpAddr, u8, &[u8])> {
    let first = *packet.first()?;
    if first >> 4 == 4 {
        let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
        let header = usize::from(first & 0xf) * 4;
        let transport = packet.get(header..).unwrap_or_default();
        return Some((Ipv4Addr::from(address).into(), *packet.get(9)?, transport));
    }
    let address: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
    let transport = packet.get(40..).unwrap_or_default();
    Some((Ipv6Addr::from(address).into(), *packet.get(6)?, transport))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = attributes.concat();
        let length = u32::try_from(HEADER + FAMILY_HEADER + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(PACKET.to_ne_bytes());
        bytes.extend([0; 14]);
        bytes.extend(body);
        bytes
    }

    fn syn() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP, 0, 0, 100, 64, 0, 1];
        packet.extend([192, 0, 2, 7, 0x9c, 0x40, 0x01, 0xbb]);
        packet
    }

    #[test]
    fn refused_packets_are_read() {
        let first = message(&[
            attribute(UID, &7_u32.to_be_bytes()),
            attribute(PAYLOAD, &syn()),
        ]);
        let mut udp6 = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        udp6.extend([0; 16]);
        udp6.extend(Ipv6Addr::LOCALHOST.octets());
        udp6.extend([1, 2, 0, 53]);
        let second = message(&[attribute(PAYLOAD, &udp6)]);
        let found = parse(&[first, second].concat());
        let one = |destination: &str, protocol: &str, uid| Refused {
            destination: destination.parse().unwrap(),
            protocol: protocol.to_owned(),
            uid,
        };
        let expected = [
            one("192.0.2.7:443", "tcp", Some(7)),
            one("[::1]:53", "udp", None),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn cut_messages_give_nothing_and_end() {
        let whole = message(&[attribute(PAYLOAD, &syn())]);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), [], "{length}");
        }
        let mut zero = whole;
        zero[0..4].fill(0);
        assert_eq!(parse(&zero), []);
        assert_eq!(parse(&message(&[vec![0, 0, 9, 0]])), []); // an attribute shorter than its header
        assert_eq!(packet(&attribute(PAYLOAD, &[])), None);
        assert_eq!(packet(&attribute(UID, &[1])), None);
    }
}
