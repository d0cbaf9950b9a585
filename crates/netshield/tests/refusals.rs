//! Who does not get in: each refusal gives its reason, and not one byte reaches the program.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]
#![allow(
    clippy::unnecessary_wraps,
    clippy::needless_pass_by_value,
    clippy::items_after_statements
)]

#[path = "relay/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use securetf_netshield::relay::{Frame, Limits, Open};
use support::attacker::{ALPN, attack, issued, open, push};
use support::pki::{BOTH, Ca, Leaf};
use support::{PORT, Pair, dial};

/// The program was not even dialled.
fn nothing_arrived(pair: &Pair) {
    assert!(pair.ps.program.peers.lock().unwrap().is_empty());
    assert_eq!(pair.ps.relay.stats().received_bytes, 0);
    assert_eq!(pair.ps.relay.stats().inbound, 0);
}

fn refused(leaf: &Leaf, reason: &str) {
    let pair = Pair::new();
    let tls = attack(pair.ps.relay.tunnel_address(), issued(&pair.ca, leaf), ALPN);
    assert_eq!(push(tls, &Frame::Open(open(PORT))), None);
    let denial = pair.ps.denials.expect(reason);
    assert_eq!(denial.direction, "inbound");
    nothing_arrived(&pair);
}

#[test]
fn the_attackers_client_gets_in_with_what_the_cas_issues() {
    let pair = Pair::new();
    let tls = attack(
        pair.ps.relay.tunnel_address(),
        issued(&pair.ca, &Leaf::right("worker", 0)),
        ALPN,
    );
    assert_eq!(push(tls, &Frame::Open(open(PORT))), Some(1));
    let mut far = support::accept(&pair.listener);
    let mut text = [0; 6];
    far.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"canary");
}

#[test]
fn plaintext_is_refused() {
    let pair = Pair::new();
    let mut tcp = TcpStream::connect(pair.ps.relay.tunnel_address()).unwrap();
    tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let _ = tcp.read_to_end(&mut Vec::new());
    pair.ps.denials.expect("the peer does not speak TLS");
    nothing_arrived(&pair);
}

#[test]
fn no_certificate_is_refused() {
    let pair = Pair::new();
    let tls = attack(pair.ps.relay.tunnel_address(), None, ALPN);
    assert_eq!(push(tls, &Frame::Open(open(PORT))), None);
    pair.ps.denials.expect("the peer presented no certificate");
    nothing_arrived(&pair);
}

#[test]
fn a_self_signed_certificate_with_the_right_name_is_refused() {
    let pair = Pair::new();
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let der = Leaf::right("worker", 0).self_signed(&key);
    let tls = attack(pair.ps.relay.tunnel_address(), Some((der, key)), ALPN);
    assert_eq!(push(tls, &Frame::Open(open(PORT))), None);
    pair.ps
        .denials
        .expect("not valid under this session's CA: UnknownIssuer");
    nothing_arrived(&pair);
}

#[test]
fn another_sessions_ca_is_refused_even_under_the_same_name() {
    let pair = Pair::new();
    let other = Ca::new("session");
    let tls = attack(
        pair.ps.relay.tunnel_address(),
        issued(&other, &Leaf::right("worker", 0)),
        ALPN,
    );
    assert_eq!(push(tls, &Frame::Open(open(PORT))), None);
    pair.ps.denials.expect("not valid under this session's CA");
    nothing_arrived(&pair);
}

#[test]
fn wrong_names_under_the_right_ca_are_refused() {
    let name = |uri: &str| Leaf {
        uris: vec![uri.into()],
        ..Leaf::right("worker", 0)
    };
    refused(&Leaf::right("evaluator", 0), "found evaluator/0");
    refused(
        &name("spiffe://cas.example/acme/other/worker/0"),
        "is not of this session",
    );
    refused(
        &name("spiffe://cas.evil/acme/train/worker/0"),
        "is not of this session",
    );
    refused(
        &name("spiffe://cas.example/acme/train/worker/00"),
        "is not of this session",
    );
    refused(
        &name("spiffe://cas.example/acme/train/worker/0/x"),
        "is not of this session",
    );
    refused(
        &name("spiffe://cas.example/acme/trainworker/0"),
        "is not of this session",
    );
    let two = [Leaf::right("worker", 0).uris, Leaf::right("worker", 1).uris].concat();
    refused(
        &Leaf {
            uris: two,
            ..Leaf::right("worker", 0)
        },
        "does not have exactly one URI name",
    );
    refused(
        &Leaf {
            uris: vec![],
            ..Leaf::right("worker", 0)
        },
        "the certificate is malformed",
    );
}

#[test]
fn expired_and_future_certificates_are_refused() {
    refused(
        &Leaf {
            valid: (-600, -1),
            ..Leaf::right("worker", 0)
        },
        "the certificate has expired",
    );
    refused(
        &Leaf {
            valid: (300, 600),
            ..Leaf::right("worker", 0)
        },
        "not valid under this session's CA: CertNotValidYet",
    );
}

#[test]
fn a_missing_usage_is_refused() {
    refused(
        &Leaf {
            usages: &[1],
            ..Leaf::right("worker", 0)
        },
        "RequiredEkuNotFound",
    );
    assert_eq!(BOTH, [1, 2]);
}

#[test]
fn an_older_manifest_or_none_is_refused() {
    refused(
        &Leaf {
            manifest_hash: Some([6; 32]),
            ..Leaf::right("worker", 0)
        },
        "worker/0 was attested under another Manifest",
    );
    refused(
        &Leaf {
            manifest_hash: None,
            ..Leaf::right("worker", 0)
        },
        "the certificate names no Manifest",
    );
}

#[test]
fn tls_1_2_is_refused() {
    // A ClientHello of TLS 1.2: version 3.3, no supported_versions, one ECDHE suite, groups and signatures.
    let extensions: &[u8] = &[0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
    let mut hello = [&[3, 3][..], &[1; 32], &[0, 0, 2, 0xC0, 0x2B, 1, 0]].concat();
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let mut record = vec![
        22,
        3,
        1,
        0,
        (hello.len() + 4) as u8,
        1,
        0,
        0,
        hello.len() as u8,
    ];
    record.extend(&hello);
    let pair = Pair::new();
    let mut tcp = TcpStream::connect(pair.ps.relay.tunnel_address()).unwrap();
    tcp.write_all(&record).unwrap();
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer);
    assert_eq!(
        answer,
        [21, 3, 3, 0, 2, 2, 70],
        "a fatal alert protocol_version"
    );
    pair.ps.denials.expect("does not speak our TLS 1.3 profile");
    nothing_arrived(&pair);
}

#[test]
fn another_application_protocol_or_none_is_refused() {
    for (protocol, reason) in [
        (None, "does not speak securetf-net/1"),
        (Some(&b"h2"[..]), "does not speak securetf-net/1"),
    ] {
        let pair = Pair::new();
        let tls = attack(
            pair.ps.relay.tunnel_address(),
            issued(&pair.ca, &Leaf::right("worker", 0)),
            protocol,
        );
        assert_eq!(push(tls, &Frame::Open(open(PORT))), None);
        pair.ps.denials.expect(reason);
        nothing_arrived(&pair);
    }
}

#[test]
fn a_lower_generation_than_seen_is_refused_and_cut() {
    let pair = Pair::with(
        Limits::default(),
        &Leaf::right("worker", 0),
        &Leaf::right("ps", 0),
    );
    let (_near, mut far) = pair.connect();
    let newer = Leaf {
        generation: 2,
        ..Leaf::right("worker", 0)
    };
    let tls = attack(
        pair.ps.relay.tunnel_address(),
        issued(&pair.ca, &newer),
        ALPN,
    );
    assert_eq!(push(tls, &Frame::Open(open(PORT))), Some(1));
    assert_eq!(
        far.read(&mut [0]).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    pair.ps.denials.expect("cut: the peer was replaced");
    let before = pair.ps.program.peers.lock().unwrap().len();
    let tls = attack(
        pair.ps.relay.tunnel_address(),
        issued(&pair.ca, &Leaf::right("worker", 0)),
        ALPN,
    );
    assert_eq!(push(tls, &Frame::Open(open(PORT))), None);
    pair.ps
        .denials
        .expect("worker/0 has generation 1, but generation 2 was seen: it was replaced");
    assert_eq!(pair.ps.program.peers.lock().unwrap().len(), before);
}

#[test]
fn frames_outside_the_policy_are_refused() {
    let cases = [
        (
            open(PORT + 1),
            "the Manifest does not allow this peer on this port",
        ),
        (
            Open {
                instance: 1,
                ..open(PORT)
            },
            "this is another member",
        ),
        (
            Open {
                workload: "worker".into(),
                ..open(PORT)
            },
            "this is another member",
        ),
        (
            Open {
                source_instance: 1,
                ..open(PORT)
            },
            "the source is not the instance of the certificate",
        ),
        (
            Open {
                source: "127.0.0.1:5".parse().unwrap(),
                ..open(PORT)
            },
            "the source address is not the peer's",
        ),
        (
            Open {
                source: "100.64.0.100:5".parse().unwrap(),
                ..open(PORT)
            },
            "the source address is not the peer's",
        ),
    ];
    for (frame, reason) in cases {
        let pair = Pair::new();
        let tls = attack(
            pair.ps.relay.tunnel_address(),
            issued(&pair.ca, &Leaf::right("worker", 0)),
            ALPN,
        );
        assert_eq!(push(tls, &Frame::Open(frame)), Some(2));
        pair.ps.denials.expect(reason);
        nothing_arrived(&pair);
    }
}

#[test]
fn a_peer_with_another_name_than_dialled_gets_nothing() {
    let pair = Pair::new();
    // The host sends us to a genuine member that is not the one dialled.
    let wrong = support::node(
        &pair.ca,
        &Leaf::right("ps", 1),
        support::policy("ps", 1),
        Limits::default(),
    );
    *wrong.program.address.lock().unwrap() = Some(pair.listener.local_addr().unwrap());
    pair.worker
        .relay
        .set_endpoints(vec![("ps".into(), 0, wrong.relay.tunnel_address())]);
    let mut near = dial(&pair.worker.relay, "100.64.0.100:2222");
    // Whichever comes after the reset hears of it, and only the first.
    assert!(near.write_all(b"canary").is_err() || near.read(&mut [0]).is_err());
    let denial = pair.worker.denials.expect("expected ps/0, found ps/1");
    assert_eq!(
        (denial.direction, denial.process.as_str()),
        ("outbound", "7 test")
    );
    assert!(wrong.program.peers.lock().unwrap().is_empty());
    assert_eq!(pair.worker.relay.stats().sent_bytes, 0);
}
