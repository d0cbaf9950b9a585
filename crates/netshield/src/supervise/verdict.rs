//! Which address means what. Pure; the policy is turned into a set once.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::block::Block;
use crate::policy::Policy;

/// What is done with a `connect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// To the relay.
    Relay,
    /// To the program itself: at the first of these addresses where it listens.
    Own(Vec<Ipv4Addr>),
    /// To the relay, which hands it to the self-test.
    Test,
    /// `ECONNREFUSED`, and this in the log.
    Refused(&'static str),
}

/// The policy as the supervisor needs it.
#[derive(Debug)]
pub(super) struct Destinations {
    permitted: HashSet<SocketAddr>,
    me: Vec<IpAddr>,
}

impl Destinations {
    pub(super) fn new(policy: &Policy) -> Self {
        let members = policy.connect.iter().flat_map(|rule| {
            let ports = rule.ports.iter();
            ports.flat_map(|port| {
                rule.member
                    .addresses
                    .iter()
                    .map(|ip| SocketAddr::new(*ip, *port))
            })
        });
        let external = policy.external.iter().flat_map(|rule| {
            let addresses = rule.addresses.iter();
            addresses.map(|ip| SocketAddr::new(*ip, rule.port))
        });
        Self {
            permitted: members.chain(external).collect(),
            me: policy.me.addresses.clone(),
        }
    }

    /// `destination` is canonical: never an IPv4-mapped IPv6 address.
    pub(super) fn decide(&self, block: &Block, destination: SocketAddr) -> Verdict {
        let ip = destination.ip();
        match ip {
            IpAddr::V4(v4) if v4.is_unspecified() || v4.is_loopback() => to_loopback(block, v4),
            IpAddr::V6(v6) if v6.is_unspecified() || v6.is_loopback() => {
                Verdict::Own(vec![block.loopback6(), block.any6(), block.any()])
            }
            _ if self.me.contains(&ip) && ip.is_ipv4() => Verdict::Own(vec![block.any()]),
            _ if self.me.contains(&ip) => Verdict::Own(vec![block.any6(), block.any()]),
            _ if self.permitted.contains(&destination) => Verdict::Relay,
            _ => Verdict::Refused("the policy names no such destination"),
        }
    }

    /// The private address for a `bind`; none when the address is not the program's.
    pub(super) fn private(&self, block: &Block, ip: IpAddr, inet6_only: bool) -> Option<Ipv4Addr> {
        match ip.to_canonical() {
            IpAddr::V4(v4) if v4.is_unspecified() => Some(block.any()),
            IpAddr::V4(v4) if block.is_program(v4) => Some(v4),
            IpAddr::V4(v4) if v4.is_loopback() => Some(block.loopback()),
            IpAddr::V6(v6) if v6.is_unspecified() && inet6_only => Some(block.any6()),
            IpAddr::V6(v6) if v6.is_unspecified() => Some(block.any()),
            IpAddr::V6(v6) if v6.is_loopback() => Some(block.loopback6()),
            own if self.me.contains(&own) && own.is_ipv4() => Some(block.any()),
            own if self.me.contains(&own) => Some(block.any6()),
            _ => None,
        }
    }
}

fn to_loopback(block: &Block, ip: Ipv4Addr) -> Verdict {
    if ip == block.test() {
        Verdict::Test
    } else if block.is_program(ip) {
        Verdict::Own(vec![ip])
    } else if ip == block.relay() {
        Verdict::Refused("the relay's own listener is not a destination")
    } else {
        Verdict::Own(vec![block.loopback(), block.any()])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const POLICY: &str = r#"{
        "trust_domain": "cas.example", "session": "t/s",
        "me": {"workload": "worker", "instance": 0, "addresses": ["100.64.0.1", "fd00::1"], "names": ["worker-0"]},
        "manifest_hash": "00", "listen": [],
        "peers": [], "connect": [
            {"member": {"workload": "ps", "instance": 0, "addresses": ["100.64.0.9", "fd00::9"], "names": []},
             "ports": [2222]},
            {"member": {"workload": "worker", "instance": 0, "addresses": ["100.64.0.1"], "names": []},
             "ports": [2222]}],
        "outside": [], "external": [{"host": "api.bank.example", "port": 443, "addresses": ["100.64.1.1"]}]
    }"#;

    fn decide(block: &Block, destination: &str) -> Verdict {
        let policy: Policy = serde_json::from_str(POLICY).unwrap();
        Destinations::new(&policy).decide(block, destination.parse().unwrap())
    }

    #[test]
    fn only_what_the_policy_names_reaches_the_relay() {
        let block = Block::claim().unwrap();
        for named in ["100.64.0.9:2222", "[fd00::9]:2222", "100.64.1.1:443"] {
            assert_eq!(decide(&block, named), Verdict::Relay, "{named}");
        }
        for other in [
            "100.64.0.9:2223",
            "100.64.0.8:2222",
            "8.8.8.8:53",
            "[fe80::1]:2222",
            "10.0.0.1:22",
        ] {
            assert!(
                matches!(decide(&block, other), Verdict::Refused(_)),
                "{other}"
            );
        }
    }

    #[test]
    fn our_own_member_and_loopback_are_reached_without_the_relay() {
        let block = Block::claim().unwrap();
        let own = |ips: &[Ipv4Addr]| Verdict::Own(ips.to_vec());
        assert_eq!(decide(&block, "100.64.0.1:2222"), own(&[block.any()]));
        assert_eq!(
            decide(&block, "[fd00::1]:1"),
            own(&[block.any6(), block.any()])
        );
        assert_eq!(
            decide(&block, "127.0.0.1:1"),
            own(&[block.loopback(), block.any()])
        );
        assert_eq!(
            decide(&block, "0.0.0.0:1"),
            own(&[block.loopback(), block.any()])
        );
        assert_eq!(
            decide(&block, "[::1]:1"),
            own(&[block.loopback6(), block.any6(), block.any()])
        );
    }

    #[test]
    fn the_block_of_another_launcher_is_our_own_loopback() {
        let (block, other) = (Block::claim().unwrap(), Block::claim().unwrap());
        let destination = SocketAddr::new(other.any().into(), 2222).to_string();
        assert_eq!(
            decide(&block, &destination),
            Verdict::Own(vec![block.loopback(), block.any()])
        );
    }

    #[test]
    fn the_listener_of_the_relay_cannot_be_named() {
        let block = Block::claim().unwrap();
        let destination = SocketAddr::new(block.relay().into(), 1).to_string();
        assert!(matches!(decide(&block, &destination), Verdict::Refused(_)));
    }

    #[test]
    fn binds_go_to_private_addresses_and_foreign_ones_nowhere() {
        let block = Block::claim().unwrap();
        let destinations = Destinations::new(&serde_json::from_str(POLICY).unwrap());
        let private = |ip: &str, only| destinations.private(&block, ip.parse().unwrap(), only);
        assert_eq!(private("0.0.0.0", false), Some(block.any()));
        assert_eq!(private("::", false), Some(block.any()));
        assert_eq!(private("::ffff:0.0.0.0", false), Some(block.any()));
        assert_eq!(private("::", true), Some(block.any6()));
        assert_eq!(private("127.0.0.1", false), Some(block.loopback()));
        assert_eq!(private("::1", false), Some(block.loopback6()));
        assert_eq!(private("100.64.0.1", false), Some(block.any()));
        assert_eq!(private("fd00::1", false), Some(block.any6()));
        assert_eq!(private("10.0.0.1", false), None);
        assert_eq!(private("100.64.0.9", false), None);
    }
}
