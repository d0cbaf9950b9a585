//! Private loopback addresses of one launcher. All programs of a machine share its loopback under S; a block of
//! `127.77.0.0/16` for each keeps two workloads from taking each other's ports.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};

const NETWORK: u32 = 0x7f4d_0000; // 127.77.0.0
const SIZE: u32 = 8; // addresses per block
const BLOCKS: u32 = 65_536 / SIZE;

/// Eight addresses that nobody else uses while this value lives.
#[derive(Debug)]
pub(super) struct Block {
    base: u32,
    /// The claim: an abstract socket has the scope that loopback has, the network namespace, and dies with us.
    _claim: UnixDatagram,
}

impl Block {
    /// Takes a free block, the first try derived from our process id.
    ///
    /// # Errors
    /// `AddrInUse` when all 8,192 are taken; what `bind(2)` says.
    pub(super) fn claim() -> io::Result<Self> {
        let first = std::process::id().wrapping_mul(2_654_435_761) >> 16;
        for attempt in 0..BLOCKS {
            let number = first.wrapping_add(attempt) % BLOCKS;
            let base = NETWORK + number * SIZE;
            let name = format!("securetf-network-shield-{}", Ipv4Addr::from(base));
            let address = UnixAddress::from_abstract_name(name)?;
            match UnixDatagram::bind_addr(&address) {
                Ok(claim) => {
                    return Ok(Self {
                        base,
                        _claim: claim,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Stands for 0.0.0.0, for `[::]` of both families, and for the member's virtual IPv4 address.
    pub(super) fn any(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// Stands for `[::]` of a socket with `IPV6_V6ONLY`, and for the member's virtual IPv6 address.
    pub(super) fn any6(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 2)
    }

    /// Stands for 127.0.0.0/8.
    pub(super) fn loopback(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 3)
    }

    /// Stands for `[::1]`.
    pub(super) fn loopback6(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 4)
    }

    /// Where the relay listens, and from where it dials the program.
    pub(super) fn relay(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 5)
    }

    /// The permitted destination of the self-test.
    pub(super) fn test(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 6)
    }

    /// Whether the program may bind to this address and connect to it by its own name.
    pub(super) fn is_program(&self, ip: Ipv4Addr) -> bool {
        (self.base + 1..=self.base + 4).contains(&u32::from(ip))
    }

    /// Whether a socket that is bound to this address is one that we bound.
    pub(super) fn is_bound_by_us(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => ip == Ipv4Addr::LOCALHOST || self.is_program(ip),
            IpAddr::V6(_) => false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn two_blocks_never_overlap_and_a_dropped_one_is_free_again() {
        let (one, two) = (Block::claim().unwrap(), Block::claim().unwrap());
        assert_ne!(one.base, two.base);
        assert!(!one.is_program(two.any()) && !one.is_program(one.relay()));
        let base = one.base;
        drop(one);
        assert_eq!(Block::claim().unwrap().base, base);
    }
}
