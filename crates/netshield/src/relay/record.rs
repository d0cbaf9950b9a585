//! TLS 1.3 record protection (RFC 8446 section 5) in the caller's buffers. rustls does the handshake and derives every
//! key; its own record layer would copy each byte twice more, so records are sealed and opened here where they lie.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;

/// Bytes before the plaintext: type, legacy version, length.
pub const HEADER: usize = 5;
/// Most plaintext in one record.
pub const MAX_PLAIN: usize = 16_384;
/// Bytes after the plaintext: content type and tag.
const TRAILER: usize = 1 + TAG;
const TAG: usize = 16;
/// A full record as it is sent.
pub const STRIDE: usize = HEADER + MAX_PLAIN + TRAILER;
/// Longest record that is accepted: RFC 8446 section 5.2 allows padding up to 256 bytes of expansion.
pub const MAX_RECORD: usize = HEADER + MAX_PLAIN + 256;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const LEGACY_VERSION: [u8; 2] = [3, 3];
/// `KeyUpdate`, one byte of body: `update_not_requested` (section 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
/// A warning with description `close_notify` (section 6.1).
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// What is wrong with a record or its keys. Each is fatal for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The header is not that of a protected record, or its length is out of range.
    #[error("not a protected TLS 1.3 record")]
    Header,
    /// The tag does not match: changed, replayed, reordered or dropped.
    #[error("a record fails authentication")]
    Authentication,
    /// A content that does not belong here, such as a new handshake.
    #[error("unexpected TLS message of type {0}")]
    Content(u8),
    /// The peer ended the connection with this alert.
    #[error("the peer sent TLS alert {0}")]
    Alert(u8),
    /// Keys could not be set up or the sequence number is used up.
    #[error("the traffic keys are exhausted or unusable")]
    Keys,
}

/// What came in one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Bytes of the stream at this range of the buffer; none in a heartbeat.
    Data(Range<usize>),
    /// The peer's writing side is closed, properly.
    CloseNotify,
    /// The peer's keys have changed; `true` if it wants ours changed too.
    KeyUpdate(bool),
}

/// The key schedule of a connection after its handshake; shared by both directions.
pub enum Schedule {
    /// We dialled.
    Client(KernelConnection<ClientConnectionData>),
    /// We accepted.
    Server(KernelConnection<ServerConnectionData>),
}

/// See [`Schedule`].
pub type SharedSchedule = Arc<Mutex<Schedule>>;

fn next_key(schedule: &SharedSchedule, sending: bool) -> Result<Protection, RecordError> {
    let mut schedule = schedule.lock().map_err(|_| RecordError::Keys)?;
    let (sequence, secrets) = match (&mut *schedule, sending) {
        (Schedule::Client(one), true) => one.update_tx_secret(),
        (Schedule::Client(one), false) => one.update_rx_secret(),
        (Schedule::Server(one), true) => one.update_tx_secret(),
        (Schedule::Server(one), false) => one.update_rx_secret(),
    }
    .map_err(|_| RecordError::Keys)?;
    Protection::new(sequence, secrets)
}

/// Key, nonce base and sequence number of one direction (section 5.3).
struct Protection {
    /// Half a kilobyte: on the heap, so that what carries a tunnel stays small.
    key: Box<LessSafeKey>,
    iv: [u8; 12],
    sequence: u64,
}

impl Protection {
    fn new(sequence: u64, secrets: ConnectionTrafficSecrets) -> Result<Self, RecordError> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => return Err(RecordError::Keys),
        };
        let unbound = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| RecordError::Keys)?;
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::Keys)?;
        Ok(Self {
            key: Box::new(LessSafeKey::new(unbound)),
            iv,
            sequence,
        })
    }

    /// The nonce of the next record; each is given out once.
    fn nonce(&mut self) -> Result<Nonce, RecordError> {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce.iter_mut().skip(4).zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        self.sequence = self.sequence.checked_add(1).ok_or(RecordError::Keys)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// Seals what we send.
pub struct Sealer {
    protection: Protection,
    schedule: SharedSchedule,
}

impl Sealer {
    /// Takes the secrets of our direction.
    ///
    /// # Errors
    /// [`RecordError::Keys`] for a cipher suite that is not used here.
    pub fn new(
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
        schedule: SharedSchedule,
    ) -> Result<Self, RecordError> {
        Ok(Self {
            protection: Protection::new(sequence, secrets)?,
            schedule,
        })
    }

    /// Seals `plain` bytes that lie at [`HEADER`] of `record`; the record's length is `plain` and [`HEADER`] and 17.
    ///
    /// # Errors
    /// [`RecordError::Keys`] if the buffer is too small or the keys fail.
    pub fn seal_data(&mut self, record: &mut [u8], plain: usize) -> Result<usize, RecordError> {
        self.seal(record, plain, APPLICATION_DATA)
    }

    /// A record with `data`, at most [`MAX_PLAIN`] bytes.
    ///
    /// # Errors
    /// [`RecordError::Keys`].
    pub fn data(&mut self, data: &[u8]) -> Result<Vec<u8>, RecordError> {
        self.message(data, APPLICATION_DATA)
    }

    /// The record that closes our direction.
    ///
    /// # Errors
    /// [`RecordError::Keys`].
    pub fn close_notify(&mut self) -> Result<Vec<u8>, RecordError> {
        self.message(&CLOSE_NOTIFY, ALERT)
    }

    /// True when [`Sealer::key_update`] must be sent before more data.
    pub fn is_due(&self, records_per_key: u64) -> bool {
        self.protection.sequence >= records_per_key
    }

    /// Tells the peer of new keys and takes them.
    ///
    /// # Errors
    /// [`RecordError::Keys`].
    pub fn key_update(&mut self) -> Result<Vec<u8>, RecordError> {
        let record = self.message(&KEY_UPDATE, HANDSHAKE)?;
        self.protection = next_key(&self.schedule, true)?;
        Ok(record)
    }

    fn message(&mut self, content: &[u8], kind: u8) -> Result<Vec<u8>, RecordError> {
        let mut record = vec![0; HEADER + content.len() + TRAILER];
        let place = record
            .get_mut(HEADER..HEADER + content.len())
            .ok_or(RecordError::Keys)?;
        place.copy_from_slice(content);
        self.seal(&mut record, content.len(), kind)?;
        Ok(record)
    }

    fn seal(&mut self, record: &mut [u8], plain: usize, kind: u8) -> Result<usize, RecordError> {
        if plain > MAX_PLAIN {
            return Err(RecordError::Keys);
        }
        let (header, rest) = record
            .split_first_chunk_mut::<HEADER>()
            .ok_or(RecordError::Keys)?;
        let (body, rest) = rest
            .split_at_mut_checked(plain + 1)
            .ok_or(RecordError::Keys)?;
        let tag_place = rest.get_mut(..TAG).ok_or(RecordError::Keys)?;
        *body.last_mut().ok_or(RecordError::Keys)? = kind;
        let length = u16::try_from(plain + TRAILER)
            .map_err(|_| RecordError::Keys)?
            .to_be_bytes();
        *header = [
            APPLICATION_DATA,
            LEGACY_VERSION[0],
            LEGACY_VERSION[1],
            length[0],
            length[1],
        ];
        let nonce = self.protection.nonce()?;
        let tag = self
            .protection
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(*header), body);
        tag_place.copy_from_slice(tag.map_err(|_| RecordError::Keys)?.as_ref());
        Ok(HEADER + plain + TRAILER)
    }
}

/// Opens what the peer sends.
pub struct Opener {
    protection: Protection,
    schedule: SharedSchedule,
}

impl Opener {
    /// Takes the secrets of the peer's direction.
    ///
    /// # Errors
    /// [`RecordError::Keys`] for a cipher suite that is not used here.
    pub fn new(
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
        schedule: SharedSchedule,
    ) -> Result<Self, RecordError> {
        Ok(Self {
            protection: Protection::new(sequence, secrets)?,
            schedule,
        })
    }

    /// Opens the record at the front of `bytes` in place. Returns its length on the wire and its content, or `None`
    /// while the record is not complete.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn open(&mut self, bytes: &mut [u8]) -> Result<Option<(usize, Content)>, RecordError> {
        let Some(length) = record_length(bytes)? else {
            return Ok(None);
        };
        let Some((header, body)) = bytes
            .get_mut(..length)
            .and_then(<[u8]>::split_first_chunk_mut::<HEADER>)
        else {
            return Ok(None);
        };
        if header[0] != APPLICATION_DATA || header[1..3] != LEGACY_VERSION {
            return Err(RecordError::Header);
        }
        let nonce = self.protection.nonce()?;
        let opened = self
            .protection
            .key
            .open_in_place(nonce, Aad::from(*header), body);
        let inner = opened.map_err(|_| RecordError::Authentication)?;
        let end = inner
            .iter()
            .rposition(|&byte| byte != 0)
            .ok_or(RecordError::Content(0))?;
        let (content, kind) = inner.split_at(end);
        if content.len() > MAX_PLAIN {
            return Err(RecordError::Header);
        }
        let content = match kind.first() {
            Some(&APPLICATION_DATA) => Content::Data(HEADER..HEADER + end),
            Some(&ALERT) => match content {
                [_, 0] => Content::CloseNotify,
                [_, description] => return Err(RecordError::Alert(*description)),
                _ => return Err(RecordError::Content(ALERT)),
            },
            Some(&HANDSHAKE) => match content {
                [24, 0, 0, 1, wanted @ (0 | 1)] => Content::KeyUpdate(*wanted == 1),
                _ => return Err(RecordError::Content(HANDSHAKE)),
            },
            other => return Err(RecordError::Content(other.copied().unwrap_or(0))),
        };
        if let Content::KeyUpdate(_) = content {
            self.protection = next_key(&self.schedule, false)?;
        }
        Ok(Some((length, content)))
    }
}

/// The length of the record at the front of `bytes`, header included, or `None` while the header is not complete.
///
/// # Errors
/// [`RecordError::Header`] when it is longer than any record may be.
pub fn record_length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some(&[_, _, _, high, low]) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = HEADER + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_RECORD {
        Err(RecordError::Header)
    } else {
        Ok(Some(length))
    }
}
