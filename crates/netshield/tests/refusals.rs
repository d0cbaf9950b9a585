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

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureAlgorithm, SignatureScheme,
    StreamOwned,
};
use securetf_netshield::relay::{Frame, Limits, Open};
use support::pki::{BOTH, Ca, Leaf, spki};
use support::{PORT, Pair, dial};

/// A client of the attacker: any certificate, accepts any server.
#[derive(Debug, Clone)]
struct Key(Arc<EcdsaKeyPair>);

impl SigningKey for Key {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(self.clone()))
    }
    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self
            .0
            .sign(&SystemRandom::new(), message)
            .unwrap()
            .as_ref()
            .to_vec())
    }
    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn attack(
    address: SocketAddr,
    chain: Option<(Vec<u8>, EcdsaKeyPair)>,
    protocol: Option<&[u8]>,
) -> Tls {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let mut config = match chain {
        None => builder.with_no_client_auth(),
        Some((der, key)) => {
            let key: Arc<dyn SigningKey> = Arc::new(Key(Arc::new(key)));
            let certified = Arc::new(CertifiedKey::new(vec![der.into()], key));
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    };
    config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
    let tls = ClientConnection::new(Arc::new(config), "ps.invalid".try_into().unwrap()).unwrap();
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    StreamOwned::new(tls, tcp)
}

fn open(port: u16) -> Open {
    Open {
        stream: [9; 32],
        workload: "ps".into(),
        instance: 0,
        port,
        source_instance: 0,
        source: "100.64.0.1:40000".parse().unwrap(),
    }
}

fn issued(ca: &Ca, leaf: &Leaf) -> Option<(Vec<u8>, EcdsaKeyPair)> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    Some((ca.issue(&spki(&key), leaf), key))
}

const ALPN: Option<&[u8]> = Some(b"securetf-net/1");

/// Sends a right frame and a canary after whatever handshake; the answer that came, if any.
fn push(mut tls: Tls, frame: &Frame) -> Option<u8> {
    let _ = tls.write_all(&frame.encode());
    let _ = tls.flush();
    let mut answer = [0];
    let got = tls.read(&mut answer);
    let _ = tls.write_all(b"canary");
    let _ = tls.flush();
    matches!(got, Ok(1)).then_some(answer[0])
}

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
fn records_and_key_updates_agree_with_those_of_rustls() {
    let limits = Limits {
        records_per_key: 3,
        ..Limits::default()
    };
    let pair = Pair::with(limits, Leaf::right("worker", 0), Leaf::right("ps", 0));
    let mut tls = attack(
        pair.ps.relay.tunnel_address(),
        issued(&pair.ca, &Leaf::right("worker", 0)),
        ALPN,
    );
    tls.write_all(&Frame::Open(open(PORT)).encode()).unwrap();
    tls.read_exact(&mut [0]).unwrap();
    let mut far = support::accept(&pair.listener);
    for round in 0..40_u8 {
        // rustls changes its keys at will, the relay after every third record.
        if round % 7 == 0 {
            tls.conn.refresh_traffic_keys().unwrap();
        }
        let message = vec![round; 1 + usize::from(round) * 1000];
        let mut received = vec![0; message.len()];
        tls.write_all(&message).unwrap();
        far.read_exact(&mut received).unwrap();
        assert!(received == message);
        far.write_all(&message).unwrap();
        tls.read_exact(&mut received).unwrap();
        assert!(received == message);
    }
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
    drop(far);
    assert_eq!(
        tls.read(&mut [0]).unwrap(),
        0,
        "close_notify, or rustls would report truncation"
    );
}

#[test]
fn a_changed_record_resets_the_program() {
    let pair = Pair::new();
    let mut tls = attack(
        pair.ps.relay.tunnel_address(),
        issued(&pair.ca, &Leaf::right("worker", 0)),
        ALPN,
    );
    tls.write_all(&Frame::Open(open(PORT)).encode()).unwrap();
    tls.read_exact(&mut [0]).unwrap();
    let mut far = support::accept(&pair.listener);
    let mut record = Vec::new();
    tls.conn.writer().write_all(b"canary").unwrap();
    tls.conn.write_tls(&mut record).unwrap();
    *record.last_mut().unwrap() ^= 1;
    tls.sock.write_all(&record).unwrap();
    assert_eq!(
        far.read(&mut [0]).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    assert_eq!(pair.ps.relay.stats().received_bytes, 0);
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
    let two = vec![Leaf::right("worker", 0).uris, Leaf::right("worker", 1).uris].concat();
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
        Leaf::right("worker", 0),
        Leaf::right("ps", 0),
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
fn resuming_without_knowing_a_stream_of_ones_own_is_refused() {
    let pair = Pair::new();
    let tls = attack(
        pair.ps.relay.tunnel_address(),
        issued(&pair.ca, &Leaf::right("worker", 0)),
        ALPN,
    );
    assert_eq!(push(tls, &Frame::Resume([1; 32])), Some(4));
    nothing_arrived(&pair);
    // A stream of worker/0 is not for worker/1, even if it knew the id.
    let mut owner = attack(
        pair.ps.relay.tunnel_address(),
        issued(&pair.ca, &Leaf::right("worker", 0)),
        ALPN,
    );
    owner.write_all(&Frame::Open(open(PORT)).encode()).unwrap();
    let mut answer = [0];
    owner.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [1]);
    let tls = attack(
        pair.ps.relay.tunnel_address(),
        issued(&pair.ca, &Leaf::right("worker", 1)),
        ALPN,
    );
    assert_eq!(push(tls, &Frame::Resume([9; 32])), Some(4));
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
    let _ = near.write_all(b"canary");
    assert!(near.read(&mut [0]).is_err());
    pair.worker.denials.expect("expected ps/0, found ps/1");
    assert!(wrong.program.peers.lock().unwrap().is_empty());
    assert_eq!(pair.worker.relay.stats().sent_bytes, 0);
}
