//! What one member of a session may do on the network. Python computes it from the Manifest
//! (`securetf.manifest.network`) and hands it over as JSON; nothing local can widen it.

use std::net::IpAddr;

use serde::Deserialize;

/// The whole policy of one workload instance. An empty list allows nothing.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// SPIFFE trust domain of the CAS.
    pub trust_domain: String,
    /// `tenant/session`.
    pub session: String,
    /// Who we are.
    pub me: Member,
    /// SHA-256 of the Manifest, 64 hex digits; peers must carry the same one.
    pub manifest_hash: String,
    /// Ports of the program that other members may reach.
    pub listen: Vec<ListenRule>,
    /// Members that the program may reach.
    pub connect: Vec<ConnectRule>,
    /// Members whose workloads stand in some `from` of `listen`: the addresses as which they may appear.
    pub peers: Vec<Member>,
    /// Named destinations outside the session; the program speaks TLS itself, unshielded.
    pub external: Vec<ExternalRule>,
    /// Ports of the program that clients outside of the session may reach.
    pub outside: Vec<OutsideRule>,
}

/// One instance of a workload with the stable virtual addresses and names by which programs know it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Name of the workload.
    pub workload: String,
    /// Its instance.
    pub instance: u16,
    /// Virtual addresses: one IPv4 in 100.64.0.0/10, one IPv6 in `fd00::/8`.
    pub addresses: Vec<IpAddr>,
    /// Names, such as `worker-1`.
    pub names: Vec<String>,
}

/// A port that the program listens on and the workloads whose members may connect to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenRule {
    /// Name of the rule in the Manifest.
    pub name: String,
    /// TCP port.
    pub port: u16,
    /// Names of workloads.
    pub from: Vec<String>,
}

/// A member and the ports of it that the program may connect to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectRule {
    /// The destination.
    pub member: Member,
    /// TCP ports.
    pub ports: Vec<u16>,
}

/// `host:port` outside the session, reached through virtual addresses of its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalRule {
    /// DNS name, resolved by the untrusted host.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Virtual addresses that stand for it in the program's network.
    pub addresses: Vec<IpAddr>,
}

/// A port that the program listens on and who may connect to it without being a member.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutsideRule {
    /// Name of the rule in the Manifest.
    pub name: String,
    /// TCP port of the program, on its own loopback.
    pub port: u16,
    /// Application protocols (RFC 7301) that the program speaks, the preferred one first.
    pub alpn: Vec<String>,
    /// DER `SubjectPublicKeyInfo` in hex of each client that may connect; absent: anybody. An empty list allows nobody.
    pub clients: Option<Vec<String>>,
}

/// Reads the JSON form.
///
/// # Errors
/// A text that names what is wrong.
pub fn parse(json: &str) -> Result<Policy, String> {
    serde_json::from_str(json)
        .map_err(|error| format!("the network policy is not of the expected form: {error}"))
}
