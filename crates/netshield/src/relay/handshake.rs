//! Drives rustls through a handshake on a non-blocking socket and takes the keys out of it.

use std::io;
use std::sync::{Arc, Mutex};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{
    CertificateError, ClientConfig, Error, ExtractedSecrets, InvalidMessage, ServerConfig,
};
use tokio::net::TcpStream;

use super::record::{Opener, RecordError, Schedule, Sealer, record_length};

/// The only application protocol (RFC 7301).
pub const ALPN: &[u8] = b"securetf-net/1";
/// More than the largest flight with X25519MLKEM768 and a chain of certificates.
const MAX_FLIGHT: usize = 65_536;

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The socket failed or was closed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// TLS or the peer's certificate is wrong.
    #[error("{}", plain(.0))]
    Tls(#[from] Error),
    /// Records after the handshake are wrong.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// The peer does not speak our protocol.
    #[error("the peer does not speak securetf-net/1")]
    Protocol,
}

/// Our words for what rustls says.
fn plain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Expired) => {
            "the certificate has expired".into()
        }
        Error::InvalidCertificate(CertificateError::Other(other)) => other.to_string(),
        Error::NoCertificatesPresented => "the peer presented no certificate".into(),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the peer does not speak TLS".into()
        }
        Error::NoApplicationProtocol => "the peer does not speak securetf-net/1".into(),
        Error::PeerIncompatible(_) => {
            format!("the peer does not speak our TLS 1.3 profile: {error}")
        }
        other => other.to_string(),
    }
}

/// A connection after its handshake.
pub struct Established {
    pub sealer: Sealer,
    pub opener: Opener,
    /// Protected records that came with the end of the handshake.
    pub received: Vec<u8>,
}

/// The side of the handshake, over both kinds of connection of rustls.
trait Side: Sized {
    type Data;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn protocol(&self) -> Option<&[u8]>;
    fn finish(self) -> Result<(ExtractedSecrets, Schedule), Error>;
}

impl Side for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
    fn protocol(&self) -> Option<&[u8]> {
        self.alpn_protocol()
    }
    fn finish(self) -> Result<(ExtractedSecrets, Schedule), Error> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Schedule::Client(kernel)))
    }
}

impl Side for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
    fn protocol(&self) -> Option<&[u8]> {
        self.alpn_protocol()
    }
    fn finish(self) -> Result<(ExtractedSecrets, Schedule), Error> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Schedule::Server(kernel)))
    }
}

/// Handshakes as the dialling side.
///
/// # Errors
/// [`HandshakeError`]; the alert has been sent.
pub async fn connect(
    tcp: &TcpStream,
    config: Arc<ClientConfig>,
) -> Result<Established, HandshakeError> {
    // The name is not sent and not looked at: the verifier knows whom it expects.
    let name = rustls::pki_types::ServerName::try_from("securetf.invalid")
        .map_err(|_| HandshakeError::Protocol)?;
    drive(tcp, UnbufferedClientConnection::new(config, name)?).await
}

/// Handshakes as the accepting side.
///
/// # Errors
/// [`HandshakeError`]; the alert has been sent.
pub async fn accept(
    tcp: &TcpStream,
    config: Arc<ServerConfig>,
) -> Result<Established, HandshakeError> {
    drive(tcp, UnbufferedServerConnection::new(config)?).await
}

async fn drive<S: Side>(tcp: &TcpStream, mut side: S) -> Result<Established, HandshakeError> {
    let mut incoming = Vec::new();
    // Records are shown to rustls one at a time: it must not open what comes after the handshake.
    let mut shown = 0;
    let mut outgoing = Vec::new();
    loop {
        let UnbufferedStatus { discard, state } =
            side.process(incoming.get_mut(..shown).unwrap_or_default());
        let (mut wants_more, mut is_done, mut failed) = (false, false, None);
        match state {
            Err(error) => failed = Some(error),
            Ok(ConnectionState::EncodeTlsData(mut chunk)) => {
                encode(&mut outgoing, |place| chunk.encode(place))?;
            }
            Ok(ConnectionState::TransmitTlsData(flight)) => {
                write_all(tcp, &outgoing).await?;
                outgoing.clear();
                flight.done();
            }
            Ok(ConnectionState::BlockedHandshake) => wants_more = true,
            Ok(ConnectionState::WriteTraffic(_)) => is_done = true,
            Ok(_) => return Err(HandshakeError::Protocol),
        }
        incoming.drain(..discard);
        shown -= discard;
        if let Some(error) = failed {
            send_alert(
                tcp,
                &mut side,
                incoming.get_mut(..shown).unwrap_or_default(),
            )
            .await;
            return Err(error.into());
        }
        if is_done {
            break;
        }
        if wants_more {
            shown += next_record(tcp, &mut incoming, shown).await?;
        }
    }
    if side.protocol() != Some(ALPN) {
        return Err(HandshakeError::Protocol);
    }
    let (secrets, schedule) = side.finish()?;
    let schedule = Arc::new(Mutex::new(schedule));
    Ok(Established {
        sealer: Sealer::new(secrets.tx, Arc::clone(&schedule))?,
        opener: Opener::new(secrets.rx, schedule)?,
        received: incoming,
    })
}

/// Waits until one more record than `shown` bytes is complete; returns its length.
async fn next_record(
    tcp: &TcpStream,
    incoming: &mut Vec<u8>,
    shown: usize,
) -> Result<usize, HandshakeError> {
    loop {
        let rest = incoming.get(shown..).unwrap_or_default();
        // A first byte that starts no TLS record is shown at once, so that rustls refuses it without waiting.
        let foreign = rest.first().is_some_and(|kind| !(20..=24).contains(kind));
        match record_length(rest) {
            _ if foreign && rest.len() >= super::record::HEADER => return Ok(rest.len()),
            Ok(Some(length)) if rest.len() >= length => return Ok(length),
            Ok(_) if incoming.len() < MAX_FLIGHT => {}
            _ => return Err(RecordError::Header.into()),
        }
        tcp.readable().await?;
        let mut buffer = [0; 8192];
        match tcp.try_read(&mut buffer) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => incoming.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn encode(
    outgoing: &mut Vec<u8>,
    mut chunk: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), HandshakeError> {
    let start = outgoing.len();
    let mut size = 0;
    loop {
        outgoing.resize(start + size, 0);
        match chunk(outgoing.get_mut(start..).unwrap_or_default()) {
            Ok(written) => {
                outgoing.truncate(start + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(wanted)) if size == 0 => size = wanted.required_size,
            Err(_) => return Err(HandshakeError::Protocol),
        }
    }
}

/// Lets the peer know why; whether it hears of it is not our concern. rustls wants to see the bytes again that it failed on.
async fn send_alert<S: Side>(tcp: &TcpStream, side: &mut S, shown: &mut [u8]) {
    let mut outgoing = Vec::new();
    if let Ok(ConnectionState::EncodeTlsData(mut chunk)) = side.process(shown).state
        && encode(&mut outgoing, |place| chunk.encode(place)).is_ok()
    {
        let _ = write_all(tcp, &outgoing).await;
    }
}

/// Writes all of `bytes`.
///
/// # Errors
/// What `write(2)` says.
pub async fn write_all(tcp: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match tcp.try_write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tcp.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
