//! What the service proves to whoever asks: `docs/formats/service-statement-v1.md`. The launcher gives all but the
//! certificate and the binding; both are made here for the very connection that asks, so that a renewal of the certificate
//! in between cannot tear them apart.

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Map, Value};

use super::super::NetError;
use super::super::config::Installed;

/// Bytes of a client's nonce.
pub const NONCE: usize = 32;
/// Bytes of a statement at most.
const MOST: usize = 1 << 20;
const HEADER: &[u8] = br#"{"alg":"ES256","typ":"securetf-statement+jwt"}"#;

/// A statement without certificate and binding, and the attested key.
pub struct Statement {
    public: Map<String, Value>,
    claims: Map<String, Value>,
    key: EcdsaKeyPair,
}

impl Statement {
    /// `public`: JSON object with `version`, `ear`, `trust_root`, `cas`. `claims`: JSON object with the binding's fields but
    /// `nonce`, `network_spki_sha256` and `iat`. `key`: PKCS #8, P-256, the key in the EAR's `cnf`.
    ///
    /// # Errors
    /// [`NetError::Identity`] names what is wrong.
    pub fn new(public: &str, claims: &str, key: &[u8]) -> Result<Self, NetError> {
        let object = |what: &str, text: &str| {
            serde_json::from_str(text)
                .map_err(|error| NetError::Identity(format!("{what} of the statement: {error}")))
        };
        Ok(Self {
            public: object("public part", public)?,
            claims: object("claims", claims)?,
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key)
                .map_err(|_| NetError::Identity("the attested key is not a P-256 key".into()))?,
        })
    }

    /// The answer to `nonce` on a connection that shows `ours`: length and JSON.
    ///
    /// # Errors
    /// [`NetError`]: it cannot be signed, or is larger than the format allows.
    pub fn answer(
        &self,
        ours: &Installed,
        nonce: &[u8; NONCE],
        now_s: u64,
    ) -> Result<Vec<u8>, NetError> {
        let spki = ours.identity.key.spki_der()?;
        let spki = digest::digest(&digest::SHA256, &spki);
        let mut claims = self.claims.clone();
        claims.insert("nonce".into(), BASE64.encode(nonce).into());
        claims.insert(
            "network_spki_sha256".into(),
            HEXLOWER.encode(spki.as_ref()).into(),
        );
        claims.insert("iat".into(), now_s.into());
        let chain = ours.identity.chain.iter();
        let chain: Vec<Value> = chain.map(|der| BASE64.encode(der).into()).collect();
        let mut statement = self.public.clone();
        statement.insert("certificate".into(), chain.into());
        statement.insert("binding".into(), self.sign(&Value::Object(claims))?.into());
        let json = Value::Object(statement).to_string();
        let length = u32::try_from(json.len())
            .ok()
            .filter(|_| json.len() <= MOST);
        let length =
            length.ok_or_else(|| NetError::Identity("the statement is too large".into()))?;
        let mut answer = length.to_be_bytes().to_vec();
        answer.extend_from_slice(json.as_bytes());
        Ok(answer)
    }

    /// Compact JWS (RFC 7515 section 7.1).
    fn sign(&self, payload: &Value) -> Result<String, NetError> {
        let payload = BASE64URL_NOPAD.encode(payload.to_string().as_bytes());
        let signed = format!("{}.{payload}", BASE64URL_NOPAD.encode(HEADER));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_| NetError::Crypto)?;
        Ok(format!(
            "{signed}.{}",
            BASE64URL_NOPAD.encode(signature.as_ref())
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_needs_two_objects_and_a_key() {
        let refused =
            |public, claims, key: &[u8]| Statement::new(public, claims, key).err().unwrap();
        assert!(refused("[]", "{}", &[]).to_string().contains("public part"));
        assert!(refused("{}", "1", &[]).to_string().contains("claims"));
        assert!(refused("{}", "{}", &[1]).to_string().contains("P-256"));
    }
}
