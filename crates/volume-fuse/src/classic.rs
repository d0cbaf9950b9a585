//! The classic transport: a thread reads a request from its descriptor of `/dev/fuse` and writes the answer there.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::abi;
use crate::device::MAX_REQUEST;
use crate::message::{Head, Request};
use crate::reply::{Body, out_header};
use crate::service::Server;

/// The largest message: a write of the agreed size with its headers. (At least 8 KiB, says the kernel.)
pub(crate) const MESSAGE_MAX: usize = MAX_REQUEST as usize + 4096;

/// Bytes of a request that is worth another thread, and how long a write is brief.
const LARGE: u32 = 64 << 10;
const BRIEF: Duration = Duration::from_millis(1);

/// Reads one message; `None` when the file system is unmounted.
pub(crate) fn receive<'a>(mut device: &File, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    loop {
        match device.read(buffer) {
            Ok(size) => return Ok(buffer.get(..size)),
            Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                Errno::ENODEV => return Ok(None),
                // ENOENT: the request was interrupted before it was read.
                Errno::EINTR | Errno::EAGAIN | Errno::ENOENT => {}
                _ => return Err(error),
            },
        }
    }
}

/// Writes one answer. That it is not wanted any more (ENOENT) is no failure.
pub(crate) fn send(
    mut device: &File,
    unique: u64,
    outcome: Result<usize, Errno>,
    body: &[u8],
) -> io::Result<()> {
    let header = out_header(unique, outcome);
    let body = body.get(..outcome.unwrap_or(0)).unwrap_or_default();
    match device.write_vectored(&[IoSlice::new(&header), IoSlice::new(body)]) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whose turn it is to read. One thread reads at a time while requests are brief, and answers each before another may read:
/// it is awake, so that it has the next request sooner than a thread that the kernel wakes for each.
#[derive(Default)]
pub(crate) struct Turns {
    turn: Mutex<()>,
    /// Whether the last small write had to wait.
    writes_wait: AtomicBool,
}

impl Turns {
    fn take(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request is answered from memory. All else may wait: for the store, the anchor, or the kernel's writes.
    fn is_brief(&self, head: &Head) -> bool {
        match head.opcode {
            abi::LOOKUP
            | abi::FORGET
            | abi::BATCH_FORGET
            | abi::GETATTR
            | abi::READLINK
            | abi::STATFS
            | abi::CREATE
            | abi::RELEASE
            | abi::GETXATTR
            | abi::LISTXATTR
            | abi::OPENDIR
            | abi::READDIR
            | abi::READDIRPLUS
            | abi::RELEASEDIR => true,
            abi::WRITE => head.length < LARGE && !self.writes_wait.load(Ordering::Relaxed),
            _ => false,
        }
    }

    fn note(&self, head: &Head, begin: Instant) {
        if head.opcode == abi::WRITE && head.length < LARGE {
            let waited = begin.elapsed() > BRIEF;
            self.writes_wait.store(waited, Ordering::Relaxed);
        }
    }
}

/// Serves until the file system is unmounted, in turns with the other threads of the connection.
pub(crate) fn serve(device: &File, server: &Arc<Server>, turns: &Turns) -> io::Result<()> {
    let (mut message, mut answer) = (vec![0; MESSAGE_MAX], vec![0; MAX_REQUEST as usize]);
    let (mut turn, mut in_turns) = (None, true);
    loop {
        if in_turns && turn.is_none() {
            turn = Some(turns.take());
        }
        let Some(received) = receive(device, &mut message)? else {
            return Ok(());
        };
        let unasked = || io::Error::from(io::ErrorKind::InvalidData);
        let head = Head::parse(received).map_err(|_| unasked())?;
        // Who reads many at once, say, soon has all threads reading; requests that are brief bring them back one by one.
        in_turns = turns.is_brief(&head);
        if !in_turns {
            turn = None;
        }
        let outcome = match Request::of_message(received) {
            Ok(_) if head.opcode == abi::DESTROY => {
                return send(device, head.unique, Ok(0), &[]);
            }
            Ok(request) => {
                let begin = Instant::now();
                let outcome = server.answer(&request, &mut Body::new(&mut answer));
                turns.note(&head, begin);
                outcome
            }
            Err(_) => Some(Err(Errno::EIO)),
        };
        if let Some(outcome) = outcome {
            let _ = send(device, head.unique, outcome, &answer); // the kernel's view of the answer; the next read shows its end
        }
    }
}
