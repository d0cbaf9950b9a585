//! Why the other side of a tunnel is refused.

use super::der::DerError;

/// A reason in plain words; it goes to the denial log and the audit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// DER or an extension of it is wrong.
    #[error("the certificate is malformed")]
    Malformed,
    /// The chain does not lead to the CA of the session, or a signature or validity is wrong.
    #[error("the certificate is not valid under this session's CA: {0}")]
    Chain(String),
    /// `notAfter` has passed.
    #[error("the certificate has expired")]
    Expired,
    /// The subject alternative name is not exactly one URI.
    #[error("the certificate does not have exactly one URI name")]
    NotOneUri,
    /// Our extension is missing.
    #[error("the certificate names no Manifest")]
    NoManifestHash,
    /// Not a SPIFFE ID of our trust domain and session.
    #[error("{0} is not of this session")]
    OtherSession(String),
    /// A SPIFFE ID of our session, but not the one that the policy wants here.
    #[error("expected {expected}, found {found}")]
    WrongName {
        /// What the policy allows.
        expected: String,
        /// What the certificate says.
        found: String,
    },
    /// Another version of the Manifest.
    #[error("{0} was attested under another Manifest")]
    OtherManifest(String),
    /// A later attestation of the same instance has been seen.
    #[error("{name} has generation {found}, but generation {seen} was seen: it was replaced")]
    OldGeneration {
        /// The instance.
        name: String,
        /// In the certificate.
        found: u64,
        /// The highest so far.
        seen: u64,
    },
}

impl From<DerError> for Refusal {
    fn from(_: DerError) -> Self {
        Self::Malformed
    }
}
