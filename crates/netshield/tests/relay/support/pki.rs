//! A session's CA and what it issues: right and wrong certificates for the tests of refusals.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

use super::der::{oid, sequence, time, value};

const ECDSA_SHA256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 2];
const MANIFEST: &[u8] = &[
    0x69, 0x82, 0xEB, 0x81, 0xF5, 0xAF, 0xAB, 0x91, 0xA0, 0xF5, 0xA8, 0xD0, 0xC9, 0xE6, 0xCE, 0xC4,
    0xA9, 0xD7, 0xC1, 0x7D,
];
/// Usages: server and client.
pub const BOTH: &[u8] = &[1, 2];

/// A certificate authority.
pub struct Ca {
    key: EcdsaKeyPair,
    name: &'static str,
    /// Its own certificate.
    pub der: Vec<u8>,
}

/// What a leaf says.
#[derive(Clone)]
pub struct Leaf {
    pub uris: Vec<String>,
    pub manifest_hash: Option<[u8; 32]>,
    pub generation: u64,
    /// Seconds from now.
    pub valid: (i64, i64),
    /// Last arcs of extended key usages.
    pub usages: &'static [u8],
}

pub fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64
}

pub fn spki(key: &EcdsaKeyPair) -> Vec<u8> {
    let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    der.as_ref().to_vec()
}

fn name(text: &str) -> Vec<u8> {
    let attribute = sequence(&[oid(&[0x55, 4, 3]), value(0x0C, text.as_bytes())]);
    sequence(&[value(0x31, &attribute)])
}

fn extension(id: &[u8], critical: bool, content: &[u8]) -> Vec<u8> {
    let mut parts = vec![oid(id)];
    if critical {
        parts.push(value(1, &[0xFF]));
    }
    parts.push(value(4, content));
    sequence(&parts)
}

fn certificate(
    signer: &EcdsaKeyPair,
    issuer: &str,
    subject: &str,
    spki: &[u8],
    valid: (i64, i64),
    extensions: &[Vec<u8>],
) -> Vec<u8> {
    let algorithm = sequence(&[oid(ECDSA_SHA256)]);
    let mut serial = [0; 8];
    aws_lc_rs::rand::fill(&mut serial).unwrap();
    serial[0] = serial[0] & 0x7F | 1;
    let to_be_signed = sequence(&[
        value(0xA0, &value(2, &[2])),
        value(2, &serial),
        algorithm.clone(),
        name(issuer),
        sequence(&[time(now() + valid.0), time(now() + valid.1)]),
        name(subject),
        spki.to_vec(),
        value(0xA3, &sequence(extensions)),
    ]);
    let signature = signer.sign(&SystemRandom::new(), &to_be_signed).unwrap();
    let bits = [&[0], signature.as_ref()].concat();
    sequence(&[to_be_signed, algorithm, value(3, &bits)])
}

impl Ca {
    pub fn new(name: &'static str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let extensions = [
            extension(&[0x55, 0x1D, 0x13], true, &sequence(&[value(1, &[0xFF])])),
            extension(&[0x55, 0x1D, 0x0F], true, &value(3, &[1, 0x06])),
        ];
        let der = certificate(&key, name, name, &spki(&key), (-60, 86_400), &extensions);
        Self { key, name, der }
    }

    pub fn issue(&self, spki: &[u8], leaf: &Leaf) -> Vec<u8> {
        certificate(
            &self.key,
            self.name,
            "",
            spki,
            leaf.valid,
            &leaf.extensions(),
        )
    }
}

impl Leaf {
    /// What the CAS would issue to `workload` and `instance` of the tests' session for ten minutes.
    pub fn right(workload: &str, instance: u16) -> Self {
        Self {
            uris: vec![format!(
                "spiffe://cas.example/acme/train/{workload}/{instance}"
            )],
            manifest_hash: Some([7; 32]),
            generation: 1,
            valid: (-60, 600),
            usages: BOTH,
        }
    }

    pub fn self_signed(&self, key: &EcdsaKeyPair) -> Vec<u8> {
        certificate(key, "", "", &spki(key), self.valid, &self.extensions())
    }

    fn extensions(&self) -> Vec<Vec<u8>> {
        let usages: Vec<_> = self
            .usages
            .iter()
            .map(|last| oid(&[0x2B, 6, 1, 5, 5, 7, 3, *last]))
            .collect();
        let uris: Vec<_> = self
            .uris
            .iter()
            .map(|uri| value(0x86, uri.as_bytes()))
            .collect();
        let mut all = vec![
            extension(&[0x55, 0x1D, 0x25], false, &sequence(&usages)),
            extension(&[0x55, 0x1D, 0x11], true, &sequence(&uris)),
        ];
        if let Some(hash) = self.manifest_hash {
            let content = [&hash[..], &self.generation.to_be_bytes()].concat();
            all.push(extension(MANIFEST, false, &value(4, &content)));
        }
        all
    }
}
