//! AES-256-GCM with detached tags, the nonces and the associated data. docs/formats/volume-v1.md, "Sealing".

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::api::{Grant, VolumeKey};
use crate::error::VolumeError;

/// AES-256-GCM, HKDF-SHA-256, SHA-256.
pub const SUITE: u8 = 1;
/// Bytes of a tag.
pub const TAG: usize = 16;

/// Bytes of a key.
const KEY: usize = 32;

const INFO_METADATA: &[u8] = b"securetf volume v1 metadata";
const INFO_FILE: &[u8] = b"securetf volume v1 file";

/// A sealed object's tag and the counter half of its nonce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    pub counter: u64,
    pub tag: [u8; TAG],
}

/// The keys of one volume: of the newest version and, while it is re-keyed, of the one before. Which of them sealed
/// something follows from the epoch in its nonce, never from what the store says of it.
pub struct Keys {
    pub volume_id: [u8; 16],
    newest: KeySet,
    since: u32,
    older: Option<KeySet>,
}

impl Keys {
    pub fn new(grant: &Grant) -> Result<Self, VolumeError> {
        let older = grant.older_key.as_ref().map(|key| {
            let version = grant.key_version.checked_sub(1);
            let version = version.ok_or(VolumeError::Invalid("no key is older than version 0"))?;
            KeySet::new(grant.volume_id, version, key)
        });
        Ok(Self {
            volume_id: grant.volume_id,
            newest: KeySet::new(grant.volume_id, grant.key_version, &grant.key)?,
            since: grant.key_since,
            older: older.transpose()?,
        })
    }

    /// The keys that seal now.
    pub fn newest(&self) -> &KeySet {
        &self.newest
    }

    /// The first epoch that sealed under the newest version.
    pub fn since(&self) -> u32 {
        self.since
    }

    /// The keys under which an epoch sealed.
    pub fn of(&self, epoch: u32) -> Result<&KeySet, VolumeError> {
        if epoch >= self.since {
            return Ok(&self.newest);
        }
        self.older.as_ref().ok_or_else(|| {
            VolumeError::Key(format!(
                "something is sealed in epoch {epoch}, under a key that the volume no longer has: key version {} \
                 began with epoch {}",
                self.newest.version, self.since
            ))
        })
    }
}

/// One AES-256-GCM key, of a file or of the metadata.
pub struct Key(LessSafeKey);

impl Key {
    fn new(bytes: &[u8; KEY]) -> Result<Self, VolumeError> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| crypto_failed())?;
        Ok(Self(LessSafeKey::new(key)))
    }
}

impl Drop for Key {
    /// ring does not wipe a key that is freed: another one, of zeros, takes its place in memory before that.
    fn drop(&mut self) {
        if let Ok(zeros) = UnboundKey::new(&AES_256_GCM, &[0; KEY]) {
            self.0 = LessSafeKey::new(zeros);
            std::hint::black_box(&self.0); // else the compiler may leave the write out: nothing reads it
        }
    }
}

/// How many bytes HKDF gives for a key.
struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        KEY
    }
}

/// The keys of one version. aws-lc wipes its copy of what they are derived from when it is freed.
pub struct KeySet {
    pub version: u32,
    volume_id: [u8; 16],
    prk: Prk,
    metadata: Key,
}

impl KeySet {
    fn new(volume_id: [u8; 16], version: u32, key: &VolumeKey) -> Result<Self, VolumeError> {
        let prk = Salt::new(HKDF_SHA256, &volume_id).extract(key.bytes());
        let metadata = expand(&prk, &[INFO_METADATA, &version.to_be_bytes()])?;
        Ok(Self {
            version,
            volume_id,
            prk,
            metadata,
        })
    }

    /// The key of one file.
    pub fn file(&self, file_id: &[u8; 16]) -> Result<Key, VolumeError> {
        expand(
            &self.prk,
            &[INFO_FILE, &self.version.to_be_bytes(), file_id],
        )
    }

    /// The key of journal records and snapshot pages.
    pub fn metadata(&self) -> &Key {
        &self.metadata
    }

    /// Domain byte, suite, volume id, key version: the start of all associated data.
    fn aad_start(&self, domain: u8, out: &mut Vec<u8>) {
        out.push(domain);
        out.push(SUITE);
        out.extend_from_slice(&self.volume_id);
        out.extend_from_slice(&self.version.to_be_bytes());
    }

    /// Associated data of a chunk.
    pub fn chunk_aad(&self, file_id: &[u8; 16], index: u64, plain_len: u32) -> Vec<u8> {
        let mut aad = Vec::with_capacity(50);
        self.aad_start(b'D', &mut aad);
        aad.extend_from_slice(file_id);
        aad.extend_from_slice(&index.to_be_bytes());
        aad.extend_from_slice(&plain_len.to_be_bytes());
        aad
    }

    /// Associated data of a journal record: its header without the tag.
    pub fn record_aad(&self, header: &[u8]) -> Vec<u8> {
        let mut aad = Vec::with_capacity(22 + header.len());
        self.aad_start(b'J', &mut aad);
        aad.extend_from_slice(header);
        aad
    }

    /// Associated data of a snapshot page.
    pub fn page_aad(&self, seq: u64, level: u8, offset: u64, plain_len: u32) -> Vec<u8> {
        let mut aad = Vec::with_capacity(43);
        self.aad_start(b'P', &mut aad);
        aad.extend_from_slice(&seq.to_be_bytes());
        aad.push(level);
        aad.extend_from_slice(&offset.to_be_bytes());
        aad.extend_from_slice(&plain_len.to_be_bytes());
        aad
    }
}

fn expand(prk: &Prk, info: &[&[u8]]) -> Result<Key, VolumeError> {
    let okm = prk.expand(info, KeyLength).map_err(|_| crypto_failed())?;
    let mut bytes = Zeroizing::new([0; KEY]);
    okm.fill(&mut *bytes).map_err(|_| crypto_failed())?;
    Key::new(&bytes)
}

fn crypto_failed() -> VolumeError {
    VolumeError::Key("the cryptographic library failed".to_owned())
}

/// Makes nonces: the mount epoch and a counter that starts at 1 with each mount and never repeats.
pub struct Nonces {
    pub epoch: u32,
    next: AtomicU64,
}

impl Nonces {
    pub fn new(epoch: u32) -> Self {
        Self {
            epoch,
            next: AtomicU64::new(1),
        }
    }

    fn draw(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Encrypts `text` in place.
    pub fn seal(&self, key: &Key, aad: &[u8], text: &mut [u8]) -> Result<Seal, VolumeError> {
        let counter = self.draw();
        self.seal_with(key, counter, aad, text)
    }

    /// Reserves a counter for associated data that must contain it; use it once.
    pub fn reserve(&self) -> u64 {
        self.draw()
    }

    /// Encrypts `text` in place with a counter of [`Self::reserve`].
    pub fn seal_with(
        &self,
        key: &Key,
        counter: u64,
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<Seal, VolumeError> {
        let tag = key
            .0
            .seal_in_place_separate_tag(nonce(self.epoch, counter), Aad::from(aad), text)
            .map_err(|_| crypto_failed())?;
        let tag = tag.as_ref().try_into().map_err(|_| crypto_failed())?;
        Ok(Seal { counter, tag })
    }
}

fn nonce(epoch: u32, counter: u64) -> Nonce {
    let mut raw = [0; 12];
    let (head, tail) = raw.split_at_mut(4);
    head.copy_from_slice(&epoch.to_be_bytes());
    tail.copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(raw)
}

/// Decrypts `text` in place; `false`, and zeros in it, when it does not authenticate. Nobody else may change `text`
/// meanwhile.
pub fn open(key: &Key, epoch: u32, seal: &Seal, aad: &[u8], text: &mut [u8]) -> bool {
    let (nonce, aad, tag) = (nonce(epoch, seal.counter), Aad::from(aad), seal.tag.into());
    let opened = key
        .0
        .open_in_place_separate_tag(nonce, aad, tag, text, 0..)
        .is_ok();
    if !opened {
        text.fill(0);
    }
    opened
}
