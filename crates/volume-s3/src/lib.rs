//! A bucket of an S3-compatible service as the store of a volume. Nothing in it is trusted: what comes back is
//! authenticated by the engine, from the bucket and from the cache of ciphertext alike.
#![forbid(unsafe_code)]

mod answer;
mod cache;
mod client;
mod listing;
mod store;

use std::path::PathBuf;
use std::time::Duration;

pub use store::Bucket;
pub use zeroize::Zeroizing;

/// A bucket, how it is reached, and what may be used of this machine.
#[derive(Clone)]
pub struct Config {
    /// Address of the service: `https://…`, or `http://…`.
    pub endpoint: String,
    /// Name of the region, a part of signatures.
    pub region: String,
    /// Name of the bucket.
    pub bucket: String,
    /// What the keys of the volume's objects begin with, without a slash at the end; may be empty.
    pub prefix: String,
    /// Signs the requests; without, they are not signed.
    pub credentials: Option<Credentials>,
    /// Certificates, PEM, to which the service's own must lead; for https alone.
    pub authorities: Vec<u8>,
    /// How long one call tries before it fails.
    pub deadline: Duration,
    /// Directory for the cache, and for what is written until it is uploaded.
    pub directory: PathBuf,
    /// Most bytes of the cache.
    pub cache_bytes: u64,
}

/// An access key. Requests carry signatures made with the secret, never the secret. Never printed.
#[derive(Clone)]
pub struct Credentials {
    /// Names the key.
    pub id: String,
    /// Its secret, wiped when dropped.
    pub secret: Zeroizing<String>,
    /// Of a key for a limited time.
    pub token: Option<String>,
}
