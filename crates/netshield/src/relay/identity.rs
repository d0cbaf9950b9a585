//! The relay's own key and certificate chain. The key is made here and leaves only as a public key.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::NetError;

/// An ECDSA P-256 key. It never exists outside aws-lc's own memory, which is wiped when the key is freed.
#[derive(Clone)]
pub struct NetworkKey(Arc<EcdsaKeyPair>);

impl fmt::Debug for NetworkKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("NetworkKey(P-256)")
    }
}

impl NetworkKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`NetError::Crypto`] if the random generator or the key check fails.
    pub fn generate() -> Result<Self, NetError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map_err(|_| NetError::Crypto)?;
        Ok(Self(Arc::new(pair)))
    }

    /// The public key as DER `SubjectPublicKeyInfo` (RFC 5480), 91 bytes.
    ///
    /// # Errors
    /// [`NetError::Crypto`] if encoding fails.
    pub fn spki_der(&self) -> Result<Vec<u8>, NetError> {
        let der: PublicKeyX509Der<'_> =
            self.0.public_key().as_der().map_err(|_| NetError::Crypto)?;
        Ok(der.as_ref().to_vec())
    }
}

impl SigningKey for NetworkKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let known = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        known.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for NetworkKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        signature
            .map(|bytes| bytes.as_ref().to_vec())
            .map_err(|_| rustls::Error::General("signing failed".into()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

/// A key and the X.509-SVID that the CAS issued for it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The private key.
    pub key: NetworkKey,
    /// DER certificates, leaf first.
    pub chain: Vec<Vec<u8>>,
}

impl Identity {
    /// What rustls presents.
    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        let chain = self
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect();
        Arc::new(CertifiedKey::new(chain, Arc::new(self.key.clone())))
    }
}
