//! Clients outside of the session: who is let in, what they are shown, how it ends.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../relay/support/mod.rs"]
mod common;
mod limits;
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use common::eventually;
use common::pki::Leaf;
use securetf_netshield::relay::{OutsideLimits, OutsideListener, TunnelListener};
use support::{Customer, STATEMENT, Server, client, outcome, rule, statement};

fn server(clients: Option<&[&Customer]>) -> Server {
    Server::new(clients, OutsideLimits::default())
}

#[test]
fn bytes_and_ends_pass_in_both_directions() {
    let server = server(None);
    let (mut tls, _) = client(server.address, &[b"h2", b"http/1.1"], None);
    tls.write_all(b"question").unwrap();
    let mut program = server.program();
    let mut question = [0; 8];
    program.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"question");
    assert_eq!(tls.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    // The client ends its direction; the program still answers.
    tls.conn.send_close_notify();
    tls.conn.complete_io(&mut tls.sock).ok();
    assert_eq!(program.read(&mut question).unwrap(), 0);
    program.write_all(&vec![7; 300_000]).unwrap();
    program.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).unwrap(); // with close_notify
    assert_eq!(answer, vec![7; 300_000]);
    eventually("the end", || server.node.relay.stats().live == 0);
    let stats = server.node.relay.stats();
    assert_eq!((stats.outside, stats.cut, stats.denied), (1, 0, 0));
    assert_eq!((stats.received_bytes, stats.sent_bytes), (8, 300_000));
}

#[test]
fn the_program_may_end_first_and_still_be_told_things() {
    let server = server(None);
    let (mut tls, _) = client(server.address, &[], None);
    tls.write_all(b"a").unwrap();
    let mut program = server.program();
    program.shutdown(Shutdown::Write).unwrap();
    assert_eq!(tls.read(&mut [0; 8]).unwrap(), 0);
    tls.write_all(b"bc").unwrap();
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    let mut all = Vec::new();
    program.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"abc");
}

#[test]
fn a_client_that_vanishes_is_a_reset_for_the_program_and_the_reverse() {
    let server = server(None);
    let (mut tls, _) = client(server.address, &[], None);
    tls.write_all(b"x").unwrap();
    let mut program = server.program();
    program.read_exact(&mut [0]).unwrap();
    tls.sock.shutdown(Shutdown::Both).unwrap(); // no close_notify
    assert_eq!(
        program.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    let (mut tls, _) = client(server.address, &[], None);
    tls.write_all(b"unread").unwrap();
    server.program().peek(&mut [0]).unwrap(); // then dropped with unread bytes: a reset
    let ended = tls.read(&mut [0; 8]).unwrap_err();
    assert!(
        matches!(
            ended.kind(),
            ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
        ),
        "{ended}"
    );
}

#[test]
fn a_program_that_does_not_listen_is_an_error_and_not_an_end() {
    let server = server(None);
    *server.node.program.address.lock().unwrap() = None;
    let (tls, _) = client(server.address, &[], None);
    outcome(tls).unwrap_err();
    eventually("the count", || server.node.relay.stats().unreachable == 1);
}

#[test]
fn tls_1_2_and_plaintext_are_refused_and_logged_without_what_was_sent() {
    let server = server(None);
    for (hello, alert, reason) in [
        (tls12_hello(), Some(70), "TLS 1.3 profile"), // protocol_version
        (
            b"GET /secret HTTP/1.1\r\n\r\n".to_vec(),
            None,
            "does not speak TLS",
        ),
    ] {
        let mut tcp = TcpStream::connect(server.address).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        tcp.write_all(&hello).unwrap();
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.first(), Some(&21), "an alert");
        assert!(alert.is_none_or(|alert| answer[6] == alert), "{answer:?}");
        let denial = server.node.denials.expect(reason);
        assert!(
            denial
                .destination
                .starts_with("outside rest:8501 from 127.0.0.1")
        );
        assert!(!format!("{denial:?}").contains("secret"));
    }
    server.untouched();
}

/// A `ClientHello` of TLS 1.2 (RFC 5246 section 7.4.1.2), one suite, no extensions but groups and signatures.
fn tls12_hello() -> Vec<u8> {
    let extensions = [
        0, 10, 0, 4, 0, 2, 0, 23, // supported_groups: secp256r1
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
    ];
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0xC0, 0x2B, 1, 0, 0, 16]);
    body.extend(extensions);
    let length = u8::try_from(body.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], &body[..]].concat()
}

#[test]
fn a_client_without_a_protocol_of_the_rule_is_refused() {
    let server = server(None);
    let (tls, _) = client(server.address, &[b"spdy/3"], None);
    let told = outcome(tls).unwrap_err();
    assert!(told.contains("NoApplicationProtocol"), "{told}");
    server.node.denials.expect("none of the rule's protocols");
    server.untouched();
}

#[test]
fn only_named_keys_get_in_where_keys_are_named() {
    let (known, stranger) = (Customer::new(), Customer::new());
    let server = server(Some(&[&known]));
    for (key, alert, reason) in [
        (Some(&stranger), "AccessDenied", "is not among"),
        (None, "CertificateRequired", "showed no key"),
    ] {
        let (tls, _) = client(server.address, &[], key);
        let told = outcome(tls).unwrap_err();
        assert!(told.contains(alert), "{told}");
        server.node.denials.expect(reason);
    }
    server.untouched();
    let (mut tls, _) = client(server.address, &[], Some(&known));
    tls.write_all(b"hi").unwrap();
    let mut text = [0; 2];
    server.program().read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hi");
}

#[test]
fn an_empty_list_of_keys_allows_nobody_but_the_statement() {
    let server = server(Some(&[]));
    server.give_statement();
    let (tls, _) = client(server.address, &[], Some(&Customer::new()));
    assert!(outcome(tls).unwrap_err().contains("AccessDenied"));
    assert_eq!(statement(server.address, 1).0["ear"], "a.b.c");
    server.untouched();
}

#[test]
fn the_statement_is_about_the_certificate_of_its_own_connection_also_after_a_renewal() {
    let server = server(None);
    server.give_statement();
    let (mut old, _) = client(server.address, &[], None);
    old.write_all(b"a").unwrap();
    let mut program = server.program();
    let mut leaves = Vec::new();
    for nonce in [1, 2] {
        let (said, leaf) = statement(server.address, nonce);
        assert_eq!(said["version"], 1);
        assert_eq!(said["certificate"].as_array().unwrap().len(), 1);
        assert_eq!(said["binding"].as_str().unwrap().split('.').count(), 3);
        leaves.push((leaf, said["certificate"].clone()));
        server
            .node
            .relay
            .install(
                vec![
                    server
                        .ca
                        .issue(&server.node.key.spki_der().unwrap(), &Leaf::right("ps", 0)),
                ],
                None,
            )
            .unwrap();
    }
    assert_ne!(leaves[0], leaves[1]);
    assert_eq!(server.node.relay.stats().statements, 2);
    // What was there before goes on.
    old.write_all(b"b").unwrap();
    let mut text = [0; 2];
    program.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ab");
}

#[test]
fn who_offers_more_than_the_statement_gets_the_program() {
    let server = server(None);
    let (mut tls, _) = client(server.address, &[STATEMENT, b"h2"], None);
    tls.write_all(b"x").unwrap();
    server.program().read_exact(&mut [0]).unwrap();
    assert_eq!(tls.conn.alpn_protocol(), Some(&b"h2"[..]));
}

#[test]
fn rules_and_listeners_must_fit() {
    let mut policy = common::policy("ps", 0);
    policy.outside = vec![rule(None)];
    let ca = common::pki::Ca::new("session");
    let leaf = Leaf::right("ps", 0);
    let mut node = common::node(
        &ca,
        &leaf,
        policy,
        securetf_netshield::relay::Limits::default(),
    );
    let refused = node
        .relay
        .open_outside(Vec::new(), OutsideLimits::default());
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("nothing listens for rest")
    );
    let other = ["rest", "more"].map(|name| OutsideListener {
        name: name.into(),
        listener: TunnelListener::bind("127.0.0.1:0".parse().unwrap()).unwrap(),
    });
    let refused = node
        .relay
        .open_outside(other.into(), OutsideLimits::default());
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("no rule is named more")
    );
}
