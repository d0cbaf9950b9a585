//! Who may be at the other end of a tunnel. Both sides check, in this order: chain to the session's CA at the current
//! time with the usage of the role; exactly one URI; same trust domain and session; the name that the policy expects
//! here; our Manifest; a generation not older than any seen.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage};

use super::generations::Generations;
use super::peer::{Instance, Leaf, instance_of};
use super::refusal::Refusal;

/// id-kp-serverAuth, 1.3.6.1.5.5.7.3.1 (RFC 5280 section 4.2.1.12).
const SERVER_AUTH: &[u8] = &[0x2B, 6, 1, 5, 5, 7, 3, 1];
/// id-kp-clientAuth, 1.3.6.1.5.5.7.3.2.
const CLIENT_AUTH: &[u8] = &[0x2B, 6, 1, 5, 5, 7, 3, 2];

/// What every certificate of the session has in common.
#[derive(Debug)]
pub struct Session {
    pub root: TrustAnchor<'static>,
    pub trust_domain: String,
    pub name: String,
    pub manifest_hash: [u8; 32],
    pub algorithms: WebPkiSupportedAlgorithms,
    pub generations: Generations,
}

/// The other end, proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub instance: Instance,
    pub generation: u64,
    pub not_after_s: u64,
}

/// Whom the policy allows at this end of this connection.
#[derive(Debug, Clone)]
pub enum Expected {
    /// Exactly this one: what the program dialled.
    Exactly(Instance),
    /// Any instance of these workloads.
    AnyOf(Arc<[String]>),
}

impl Session {
    /// Authenticates a chain and tells whose it is.
    ///
    /// # Errors
    /// The first [`Refusal`] in the order of the module's list.
    pub fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: &'static [u8],
        expected: &Expected,
        now: UnixTime,
    ) -> Result<Peer, Refusal> {
        let certificate = EndEntityCert::try_from(leaf).map_err(|_| Refusal::Malformed)?;
        let anchors = std::slice::from_ref(&self.root);
        let usage = KeyUsage::required(usage);
        certificate
            .verify_for_usage(
                self.algorithms.all,
                anchors,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map_err(|error| match error {
                webpki::Error::CertExpired { .. } => Refusal::Expired,
                other => Refusal::Chain(other.to_string()),
            })?;
        let leaf = Leaf::parse(leaf)?;
        let instance = instance_of(&leaf.uri, &self.trust_domain, &self.name);
        let instance = instance.ok_or_else(|| Refusal::OtherSession(leaf.uri.clone()))?;
        expected.check(&instance)?;
        if leaf.manifest_hash != self.manifest_hash {
            return Err(Refusal::OtherManifest(instance.to_string()));
        }
        self.generations.check(&instance, leaf.generation)?;
        Ok(Peer {
            instance,
            generation: leaf.generation,
            not_after_s: leaf.not_after_s,
        })
    }

    /// As [`Session::check`], for our own chain before it is used.
    ///
    /// # Errors
    /// The first [`Refusal`].
    pub fn check_own(
        &self,
        chain: &[CertificateDer<'_>],
        me: &Instance,
        now: UnixTime,
    ) -> Result<Peer, Refusal> {
        let (leaf, intermediates) = chain.split_first().ok_or(Refusal::Malformed)?;
        let expected = Expected::Exactly(me.clone());
        self.check(leaf, intermediates, SERVER_AUTH, &expected, now)?;
        self.check(leaf, intermediates, CLIENT_AUTH, &expected, now)
    }
}

impl Expected {
    fn check(&self, found: &Instance) -> Result<(), Refusal> {
        let (allowed, expected) = match self {
            Self::Exactly(one) => (one == found, one.to_string()),
            Self::AnyOf(workloads) => (
                workloads.contains(&found.workload),
                format!("one of {workloads:?}"),
            ),
        };
        if allowed {
            Ok(())
        } else {
            Err(Refusal::WrongName {
                expected,
                found: found.to_string(),
            })
        }
    }
}

/// The verifier of one connection; keeps whom it found.
#[derive(Debug)]
pub struct Verifier {
    session: Arc<Session>,
    expected: Expected,
    found: OnceLock<Peer>,
}

impl Verifier {
    pub fn new(session: Arc<Session>, expected: Expected) -> Arc<Self> {
        Arc::new(Self {
            session,
            expected,
            found: OnceLock::new(),
        })
    }

    /// The peer once the handshake is done.
    pub fn peer(&self) -> Option<Peer> {
        self.found.get().cloned()
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: &'static [u8],
        now: UnixTime,
    ) -> Result<(), Error> {
        let peer = self
            .session
            .check(leaf, intermediates, usage, &self.expected, now)
            .map_err(|refusal| {
                Error::InvalidCertificate(match refusal {
                    Refusal::Expired => CertificateError::Expired,
                    other => CertificateError::Other(OtherError(Arc::new(other))),
                })
            })?;
        self.found
            .set(peer)
            .map_err(|_| Error::General("a second certificate in one handshake".into()))
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.session.algorithms)
    }
}

fn no_tls12() -> Error {
    Error::General("only TLS 1.3 is spoken here".into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, SERVER_AUTH, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.session.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, CLIENT_AUTH, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.session.algorithms.supported_schemes()
    }
}
