//! A client that offers any certificate and accepts any server, on rustls's own record layer.
#![allow(clippy::unnecessary_wraps)]

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
use securetf_netshield::relay::{Frame, Open};

use super::pki::{Ca, Leaf, spki};

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

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

pub fn attack(
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

pub fn open(port: u16) -> Open {
    Open {
        stream: [9; 32],
        workload: "ps".into(),
        instance: 0,
        port,
        source_instance: 0,
        source: "100.64.0.1:40000".parse().unwrap(),
    }
}

pub fn issued(ca: &Ca, leaf: &Leaf) -> Option<(Vec<u8>, EcdsaKeyPair)> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    Some((ca.issue(&spki(&key), leaf), key))
}

pub const ALPN: Option<&[u8]> = Some(b"securetf-net/1");

/// Sends a right frame and a canary after whatever handshake; the answer that came, if any.
pub fn push(mut tls: Tls, frame: &Frame) -> Option<u8> {
    let _ = tls.write_all(&frame.encode());
    let _ = tls.flush();
    let mut answer = [0];
    let got = tls.read(&mut answer);
    let _ = tls.write_all(b"canary");
    let _ = tls.flush();
    matches!(got, Ok(1)).then_some(answer[0])
}
