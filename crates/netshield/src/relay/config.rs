//! The one TLS profile: 1.3 only, AES-GCM, hybrid key agreement first, both sides with certificates, nothing resumed.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::NetError;
use super::handshake::ALPN;
use super::identity::Identity;
use super::peer::Instance;
use super::verify::{Session, Verifier};

/// Our identity, checked and ready for handshakes.
pub struct Installed {
    provider: Arc<CryptoProvider>,
    resolver: Arc<SingleCertAndKey>,
    pub identity: Identity,
    pub generation: u64,
    pub not_after_s: u64,
}

/// aws-lc-rs with the suites and groups of the profile only.
pub fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::{cipher_suite, kx_group};
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

impl Installed {
    /// Checks that key and chain belong together and that peers will accept them.
    ///
    /// # Errors
    /// [`NetError::Identity`].
    pub fn new(
        identity: Identity,
        session: &Session,
        me: &Instance,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, NetError> {
        let chain: Vec<_> = identity
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let peer = session
            .check_own(&chain, me, UnixTime::now())
            .map_err(|error| NetError::Identity(error.to_string()))?;
        let leaf = chain
            .first()
            .ok_or_else(|| NetError::Identity("the chain is empty".into()))?;
        let leaf = webpki::EndEntityCert::try_from(leaf)
            .map_err(|error| NetError::Identity(error.to_string()))?;
        if leaf.subject_public_key_info().as_ref() != identity.key.spki_der()?.as_slice() {
            return Err(NetError::Identity(
                "the certificate is for another key".into(),
            ));
        }
        let resolver = Arc::new(SingleCertAndKey::from(identity.certified()));
        Ok(Self {
            provider,
            resolver,
            identity,
            generation: peer.generation,
            not_after_s: peer.not_after_s,
        })
    }

    /// For one connection that we dial.
    ///
    /// # Errors
    /// [`NetError::Crypto`] if the profile cannot be set up.
    pub fn client(&self, verifier: Arc<Verifier>) -> Result<Arc<ClientConfig>, NetError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|_| NetError::Crypto)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.resolver.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_secret_extraction = true;
        Ok(Arc::new(config))
    }

    /// For one connection that we accept.
    ///
    /// # Errors
    /// [`NetError::Crypto`] if the profile cannot be set up.
    pub fn server(&self, verifier: Arc<Verifier>) -> Result<Arc<ServerConfig>, NetError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|_| NetError::Crypto)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.resolver.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.enable_secret_extraction = true;
        Ok(Arc::new(config))
    }
}
