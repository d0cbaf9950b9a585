//! Where tunnels lead and under which key: IPv6, a new key in mid-life, destinations outside the session.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "relay/support/mod.rs"]
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, RootCertStore};
use securetf_netshield::relay::{Limits, NetworkKey};
use support::attacker::{ALPN, attack, issued};
use support::pki::{Ca, Leaf};
use support::{Node, Pair, accept, dial, external, node, node_at, policy};

fn passes(near: &mut TcpStream, far: &mut TcpStream) {
    let mut heard = [0; 4];
    near.write_all(b"ping").unwrap();
    far.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"ping");
    far.write_all(b"pong").unwrap();
    near.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"pong");
}

#[test]
fn tunnels_and_programs_may_both_use_ipv6() {
    let ca = Ca::new("session");
    let [worker, ps] = ["worker", "ps"].map(|name| {
        let leaf = Leaf::right(name, 0);
        node_at(&ca, &leaf, policy(name, 0), Limits::default(), "[::1]:0")
    });
    assert!(ps.relay.tunnel_address().is_ipv6());
    let pair = Pair::of(ca, worker, ps);
    let mut near = dial(&pair.worker.relay, "[fd00::100]:2222");
    let mut far = accept(&pair.listener);
    passes(&mut near, &mut far);
    let peers = pair.ps.program.peers.lock().unwrap().clone();
    assert_eq!(peers[0].ip().to_string(), "fd00::1");
}

/// The certificate with which the relay answers.
fn presented(pair: &Pair) -> Vec<u8> {
    let client = issued(&pair.ca, &Leaf::right("worker", 0));
    let mut tls = attack(pair.ps.relay.tunnel_address(), client, ALPN);
    tls.conn.complete_io(&mut tls.sock).unwrap();
    tls.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn a_new_key_serves_new_tunnels_and_leaves_live_streams_alone() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.connect();
    let key = NetworkKey::generate().unwrap();
    let right = Leaf::right("ps", 0);
    let chain = vec![pair.ca.issue(&key.spki_der().unwrap(), &right)];
    let install = |chain: &[Vec<u8>], key| pair.ps.relay.install(chain.to_vec(), key);

    let error = install(&chain, None).unwrap_err().to_string();
    assert!(error.contains("for another key"), "{error}");
    assert_ne!(
        presented(&pair),
        chain[0],
        "what is refused changes nothing"
    );
    install(&chain, Some(key)).unwrap();
    assert_eq!(presented(&pair), chain[0]);
    // From now on the new key is the present one.
    let old = vec![pair.ca.issue(&pair.ps.key.spki_der().unwrap(), &right)];
    assert!(install(&old, None).is_err());

    passes(&mut near, &mut far);
    let (mut near, mut far) = pair.connect();
    passes(&mut near, &mut far);
    assert_eq!(pair.worker.relay.stats().cut, 0);
}

/// A member that may reach `localhost` at the port of the listener, as 100.127.0.1.
fn with_external() -> (Node, TcpListener) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut policy = policy("worker", 0);
    policy.external = vec![external("localhost", server.local_addr().unwrap().port())];
    let leaf = Leaf::right("worker", 0);
    let node = node(&Ca::new("session"), &leaf, policy, Limits::default());
    (node, server)
}

fn dial_out(node: &Node, server: &TcpListener) -> TcpStream {
    let port = server.local_addr().unwrap().port();
    dial(&node.relay, &format!("100.127.0.1:{port}"))
}

/// What a TLS client sends first.
fn hello(name: &'static str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut tls = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes).unwrap();
    }
    bytes
}

#[test]
fn an_external_destination_gets_the_programs_tls_as_it_is_with_both_ends() {
    let (node, server) = with_external();
    let mut near = dial_out(&node, &server);
    let hello = hello("localhost");
    near.write_all(&hello).unwrap();
    let mut far = accept(&server);
    let mut heard = vec![0; hello.len()];
    far.read_exact(&mut heard).unwrap();
    assert_eq!(heard, hello);
    passes(&mut near, &mut far);
    near.shutdown(Shutdown::Write).unwrap();
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
    far.write_all(b"last words").unwrap();
    drop(far);
    let mut text = String::new();
    near.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last words");
}

#[test]
fn a_reset_of_an_external_server_is_a_reset_for_the_program() {
    let (node, server) = with_external();
    let mut near = dial_out(&node, &server);
    near.write_all(&hello("localhost")).unwrap();
    let far = accept(&server);
    rustix::net::sockopt::set_socket_linger(&far, Some(Duration::ZERO)).unwrap();
    drop(far);
    let error = near.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn an_external_destination_is_not_even_dialled_for_another_name_or_without_tls() {
    let (node, server) = with_external();
    server.set_nonblocking(true).unwrap();
    let cases = [
        (
            hello("other.example"),
            "the TLS ClientHello names other.example",
        ),
        (
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            "the program does not begin with a TLS ClientHello",
        ),
    ];
    for (bytes, reason) in cases {
        let mut near = dial_out(&node, &server);
        near.write_all(&bytes).unwrap();
        let error = near.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{reason}");
        let denial = node.denials.expect(reason);
        assert!(denial.destination.starts_with("localhost:"), "{denial:?}");
    }
    let nobody = server.accept().unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
}
