//! The program's `sockaddr`, from bytes that were read once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Longest address that the kernel takes: `struct sockaddr_storage`.
pub(super) const LONGEST: usize = 128;

const INET_SIZE: usize = 16; // struct sockaddr_in
const INET6_SIZE: usize = 24; // SIN6_LEN_RFC2133: without the scope id, as the kernel does

/// Where a call wants to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address {
    /// `AF_UNSPEC`: `connect` undoes a connection; `bind` takes 0.0.0.0 for it (`any`), as old programs do.
    Unspecified { any: Option<u16> },
    /// IPv4, or IPv6 as it was given (IPv4-mapped ones stay IPv6 here).
    Inet(SocketAddr),
    /// Another family by number.
    Other(u16),
}

impl Address {
    /// Reads what the kernel would.
    ///
    /// # Errors
    /// `EINVAL`: too short for its family.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, i32> {
        let (family, rest) = bytes.split_first_chunk().ok_or(libc::EINVAL)?;
        let family = u16::from_ne_bytes(*family);
        match i32::from(family) {
            libc::AF_INET => parse_inet(bytes, rest),
            libc::AF_INET6 => parse_inet6(bytes, rest),
            libc::AF_UNSPEC => {
                let any = parse_inet(bytes, rest)
                    .ok()
                    .and_then(|address| match address {
                        Self::Inet(inet) if inet.ip().is_unspecified() => Some(inet.port()),
                        _ => None,
                    });
                Ok(Self::Unspecified { any })
            }
            _ => Ok(Self::Other(family)),
        }
    }
}

fn parse_inet(whole: &[u8], rest: &[u8]) -> Result<Address, i32> {
    let (port, rest) = rest.split_first_chunk().ok_or(libc::EINVAL)?;
    let (ip, _) = rest.split_first_chunk::<4>().ok_or(libc::EINVAL)?;
    if whole.len() < INET_SIZE {
        return Err(libc::EINVAL);
    }
    let inet = SocketAddrV4::new(Ipv4Addr::from(*ip), u16::from_be_bytes(*port));
    Ok(Address::Inet(inet.into()))
}

fn parse_inet6(whole: &[u8], rest: &[u8]) -> Result<Address, i32> {
    let (port, rest) = rest.split_first_chunk().ok_or(libc::EINVAL)?;
    let (_flow, rest) = rest.split_first_chunk::<4>().ok_or(libc::EINVAL)?;
    let (ip, _) = rest.split_first_chunk::<16>().ok_or(libc::EINVAL)?;
    if whole.len() < INET6_SIZE {
        return Err(libc::EINVAL);
    }
    let inet = SocketAddrV6::new(Ipv6Addr::from(*ip), u16::from_be_bytes(*port), 0, 0);
    Ok(Address::Inet(inet.into()))
}

/// IPv4-mapped addresses as IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// An IPv4 address as a socket of the given family takes it.
pub(super) fn for_family(ip: Ipv4Addr, port: u16, inet6: bool) -> SocketAddr {
    let ip = if inet6 {
        IpAddr::V6(ip.to_ipv6_mapped())
    } else {
        IpAddr::V4(ip)
    };
    SocketAddr::new(ip, port)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn v4(family: i32, port: u16, ip: [u8; 4]) -> Vec<u8> {
        let family = u16::try_from(family).unwrap().to_ne_bytes();
        [&family[..], &port.to_be_bytes(), &ip, &[0; 8]].concat()
    }

    #[test]
    fn an_ipv4_address_is_read_as_the_kernel_does() {
        let bytes = v4(libc::AF_INET, 2222, [100, 64, 0, 1]);
        assert_eq!(
            Address::parse(&bytes),
            Ok(Address::Inet("100.64.0.1:2222".parse().unwrap()))
        );
        assert_eq!(Address::parse(&bytes[..15]), Err(libc::EINVAL));
        assert_eq!(Address::parse(&[]), Err(libc::EINVAL));
    }

    #[test]
    fn a_mapped_address_may_leave_out_its_scope() {
        let family = u16::try_from(libc::AF_INET6).unwrap().to_ne_bytes();
        let ip = Ipv4Addr::new(100, 64, 0, 1).to_ipv6_mapped().octets();
        let bytes = [&family[..], &2222_u16.to_be_bytes(), &[0; 4], &ip].concat();
        let Ok(Address::Inet(inet)) = Address::parse(&bytes) else {
            panic!("24 bytes are enough")
        };
        assert_eq!(canonical(inet), "100.64.0.1:2222".parse().unwrap());
        assert_eq!(Address::parse(&bytes[..23]), Err(libc::EINVAL));
    }

    #[test]
    fn unspecified_is_any_only_with_a_zero_address() {
        let zero = v4(libc::AF_UNSPEC, 7, [0; 4]);
        assert_eq!(
            Address::parse(&zero),
            Ok(Address::Unspecified { any: Some(7) })
        );
        let other = v4(libc::AF_UNSPEC, 7, [10, 0, 0, 1]);
        assert_eq!(
            Address::parse(&other),
            Ok(Address::Unspecified { any: None })
        );
        assert_eq!(
            Address::parse(&[0, 0]),
            Ok(Address::Unspecified { any: None })
        );
        assert_eq!(Address::parse(&[40, 0, 1]), Ok(Address::Other(40)));
    }
}
