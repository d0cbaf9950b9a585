//! What a verified X.509-SVID says about its holder. `docs/formats/x509-svid.md` has the profile.

use super::der::{self, Reader};
use super::refusal::Refusal;

/// 2.5.29.17, subjectAltName.
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1D, 0x11];
/// 2.25.241264834617359218340961184053911216381: Manifest hash (32 bytes), generation (8 bytes, big endian).
const MANIFEST: [u8; 20] = [
    0x69, 0x82, 0xEB, 0x81, 0xF5, 0xAF, 0xAB, 0x91, 0xA0, 0xF5, 0xA8, 0xD0, 0xC9, 0xE6, 0xCE, 0xC4,
    0xA9, 0xD7, 0xC1, 0x7D,
];

/// Workload and instance within a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Instance {
    /// Name of the workload.
    pub workload: String,
    /// Its instance.
    pub number: u16,
}

impl std::fmt::Display for Instance {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.workload, self.number)
    }
}

/// The fields of a leaf certificate that decide. Not authenticated: `verify` checks the chain first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The only URI of the subject alternative name.
    pub uri: String,
    /// SHA-256 of the Manifest under which the holder was attested.
    pub manifest_hash: [u8; 32],
    /// Counts attestations of this instance.
    pub generation: u64,
    /// Seconds since the epoch.
    pub not_after_s: u64,
}

impl Leaf {
    /// Reads a DER certificate.
    ///
    /// # Errors
    /// [`Refusal`] for malformed DER, other than one URI SAN, or no Manifest extension.
    pub fn parse(certificate: &[u8]) -> Result<Self, Refusal> {
        let mut outer = Reader::new(certificate);
        let mut signed = outer.inside(der::SEQUENCE)?;
        outer.end()?;
        let mut fields = signed.inside(der::SEQUENCE)?;
        fields.value(0xA0)?; // version
        fields.any()?; // serial number
        fields.value(der::SEQUENCE)?; // signature algorithm
        fields.value(der::SEQUENCE)?; // issuer
        let mut validity = fields.inside(der::SEQUENCE)?;
        validity.any()?;
        let (tag, text) = validity.any()?;
        let not_after_s = der::time(tag, text)?;
        fields.value(der::SEQUENCE)?; // subject
        fields.value(der::SEQUENCE)?; // public key
        fields.optional(0x81)?;
        fields.optional(0x82)?;
        let mut wrapper = fields.inside(0xA3)?;
        fields.end()?;
        let mut extensions = wrapper.inside(der::SEQUENCE)?;
        wrapper.end()?;
        let (mut uri, mut manifest) = (None, None);
        while !extensions.is_empty() {
            let mut extension = extensions.inside(der::SEQUENCE)?;
            let identifier = extension.value(der::OBJECT_IDENTIFIER)?;
            extension.optional(der::BOOLEAN)?;
            let value = extension.value(der::OCTET_STRING)?;
            extension.end()?;
            let slot = match identifier {
                id if id == SUBJECT_ALT_NAME => &mut uri,
                id if id == MANIFEST => &mut manifest,
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(Refusal::Malformed);
            }
        }
        let (manifest_hash, generation) =
            manifest_fields(manifest.ok_or(Refusal::NoManifestHash)?)?;
        Ok(Self {
            uri: only_uri(uri.ok_or(Refusal::NotOneUri)?)?,
            manifest_hash,
            generation,
            not_after_s,
        })
    }
}

fn manifest_fields(value: &[u8]) -> Result<([u8; 32], u64), Refusal> {
    let mut reader = Reader::new(value);
    let fields: &[u8; 40] = reader
        .value(der::OCTET_STRING)?
        .try_into()
        .map_err(|_| Refusal::Malformed)?;
    reader.end()?;
    let (hash, generation) = fields.split_first_chunk::<32>().ok_or(Refusal::Malformed)?;
    let generation = generation.try_into().map_err(|_| Refusal::Malformed)?;
    Ok((*hash, u64::from_be_bytes(generation)))
}

fn only_uri(value: &[u8]) -> Result<String, Refusal> {
    let mut reader = Reader::new(value);
    let mut names = reader.inside(der::SEQUENCE)?;
    reader.end()?;
    let (tag, name) = names.any()?;
    if tag != 0x86 || !names.is_empty() {
        return Err(Refusal::NotOneUri);
    }
    match std::str::from_utf8(name) {
        Ok(text) if text.is_ascii() => Ok(text.to_owned()),
        _ => Err(Refusal::NotOneUri),
    }
}

/// Splits a SPIFFE ID of `trust_domain` and `session` into workload and instance; anything but the exact form is `None`.
pub fn instance_of(uri: &str, trust_domain: &str, session: &str) -> Option<Instance> {
    let path = uri
        .strip_prefix("spiffe://")?
        .strip_prefix(trust_domain)?
        .strip_prefix('/')?;
    let (workload, number) = path
        .strip_prefix(session)?
        .strip_prefix('/')?
        .split_once('/')?;
    let parsed: u16 = number.parse().ok()?;
    let canonical = parsed.to_string() == number && !workload.is_empty();
    canonical.then(|| Instance {
        workload: workload.to_owned(),
        number: parsed,
    })
}
