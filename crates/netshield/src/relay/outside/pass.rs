//! Bytes of a client and its program, both ways, with ends and failures.

use std::cell::Cell;
use std::io;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::{Instant, sleep_until};

use super::super::stats::{Stats, add};

/// From the client: the plaintext of one TLS record.
const UP_BYTES: usize = 16_384;
/// To the client: two records in one write.
const DOWN_BYTES: usize = 32_768;

/// Passes on until both directions have ended in order: an end here is an end there, while the other direction goes on.
///
/// # Errors
/// What a socket says; `UnexpectedEof` when the client ends without `close_notify`; `TimedOut` when no byte has moved
/// for `idle`.
pub async fn pass(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    program: &mut (impl AsyncRead + AsyncWrite + Unpin),
    stats: &Stats,
    idle: Duration,
) -> io::Result<()> {
    let moved = Cell::new(Instant::now());
    let (from_client, to_client) = split(client);
    let (from_program, to_program) = split(program);
    let (up, down) = (&stats.received_bytes, &stats.sent_bytes);
    let both = async {
        tokio::try_join!(
            one_way(from_client, to_program, UP_BYTES, up, &moved),
            one_way(from_program, to_client, DOWN_BYTES, down, &moved),
        )
    };
    tokio::select! {
        both = both => both.map(|_| ()),
        () = stalled(&moved, idle) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    size: usize,
    counter: &AtomicU64,
    moved: &Cell<Instant>,
) -> io::Result<()> {
    let mut buffer = vec![0; size];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        moved.set(Instant::now());
        let mut rest = buffer.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            let written = to.write(rest).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            moved.set(Instant::now());
            rest = rest.get(written..).unwrap_or_default();
        }
        to.flush().await?;
        add(counter, count as u64);
    }
}

async fn stalled(moved: &Cell<Instant>, idle: Duration) {
    loop {
        let until = moved.get() + idle;
        if Instant::now() >= until {
            return;
        }
        sleep_until(until).await;
    }
}
