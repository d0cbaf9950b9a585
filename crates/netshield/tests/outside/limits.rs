//! What bounds clients: deadlines, counts, and the member's own right to serve.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use securetf_netshield::relay::OutsideLimits;

use crate::common::eventually;
use crate::common::pki::Leaf;
use crate::support::{STATEMENT, Server, client, outcome};

fn short() -> OutsideLimits {
    OutsideLimits {
        handshake: Duration::from_millis(400),
        idle: Duration::from_millis(400),
        ..OutsideLimits::default()
    }
}

/// Reads to the end, whatever the end is, which must come before the machine could call it hanging.
fn ends(mut tcp: impl Read) {
    let begin = Instant::now();
    let _ = tcp.read_to_end(&mut Vec::new());
    assert!(begin.elapsed() < Duration::from_secs(25));
}

#[test]
fn who_dawdles_in_the_handshake_is_cut() {
    let server = Server::new(None, short());
    let mut tcp = TcpStream::connect(server.address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    tcp.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    ends(tcp);
    server.node.denials.expect("no handshake in time");
    server.untouched();
}

#[test]
fn who_asks_for_a_statement_and_sends_no_nonce_is_cut() {
    let server = Server::new(None, short());
    server.give_statement();
    let (mut tls, _) = client(server.address, &[STATEMENT], None);
    tls.write_all(&[1; 31]).unwrap();
    ends(tls);
    server.node.denials.expect("no nonce in time");
}

#[test]
fn who_asks_before_there_is_a_statement_gets_none() {
    let server = Server::new(None, OutsideLimits::default());
    let (tls, _) = client(server.address, &[STATEMENT], None);
    assert!(!outcome(tls).is_ok_and(|answer| !answer.is_empty()));
    server.node.denials.expect("no statement yet");
}

#[test]
fn an_idle_connection_is_reset() {
    let server = Server::new(None, short());
    let (mut tls, _) = client(server.address, &[], None);
    tls.write_all(b"x").unwrap();
    let mut program = server.program();
    program.read_exact(&mut [0]).unwrap();
    assert!(program.read(&mut [0]).is_err());
    assert!(tls.read(&mut [0]).is_err());
    assert_eq!(server.node.relay.stats().cut, 1);
}

#[test]
fn one_address_takes_half_of_the_places_and_they_come_back() {
    let limits = OutsideLimits {
        connections: 4,
        ..OutsideLimits::default()
    };
    let server = Server::new(None, limits);
    let mut held = Vec::new();
    for _ in 0..2 {
        let (mut tls, _) = client(server.address, &[], None);
        tls.write_all(b"x").unwrap();
        held.push((tls, server.program()));
    }
    let (tls, _) = client(server.address, &[], None);
    outcome(tls).unwrap_err();
    server.node.denials.expect("from one address");
    held.clear();
    eventually("the ends", || server.node.relay.stats().live == 0);
    eventually("a place", || {
        let (mut tls, _) = client(server.address, &[], None);
        tls.write_all(b"x").is_ok() && server.node.relay.stats().outside > 2
    });
}

#[test]
fn a_revoked_member_resets_its_clients_and_refuses_new_ones() {
    let server = Server::new(None, OutsideLimits::default());
    let (mut tls, _) = client(server.address, &[], None);
    tls.write_all(b"x").unwrap();
    let mut program = server.program();
    program.read_exact(&mut [0]).unwrap();
    server.node.relay.revoke("another Manifest");
    assert!(tls.read(&mut [0]).is_err());
    assert!(program.read(&mut [0]).is_err());
    server.node.denials.expect("cut: revoked: another Manifest");
    let (tls, _) = client(server.address, &[], None);
    outcome(tls).unwrap_err();
    server.node.denials.expect("revoked: another Manifest");
}

#[test]
fn a_certificate_that_is_not_renewed_ends_new_and_live_connections() {
    let leaf = Leaf {
        valid: (-60, 3),
        ..Leaf::right("ps", 0)
    };
    let server = Server::with(None, OutsideLimits::default(), &leaf);
    let (mut tls, _) = client(server.address, &[], None);
    tls.write_all(b"x").unwrap();
    let _program = server.program();
    assert!(tls.read(&mut [0]).is_err());
    server
        .node
        .denials
        .expect("cut: our own certificate has expired");
    let (tls, _) = client(server.address, &[], None);
    outcome(tls).unwrap_err();
}

#[test]
fn a_renewed_certificate_keeps_live_connections() {
    let leaf = Leaf {
        valid: (-60, 3),
        ..Leaf::right("ps", 0)
    };
    let server = Server::with(None, OutsideLimits::default(), &leaf);
    let (mut tls, _) = client(server.address, &[], None);
    tls.write_all(b"x").unwrap();
    let mut program = server.program();
    let chain = vec![
        server
            .ca
            .issue(&server.node.key.spki_der().unwrap(), &Leaf::right("ps", 0)),
    ];
    server.node.relay.install(chain, None).unwrap();
    std::thread::sleep(Duration::from_millis(3500)); // past the end of the first one
    program.write_all(b"y").unwrap();
    tls.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_dropped_relay_resets_its_clients() {
    let server = Server::new(None, OutsideLimits::default());
    let (mut tls, _) = client(server.address, &[], None);
    tls.write_all(b"x").unwrap();
    let mut program = server.program();
    program.read_exact(&mut [0]).unwrap();
    drop(server.node);
    assert!(tls.read(&mut [0]).is_err());
    assert!(program.read(&mut [0]).is_err());
}
