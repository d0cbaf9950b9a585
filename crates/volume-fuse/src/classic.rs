//! The classic transport: a thread reads a request from its descriptor of `/dev/fuse` and writes the answer there.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use nix::errno::Errno;

use crate::abi::{self, IN_HEADER};
use crate::device::MAX_REQUEST;
use crate::message::{Head, Request};
use crate::reply::{Body, out_header};
use crate::service::Server;

/// The largest message: a write of the agreed size with its headers. (At least 8 KiB, says the kernel.)
pub(crate) const MESSAGE_MAX: usize = MAX_REQUEST as usize + 4096;

const PAGE: usize = 4096;

/// What comes before the data of a write.
const WRITE_HEADERS: usize = IN_HEADER + 40;

/// Reads one message; `None` when the file system is unmounted.
pub(crate) fn receive<'a>(
    mut device: &File,
    buffer: &'a mut [u8],
) -> io::Result<Option<&'a mut [u8]>> {
    loop {
        match device.read(buffer) {
            Ok(size) => return Ok(buffer.get_mut(..size)),
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

/// Makes `size` bytes in `memory`, of which the one at `at` is the first of a page: what lies on whole pages the kernel
/// copies by whole pages.
fn paged(memory: &mut Vec<u8>, size: usize, at: usize) -> &mut [u8] {
    *memory = vec![0; size + PAGE]; // zeros that nobody touched take no memory
    let start = memory.as_ptr().wrapping_add(at).align_offset(PAGE) % PAGE;
    memory.get_mut(start..start + size).unwrap_or_default()
}

/// Serves until the file system is unmounted.
pub(crate) fn serve(device: &File, server: &Arc<Server>) -> io::Result<()> {
    let outcome = serve_requests(device, server);
    server.crew.end();
    outcome
}

fn serve_requests(device: &File, server: &Arc<Server>) -> io::Result<()> {
    let (mut message, mut answer) = (Vec::new(), Vec::new());
    let message = paged(&mut message, MESSAGE_MAX, WRITE_HEADERS);
    let answer = paged(&mut answer, MAX_REQUEST as usize, 0);
    while let Some(received) = receive(device, message)? {
        let unasked = |_| io::Error::from(io::ErrorKind::InvalidData);
        let unique = Head::parse(received).map_err(unasked)?.unique;
        let outcome = match Request::of_message(received) {
            Ok(request) if request.head.opcode == abi::DESTROY => {
                return send(device, unique, Ok(0), &[]);
            }
            Ok(request) => server.answer(request, &mut Body::new(answer)),
            Err(_) => Some(Err(Errno::EIO)),
        };
        if let Some(outcome) = outcome {
            let _ = send(device, unique, outcome, answer); // the kernel's view of the answer; the next read shows its end
        }
        if !server.crew.goes_on() {
            break;
        }
    }
    Ok(())
}
