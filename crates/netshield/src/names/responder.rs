//! Serves DNS over TCP (RFC 7766) to the program: names of the policy only.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::dns;

const AT_ONCE: usize = 64; // connections; more are closed
const IDLE: Duration = Duration::from_secs(5);
const QUERIES: usize = 256; // on one connection

/// Called with each name that the policy does not know.
pub(crate) type OnUnknown = Arc<dyn Fn(&str) + Send + Sync>;

/// Answers each connection in a thread of its own.
pub(crate) struct Responder {
    names: Arc<Vec<(String, Vec<IpAddr>)>>,
    open: Arc<AtomicUsize>,
}

impl Responder {
    pub(crate) fn new(names: Vec<(String, Vec<IpAddr>)>) -> Self {
        let names = Arc::new(names);
        let open = Arc::default();
        Self { names, open }
    }

    /// Serves one connection of the program, or closes it when there are too many.
    pub(crate) fn take(&self, stream: TcpStream, on_unknown: OnUnknown) {
        let opened = Arc::clone(&self.open);
        if opened.fetch_add(1, Ordering::AcqRel) >= AT_ONCE {
            opened.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let names = Arc::clone(&self.names);
        let thread = std::thread::Builder::new().name("securetf-dns".to_owned());
        let started = thread.spawn(move || {
            let _ = converse(stream, &names, &on_unknown); // a broken connection ends here
            opened.fetch_sub(1, Ordering::AcqRel);
        });
        if started.is_err() {
            self.open.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Runs until `stop` is readable.
    pub(crate) fn serve(&self, listener: &TcpListener, stop: &OwnedFd, on_unknown: &OnUnknown) {
        loop {
            let mut wait = [
                PollFd::new(listener, PollFlags::IN),
                PollFd::new(stop, PollFlags::IN),
            ];
            match poll(&mut wait, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            let [ready, stopped] = wait.map(|one| !one.revents().is_empty());
            if stopped {
                return;
            }
            if let Some(Ok((stream, _))) = ready.then(|| listener.accept()) {
                self.take(stream, Arc::clone(on_unknown));
            }
        }
    }
}

fn converse(
    mut stream: TcpStream,
    names: &[(String, Vec<IpAddr>)],
    on_unknown: &OnUnknown,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    for _ in 0..QUERIES {
        let mut length = [0_u8; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0_u8; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query)?;
        let Some(answer) = dns::answer(&query, names) else {
            return Ok(());
        };
        if let Some(name) = &answer.unknown {
            on_unknown(name);
        }
        let length = u16::try_from(answer.message.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), answer.message.as_slice()].concat())?;
    }
    Ok(())
}
