//! The names of the policy: a hosts file, and a DNS responder over TCP that refuses all others and has them noted.

mod dns;
pub(crate) mod responder;

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::policy::Policy;

/// Where the program finds the responder; as in [`RESOLV_CONF`].
pub(crate) const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// Text of `/etc/resolv.conf` for the program: the responder answers over TCP only, as UDP sockets are refused.
pub const RESOLV_CONF: &str = "nameserver 127.0.0.1\noptions use-vc timeout:2 attempts:1 ndots:0\n";

/// Why a name was not found.
pub(crate) const UNKNOWN: &str = "no rule of the Manifest has this name";

/// Every name of the policy with its addresses: ourselves, members, external destinations.
pub(crate) fn of(policy: &Policy) -> Vec<(String, Vec<IpAddr>)> {
    let members = policy.connect.iter().map(|rule| &rule.member);
    let of_members = std::iter::once(&policy.me).chain(members).flat_map(|one| {
        let names = one.names.iter();
        names.map(|name| (name.clone(), one.addresses.clone()))
    });
    let external = policy.external.iter();
    let external = external.map(|rule| (rule.host.clone(), rule.addresses.clone()));
    let mut all: Vec<(String, Vec<IpAddr>)> = of_members.chain(external).collect();
    all.sort();
    all.dedup();
    all
}

/// What the responder answers: the names in lower case, and `localhost`.
pub(crate) fn resolvable(policy: &Policy) -> Vec<(String, Vec<IpAddr>)> {
    let mut names = of(policy);
    for (name, _) in &mut names {
        name.make_ascii_lowercase();
    }
    let local = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    names.push(("localhost".to_owned(), local.to_vec()));
    names
}

/// Text of `/etc/hosts` for the program.
#[must_use]
pub fn hosts(policy: &Policy) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    for (name, addresses) in of(policy) {
        for address in addresses {
            let _ = writeln!(text, "{address} {name}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let text = r#"{"trust_domain": "d", "session": "t/s", "manifest_hash": "00", "listen": [],
          "me": {"workload": "w", "instance": 0, "addresses": ["100.64.0.1", "fd00::1"], "names": ["w-0"]},
          "peers": [], "connect": [
            {"member": {"workload": "w", "instance": 0, "addresses": ["100.64.0.1"], "names": ["w-0"]}, "ports": [1]},
            {"member": {"workload": "p", "instance": 0, "addresses": ["100.64.0.2", "fd00::2"], "names": ["P-0"]},
             "ports": [2, 3]}],
          "outside": [], "external": [{"host": "x.test", "port": 443, "addresses": ["100.64.9.9"]}]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn hosts_are_those_of_the_policy_once() {
        let text = hosts(&policy());
        assert_eq!(text.matches("w-0").count(), 3); // two addresses of ours, one of the rule about ourselves
        assert!(text.contains("100.64.0.2 P-0\nfd00::2 P-0\n"));
        assert!(text.contains("100.64.9.9 x.test\n"));
    }

    #[test]
    fn the_responder_knows_them_in_lower_case_and_localhost() {
        let names: Vec<String> = resolvable(&policy())
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["p-0", "w-0", "w-0", "x.test", "localhost"]);
    }
}
