//! Where the ciphertext of a volume lies: a directory, or a bucket.
#![allow(missing_docs)] // documented in _core.pyi

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use volume::{Anchor, Freshness, Grant, Volume, VolumeError};
use volume_s3::{Bucket, Config, Credentials};
use volume_store::SystemEnvironment;

/// A `securetf.shields.buckets.Bucket`, by its attributes.
#[derive(FromPyObject)]
pub struct PyBucket {
    endpoint: String,
    region: String,
    bucket: String,
    prefix: String,
    access_key: (String, String, Option<String>),
    authorities: Vec<u8>,
    deadline_s: f64,
    directory: PathBuf,
    cache_bytes: u64,
}

/// One or the other, as Python names it.
#[derive(FromPyObject)]
#[allow(clippy::large_enum_variant)] // one argument, gone after the call
pub enum Named {
    Directory(PathBuf),
    Bucket(PyBucket),
}

#[derive(Clone)]
pub(crate) enum Place {
    Directory(PathBuf),
    Bucket(Box<Config>),
}

impl From<Named> for Place {
    fn from(named: Named) -> Self {
        match named {
            Named::Directory(path) => Self::Directory(path),
            Named::Bucket(bucket) => {
                let (id, secret, token) = bucket.access_key;
                Self::Bucket(Box::new(Config {
                    endpoint: bucket.endpoint,
                    region: bucket.region,
                    bucket: bucket.bucket,
                    prefix: bucket.prefix,
                    credentials: Some(Credentials {
                        id,
                        secret: secret.into(),
                        token,
                    }),
                    authorities: bucket.authorities,
                    deadline: Duration::try_from_secs_f64(bucket.deadline_s)
                        .unwrap_or(Duration::from_secs(30)),
                    directory: bucket.directory,
                    cache_bytes: bucket.cache_bytes,
                }))
            }
        }
    }
}

impl Place {
    /// Opens the volume. In a bucket only what is asked for is committed: each commit is an upload.
    pub(crate) fn open(
        &self,
        anchor: Option<Arc<dyn Anchor>>,
        grant: Grant,
        freshness: Freshness,
    ) -> Result<Arc<Volume>, VolumeError> {
        let config = match self {
            Self::Directory(path) => {
                return volume_store::open_directory(path, anchor, grant, freshness);
            }
            Self::Bucket(config) => config,
        };
        let writable = grant.writable;
        let store = Bucket::open(config, writable)?;
        if writable && grant.seq == 0 {
            store.check_is_free()?;
        }
        let environment = Arc::new(SystemEnvironment);
        let volume = Volume::open(Arc::new(store), anchor, environment, grant, freshness)?;
        if writable {
            volume.hold_commits()?;
        }
        Ok(volume)
    }
}
