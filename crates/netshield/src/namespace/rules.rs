//! What the policy becomes in the namespace, as texts: the nft ruleset, addresses and routes. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use crate::policy::Policy;

/// NFLOG group of refusals; groups belong to the namespace.
pub(super) const LOG_GROUP: u16 = 1;

/// `(address, port)` pairs that the program may connect to through the relay. Own addresses are not among them: the
/// kernel connects the program to itself.
pub(super) fn permitted(policy: &Policy) -> BTreeSet<SocketAddr> {
    let members = policy.connect.iter().flat_map(|rule| {
        let addresses = rule.member.addresses.iter();
        addresses.flat_map(|&address| rule.ports.iter().map(move |&port| (address, port)))
    });
    let external = policy.external.iter().flat_map(|rule| {
        let addresses = rule.addresses.iter();
        addresses.map(|&address| (address, rule.port))
    });
    members
        .chain(external)
        .filter(|(address, _)| !policy.me.addresses.contains(address))
        .map(SocketAddr::from)
        .collect()
}

/// The whole ruleset. `v4` and `v6` are the inner listeners, on loopback.
///
/// Only a SYN opens a connection, and the program has no raw sockets: every other TCP packet may pass, which lets the
/// program answer connections that the relay opened to it. A permitted SYN that finds no relay is reset *behind* the
/// tproxy rule: `local 0.0.0.0/0` would otherwise deliver it to a listener of the program itself. As every address is
/// local, the program could bind to any: only its own ones may be the source.
pub(super) fn ruleset(policy: &Policy, v4: SocketAddr, v6: SocketAddr) -> String {
    let permitted = permitted(policy);
    let elements = |wanted: fn(&IpAddr) -> bool| {
        let pairs = permitted.iter().filter(|pair| wanted(&pair.ip()));
        let pairs: Vec<String> = pairs
            .map(|pair| format!("{} . {}", pair.ip(), pair.port()))
            .collect();
        if pairs.is_empty() {
            String::new()
        } else {
            format!("elements = {{ {} }}", pairs.join(", "))
        }
    };
    let own: String = policy.me.addresses.iter().fold(String::new(), |text, own| {
        let family = if own.is_ipv4() { "ip" } else { "ip6" };
        text + &format!("    {family} daddr {own} accept\n")
    });
    let from_own = |family: &str, set: &str, wanted: fn(&IpAddr) -> bool| {
        let own = policy.me.addresses.iter().filter(|own| wanted(own));
        own.fold(String::new(), |text, own| {
            text + &format!("    {family} saddr {own} {family} daddr . tcp dport {set} accept\n")
        })
    };
    let to_peers =
        from_own("ip", "@peers4", IpAddr::is_ipv4) + &from_own("ip6", "@peers6", IpAddr::is_ipv6);
    let (elements4, elements6) = (elements(IpAddr::is_ipv4), elements(IpAddr::is_ipv6));
    let (port4, port6) = (v4.port(), v6.port());
    let opening = "tcp flags & (fin | syn | rst | ack) == syn";
    let log = format!("log group {LOG_GROUP} snaplen 80");
    format!(
        "table inet shield {{
  set peers4 {{ type ipv4_addr . inet_service; {elements4} }}
  set peers6 {{ type ipv6_addr . inet_service; {elements6} }}
  chain arriving {{
    type filter hook prerouting priority mangle; policy accept;
    iifname != \"lo\" drop
    ip daddr 127.0.0.0/8 accept
    ip6 daddr ::1 accept
    ip daddr . tcp dport @peers4 tproxy ip to {v4} accept
    ip6 daddr . tcp dport @peers6 tproxy ip6 to {v6} accept
{own}    ip daddr . tcp dport @peers4 reject with tcp reset
    ip6 daddr . tcp dport @peers6 reject with tcp reset
    {opening} drop
  }}
  chain leaving {{
    type filter hook output priority filter; policy drop;
    oifname != \"lo\" drop
    meta l4proto tcp {opening} jump opening
    meta l4proto tcp accept
    ip daddr 127.0.0.0/8 accept
    ip6 daddr ::1 accept
{own}    {log}
  }}
  chain opening {{
    ip daddr 127.0.0.1 tcp dport {port4} {log} reject with tcp reset
    ip6 daddr ::1 tcp dport {port6} {log} reject with tcp reset
    ip daddr 127.0.0.0/8 accept
    ip6 daddr ::1 accept
{own}{to_peers}    {log} reject with tcp reset
  }}
}}
"
    )
}

/// Commands for `ip -batch`: own addresses, and every other address local (`AnyIP`), so that packets for peers stay.
pub(super) fn addresses(policy: &Policy) -> String {
    let mut text = String::from("link set lo up\n");
    for own in &policy.me.addresses {
        let (length, rest, all) = match own {
            IpAddr::V4(_) => (32, "", "0.0.0.0/0"),
            IpAddr::V6(_) => (128, " nodad", "::/0"),
        };
        let _ = writeln!(text, "address add {own}/{length} dev lo{rest}");
        let _ = writeln!(text, "route add local {all} dev lo src {own}");
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
            {"member": {"workload": "p", "instance": 0, "addresses": ["100.64.0.2", "fd00::2"], "names": ["p-0"]},
             "ports": [2, 3]}],
          "outside": [], "external": [{"host": "x.test", "port": 443, "addresses": ["100.64.9.9"]}]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_pairs_of_rules_are_permitted_and_never_ourselves() {
        let pairs: Vec<String> = permitted(&policy())
            .iter()
            .map(SocketAddr::to_string)
            .collect();
        let v4 = ["100.64.0.2:2", "100.64.0.2:3", "100.64.9.9:443"];
        assert_eq!(pairs, [&v4[..], &["[fd00::2]:2", "[fd00::2]:3"]].concat());
    }

    #[test]
    fn a_refusal_stands_behind_each_tproxy_rule() {
        let (v4, v6) = ("127.0.0.1:5".parse().unwrap(), "[::1]:6".parse().unwrap());
        let text = ruleset(&policy(), v4, v6);
        assert!(text.contains("elements = { 100.64.0.2 . 2, 100.64.0.2 . 3, 100.64.9.9 . 443 }"));
        assert!(text.contains("elements = { fd00::2 . 2, fd00::2 . 3 }"));
        for (set, tproxy) in [
            ("@peers4", "tproxy ip to 127.0.0.1:5"),
            ("@peers6", "tproxy ip6 to [::1]:6"),
        ] {
            let proxied = text.find(tproxy).unwrap();
            let refused = text.find(&format!("{set} reject with tcp reset")).unwrap();
            assert!(proxied < refused);
        }
    }
}
