//! A relay with one public port, a program behind it, and clients that look at what they are given.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, dead_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_ecdsa_type};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
};
use securetf_netshield::policy::OutsideRule;
use securetf_netshield::relay::{
    Limits, OutsideLimits, OutsideListener, Statement, TunnelListener,
};

use crate::common::pki::{Ca, Leaf, spki};
use crate::common::{Node, node, policy};

pub const STATEMENT: &[u8] = b"securetf-statement/1";

pub struct Server {
    pub ca: Ca,
    pub node: Node,
    pub listener: TcpListener,
    pub address: SocketAddr,
}

pub fn rule(clients: Option<&[&Customer]>) -> OutsideRule {
    OutsideRule {
        name: "rest".into(),
        port: 8501,
        alpn: vec!["http/1.1".into(), "h2".into()],
        clients: clients.map(|keys| keys.iter().map(|key| hex(&spki(&key.key))).collect()),
    }
}

impl Server {
    pub fn new(clients: Option<&[&Customer]>, limits: OutsideLimits) -> Self {
        Self::with(clients, limits, &Leaf::right("ps", 0))
    }

    pub fn with(clients: Option<&[&Customer]>, limits: OutsideLimits, leaf: &Leaf) -> Self {
        let ca = Ca::new("session");
        let mut policy = policy("ps", 0);
        policy.outside = vec![rule(clients)];
        let mut node = node(&ca, leaf, policy, Limits::default());
        let public = TunnelListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = public.address().unwrap();
        let listeners = vec![OutsideListener {
            name: "rest".into(),
            listener: public,
        }];
        node.relay.open_outside(listeners, limits).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        *node.program.address.lock().unwrap() = Some(listener.local_addr().unwrap());
        Self {
            ca,
            node,
            listener,
            address,
        }
    }

    pub fn program(&self) -> TcpStream {
        crate::common::accept(&self.listener)
    }

    pub fn untouched(&self) {
        assert!(self.node.program.peers.lock().unwrap().is_empty());
        assert_eq!(self.node.relay.stats().outside, 0);
    }

    pub fn give_statement(&self) {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let pkcs8 = key.to_pkcs8v1().unwrap();
        let made = Statement::new(
            r#"{"version": 1, "ear": "a.b.c"}"#,
            r#"{"workload": "ps"}"#,
            pkcs8.as_ref(),
        );
        self.node.relay.set_statement(made.unwrap());
    }
}

/// A client's key.
pub struct Customer {
    pub key: EcdsaKeyPair,
    pkcs8: Vec<u8>,
}

impl Customer {
    pub fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let pkcs8 = key.to_pkcs8v1().unwrap().as_ref().to_vec();
        Self { key, pkcs8 }
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.clone()));
        // Long expired: only the key counts.
        let leaf = Leaf {
            valid: (-9000, -600),
            ..Leaf::right("nobody", 0)
        };
        let certificate = CertificateDer::from(leaf.self_signed(&self.key));
        let key = any_ecdsa_type(&der).unwrap();
        Arc::new(CertifiedKey::new(vec![certificate], key))
    }
}

/// Takes any certificate and shows it.
#[derive(Debug, Default)]
pub struct Seen(pub Mutex<Vec<u8>>);

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.0.lock().unwrap() = leaf.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A client that has not said anything yet, and the certificate that it will be shown.
pub fn client(address: SocketAddr, alpn: &[&[u8]], key: Option<&Customer>) -> (Tls, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&seen) as Arc<dyn ServerCertVerifier>);
    let mut config = match key {
        Some(key) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key.certified())))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let name = ServerName::try_from("anything.test").unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    (StreamOwned::new(tls, tcp), seen)
}

/// What a client is told that writes and then reads: the error's text, or what came.
pub fn outcome(mut tls: Tls) -> Result<Vec<u8>, String> {
    let mut found = Vec::new();
    tls.write_all(b"hello")
        .and_then(|()| tls.read_to_end(&mut found))
        .map(|_| found)
        .map_err(|error| error.to_string())
}

/// Asks for a statement; returns its JSON and the certificate of the connection.
pub fn statement(address: SocketAddr, nonce: u8) -> (serde_json::Value, Vec<u8>) {
    let (mut tls, seen) = client(address, &[STATEMENT], None);
    tls.write_all(&[nonce; 32]).unwrap();
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).unwrap(); // fails without close_notify
    let (length, json) = answer.split_first_chunk::<4>().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, json.len());
    let leaf = seen.0.lock().unwrap().clone();
    (serde_json::from_slice(json).unwrap(), leaf)
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
