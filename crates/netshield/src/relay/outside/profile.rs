//! The TLS profile of a public port: 1.3 only, our X.509-SVID, the rule's protocols, and, where the rule names keys of
//! clients, a certificate of one of them. What such a certificate says does not count, only its key.

use std::net::IpAddr;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};

use super::super::NetError;
use super::super::config::Installed;
use super::super::state::State;
use crate::policy::OutsideRule;

/// The application protocol (RFC 7301) of whoever asks for the statement.
pub const STATEMENT: &[u8] = b"securetf-statement/1";

/// A rule of the policy, read.
#[derive(Debug)]
pub struct Rule {
    pub name: String,
    pub port: u16,
    alpn: Vec<Vec<u8>>,
    /// DER `SubjectPublicKeyInfo` of each key that may connect; none when anybody may.
    clients: Option<Arc<[Vec<u8>]>>,
}

impl Rule {
    /// # Errors
    /// [`NetError::Policy`] when a key is not written in hex.
    pub fn new(rule: &OutsideRule) -> Result<Self, NetError> {
        let wrong = || NetError::Policy(format!("a client key of {} is not hex", rule.name));
        let clients = rule.clients.as_ref().map(|keys| {
            let keys = keys
                .iter()
                .map(|key| HEXLOWER.decode(key.as_bytes()).map_err(|_| wrong()));
            keys.collect::<Result<Arc<[_]>, _>>()
        });
        Ok(Self {
            name: rule.name.clone(),
            port: rule.port,
            alpn: rule
                .alpn
                .iter()
                .map(|one| one.as_bytes().to_vec())
                .collect(),
            clients: clients.transpose()?,
        })
    }

    /// What the log calls a connection.
    pub fn place(&self, from: IpAddr) -> String {
        format!("outside {}:{} from {from}", self.name, self.port)
    }

    /// For one connection to the program.
    ///
    /// # Errors
    /// [`NetError::Crypto`] if the profile cannot be set up.
    pub fn program(&self, state: &State, ours: &Installed) -> Result<Arc<ServerConfig>, NetError> {
        let verifier = self.clients.as_ref().map(|keys| {
            Arc::new(KnownKeys {
                keys: Arc::clone(keys),
                algorithms: state.provider.signature_verification_algorithms,
            }) as Arc<dyn ClientCertVerifier>
        });
        config(state, ours, verifier, self.alpn.clone())
    }
}

/// For one connection that asks for the statement.
///
/// # Errors
/// [`NetError::Crypto`] if the profile cannot be set up.
pub fn statement(state: &State, ours: &Installed) -> Result<Arc<ServerConfig>, NetError> {
    config(state, ours, None, vec![STATEMENT.to_vec()])
}

fn config(
    state: &State,
    ours: &Installed,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    alpn: Vec<Vec<u8>>,
) -> Result<Arc<ServerConfig>, NetError> {
    let verifier = verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&state.provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|_| NetError::Crypto)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(ours.identity.certified())));
    config.alpn_protocols = alpn;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Accepts exactly these keys. Chain, names and times of the certificate are the client's own words.
#[derive(Debug)]
struct KnownKeys {
    keys: Arc<[Vec<u8>]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for KnownKeys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let certificate = webpki::EndEntityCert::try_from(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let key = certificate.subject_public_key_info();
        if self
            .keys
            .iter()
            .any(|known| known.as_slice() == key.as_ref())
        {
            return Ok(ClientCertVerified::assertion());
        }
        // The alert is access_denied: authorisation, not attestation.
        Err(Error::InvalidCertificate(
            CertificateError::ApplicationVerificationFailure,
        ))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
