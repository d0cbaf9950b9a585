//! TLS 1.3 between a CAS and its clients, without I/O: bytes in, bytes out, and the exporter of the connection
//! (RFC 8446 section 7.5, RFC 9266), which Python's `ssl` does not give.
//!
//! A client takes any certificate, but the other side must prove that it holds its key: the caller compares the key
//! with the one that it pinned. Nothing is resumed: each connection proves the key, and has an exporter of its own.
//! Tests are in Python, beside the two wrappers: `tests/unit/tls`.
#![forbid(unsafe_code)]

mod unpinned;

use std::io::{Read, Write};
use std::sync::Arc;

pub use rustls::Error;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{
    CertificateDer, IpAddr, Ipv4Addr, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName,
};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, Connection, OtherError, ServerConfig, ServerConnection,
};

/// Bytes of an exporter.
pub const EXPORTER_SIZE: usize = 32;

/// Plaintext that may wait to be sent; the caller takes what it made after each write.
const MAX_UNSENT: usize = 1 << 20;

/// What a server proves itself with.
#[derive(Debug, Clone)]
pub struct Server(Arc<ServerConfig>);

impl Server {
    /// certificate: DER. key: PKCS #8, DER. protocol: the one ALPN name; a client that offers only others is refused.
    ///
    /// # Errors
    /// Key and certificate do not fit, or are not of a kind that TLS 1.3 signs with.
    pub fn new(certificate: &[u8], key: &[u8], protocol: &[u8]) -> Result<Self, Error> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(certificate.to_vec())], key)?;
        config.alpn_protocols = vec![protocol.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self(Arc::new(config)))
    }

    /// The server's end of a new connection.
    ///
    /// # Errors
    /// None that input causes.
    pub fn accept(&self) -> Result<Session, Error> {
        ServerConnection::new(Arc::clone(&self.0)).map(|one| Session::of(one.into()))
    }
}

/// The client's end of a new connection.
///
/// # Errors
/// None that input causes.
pub fn connect() -> Result<Session, Error> {
    let provider = provider();
    let verifier = unpinned::Unpinned::new(provider.signature_verification_algorithms);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    let nobody = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])));
    ClientConnection::new(Arc::new(config), nobody).map(|one| Session::of(one.into()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// One end of one connection.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    plain: Vec<u8>,
    ended: bool,
}

impl Session {
    fn of(mut connection: Connection) -> Self {
        connection.set_buffer_limit(Some(MAX_UNSENT));
        Self {
            connection,
            plain: Vec::new(),
            ended: false,
        }
    }

    /// Whether the other side has yet to prove itself; nothing may be sent before.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Takes what arrived from the network, whatever its cuts.
    ///
    /// # Errors
    /// The other side breaks the protocol; [`Session::take`] then has the alert for it.
    pub fn feed(&mut self, mut arrived: &[u8]) -> Result<(), Error> {
        while !arrived.is_empty() {
            if self.connection.read_tls(&mut arrived).map_err(defect)? == 0 {
                break; // after the other side's last word, nothing counts
            }
            let state = self.connection.process_new_packets()?;
            self.ended |= state.peer_has_closed();
            let start = self.plain.len();
            self.plain
                .resize(start.saturating_add(state.plaintext_bytes_to_read()), 0);
            let room = self.plain.get_mut(start..).unwrap_or_default();
            self.connection.reader().read_exact(room).map_err(defect)?;
        }
        Ok(())
    }

    /// Returns at most `limit` bytes that the other side sent: none yet, or, once [`Session::has_ended`], no more.
    pub fn read(&mut self, limit: usize) -> Vec<u8> {
        let rest = self.plain.split_off(limit.min(self.plain.len()));
        std::mem::replace(&mut self.plain, rest)
    }

    /// Whether the other side said that it sends no more, and all that it sent was read.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended && self.plain.is_empty()
    }

    /// Encrypts, and returns how many bytes were taken; [`Session::take`] has them.
    ///
    /// # Errors
    /// None that input causes.
    pub fn write(&mut self, plain: &[u8]) -> Result<usize, Error> {
        self.connection.writer().write(plain).map_err(defect)
    }

    /// Says that we send no more.
    pub fn close(&mut self) {
        self.connection.send_close_notify();
    }

    /// Returns all that is to be sent on the network.
    ///
    /// # Errors
    /// None that input causes.
    pub fn take(&mut self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut out).map_err(defect)?;
        }
        Ok(out)
    }

    /// The exporter under `label`, without context: what only the two ends of this very connection know.
    ///
    /// # Errors
    /// Still handshaking.
    pub fn exporter(&self, label: &[u8]) -> Result<[u8; EXPORTER_SIZE], Error> {
        self.connection
            .export_keying_material([0; EXPORTER_SIZE], label, None)
    }

    /// The other side's certificate, DER; it holds the key in it.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.connection
            .peer_certificates()?
            .first()
            .map(AsRef::as_ref)
    }
}

/// Memory does not fail to be read or written.
fn defect(error: std::io::Error) -> Error {
    Error::Other(OtherError(Arc::new(error)))
}
