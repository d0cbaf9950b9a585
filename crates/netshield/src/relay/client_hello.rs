//! The server name in a TLS `ClientHello` (RFC 8446 section 4.1.2, RFC 6066 section 3), read strictly out of the first bytes
//! that the program sends to an external destination.

/// Longest `ClientHello` that is waited for, with record headers, in bytes.
pub const MAX_HELLO: usize = 16_384;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
/// `encrypted_client_hello` (RFC 9849): would hide the true name.
const ENCRYPTED_CLIENT_HELLO: u16 = 0xFE0D;

/// The bytes are not a `ClientHello` with one readable name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Not TLS, or not a `ClientHello`.
    #[error("the program does not begin with a TLS ClientHello")]
    NotHello,
    /// A length or field is wrong.
    #[error("the TLS ClientHello is malformed")]
    Malformed,
    /// Longer than [`MAX_HELLO`].
    #[error("the TLS ClientHello is too long")]
    TooLong,
    /// No server name.
    #[error("the TLS ClientHello names no server")]
    NoName,
    /// The name is encrypted.
    #[error("the TLS ClientHello encrypts its server name")]
    Encrypted,
}

/// Returns the server name, or `None` while bytes are missing.
///
/// # Errors
/// [`HelloError`] for the first thing that is wrong.
pub fn server_name(bytes: &[u8]) -> Result<Option<String>, HelloError> {
    let (message, is_whole) = handshake_bytes(bytes)?;
    let missing = || {
        if is_whole {
            Err(HelloError::Malformed)
        } else if bytes.len() >= MAX_HELLO {
            Err(HelloError::TooLong)
        } else {
            Ok(None)
        }
    };
    let Some((&kind, rest)) = message.split_first() else {
        return missing();
    };
    if kind != CLIENT_HELLO {
        return Err(HelloError::NotHello);
    }
    let Some((&[high, middle, low], body)) = rest.split_first_chunk() else {
        return missing();
    };
    let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    if length > MAX_HELLO {
        return Err(HelloError::TooLong);
    }
    match body.get(..length) {
        None => missing(),
        // Nothing may follow in the same record: the server has not answered yet.
        Some(hello) if body.len() == length => name_in(hello).map(Some),
        Some(_) => Err(HelloError::Malformed),
    }
}

/// Joins the fragments of the handshake message; the flag tells that the last record is whole and nothing follows it.
fn handshake_bytes(mut bytes: &[u8]) -> Result<(Vec<u8>, bool), HelloError> {
    let mut message = Vec::new();
    while let Some((&kind, rest)) = bytes.split_first() {
        if kind != HANDSHAKE || rest.first().is_some_and(|&major| major != 3) {
            return Err(HelloError::NotHello);
        }
        let Some((&[_, minor, high, low], body)) = rest.split_first_chunk() else {
            return Ok((message, false));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if minor > 4 || length == 0 || length > MAX_HELLO {
            return Err(HelloError::Malformed);
        }
        let Some((fragment, rest)) = body.split_at_checked(length) else {
            message.extend_from_slice(body);
            return Ok((message, false));
        };
        message.extend_from_slice(fragment);
        bytes = rest;
        if is_complete(&message) {
            return if bytes.is_empty() {
                Ok((message, true))
            } else {
                Err(HelloError::Malformed)
            };
        }
    }
    Ok((message, false))
}

fn is_complete(message: &[u8]) -> bool {
    let Some((&[_, high, middle, low], body)) = message.split_first_chunk() else {
        return false;
    };
    body.len() >= (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low))
}

fn name_in(hello: &[u8]) -> Result<String, HelloError> {
    let mut reader = Reader(hello);
    reader.take(2 + 32)?; // legacy version, random
    let session = reader.prefixed_u8()?;
    let suites = reader.prefixed_u16()?;
    let compressions = reader.prefixed_u8()?;
    if session.len() > 32 || suites.len() < 2 || suites.len() % 2 != 0 || compressions.is_empty() {
        return Err(HelloError::Malformed);
    }
    let mut extensions = Reader(reader.prefixed_u16()?);
    reader.end()?;
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let value = extensions.prefixed_u16()?;
        match kind {
            SERVER_NAME if found.is_some() => return Err(HelloError::Malformed),
            SERVER_NAME => found = Some(only_name(value)?),
            ENCRYPTED_CLIENT_HELLO => return Err(HelloError::Encrypted),
            _ => {}
        }
    }
    found.ok_or(HelloError::NoName)
}

fn only_name(value: &[u8]) -> Result<String, HelloError> {
    let mut reader = Reader(value);
    let mut names = Reader(reader.prefixed_u16()?);
    reader.end()?;
    let kind = names.take(1)?;
    let name = names.prefixed_u16()?;
    names.end()?;
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    if kind != [0] || name.is_empty() || name.len() > 255 || !name.iter().all(allowed) {
        return Err(HelloError::Malformed);
    }
    String::from_utf8(name.to_ascii_lowercase()).map_err(|_| HelloError::Malformed)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], HelloError> {
        let (front, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(HelloError::Malformed)?;
        self.0 = rest;
        Ok(front)
    }

    fn u16(&mut self) -> Result<u16, HelloError> {
        let bytes = self
            .take(2)?
            .try_into()
            .map_err(|_| HelloError::Malformed)?;
        Ok(u16::from_be_bytes(bytes))
    }

    fn prefixed_u8(&mut self) -> Result<&'a [u8], HelloError> {
        let length = self
            .take(1)?
            .first()
            .copied()
            .ok_or(HelloError::Malformed)?;
        self.take(length.into())
    }

    fn prefixed_u16(&mut self) -> Result<&'a [u8], HelloError> {
        let length = self.u16()?;
        self.take(length.into())
    }

    fn end(&self) -> Result<(), HelloError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(HelloError::Malformed)
        }
    }
}
