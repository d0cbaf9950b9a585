//! One connection to the kernel, from INIT to the end of its threads.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::signal::SigSet;

use crate::abi::{self, Fields, IN_HEADER, MAJOR, MINOR};
use crate::alarm::Alarm;
use crate::classic;
use crate::crew::Hire;
use crate::init::{Fit, OVER_IO_URING, Offer};
use crate::kernel::clone::clone;
use crate::message::Head;
use crate::namespace::leave_for_main;
use crate::notify::Notifier;
use crate::queues::Queues;
use crate::reply::Body;
use crate::service::Server;
use crate::stats::Transport;

/// What a thread of its own does beside the server until that is gone: it may wait for the kernel, which may wait for
/// the server.
pub(crate) type Helper = Box<dyn FnOnce(&Notifier) + Send>;

/// How a connection is served.
pub(crate) struct Plan {
    /// Flags of INIT that are asked for.
    pub(crate) wanted: u64,
    /// Threads of the classic transport.
    pub(crate) threads: usize,
    /// Ends the connection when a thread cannot go on.
    pub(crate) alarm: Arc<Alarm>,
}

/// Agrees with the kernel and serves, on threads of their own. Returns when that has begun.
///
/// # Errors
/// Why it did not.
pub(crate) fn start(
    server: Server,
    device: File,
    plan: Plan,
    helper: Helper,
) -> io::Result<(JoinHandle<()>, Transport)> {
    let (ready, readiness) = sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("securetf-fuse".to_owned())
        .spawn(move || {
            let _ = SigSet::all().thread_block(); // signals are the launcher's
            leave_for_main();
            let (device, server) = (Arc::new(device), Arc::new(server));
            let threads = match agree_and_serve(&device, &server, &plan) {
                Ok((threads, transport)) => {
                    let _ = ready.send(Ok(transport));
                    threads
                }
                Err(error) => return drop(ready.send(Err(error))),
            };
            let notifier = Notifier::new(device);
            let helper = std::thread::spawn(move || helper(&notifier));
            for thread in threads {
                let _ = thread.join();
            }
            server.crew.join();
            server.end();
            drop(server); // which ends the helper
            let _ = helper.join();
        })?;
    let transport = readiness.recv().map_err(io::Error::other)??;
    Ok((thread, transport))
}

fn agree_and_serve(
    device: &Arc<File>,
    server: &Arc<Server>,
    plan: &Plan,
) -> io::Result<(Vec<JoinHandle<()>>, Transport)> {
    let (unique, offer) = hear(device)?;
    // Once agreed, nothing is served until all queues are there: rings are made before that.
    let queues = if offer.flags & OVER_IO_URING & plan.wanted == 0 {
        None
    } else {
        Queues::prepare(device).ok()
    };
    let refused = if queues.is_none() { OVER_IO_URING } else { 0 };
    let mut answer = [0; 64];
    let mut body = Body::new(&mut answer);
    offer.accept(plan.wanted & !refused, &mut body)?;
    let length = body.len();
    classic::send(device, unique, Ok(length), &answer)?;
    let classic = if queues.is_some() {
        1
    } else {
        plan.threads.max(1)
    };
    if queues.is_none() {
        server
            .crew
            .begin(classic, hire(device, server, &plan.alarm));
    }
    let mut threads = Vec::new();
    for number in 0..classic {
        let own = if number == 0 {
            device.try_clone()?
        } else {
            clone(device)?
        };
        let (server, alarm) = (Arc::clone(server), Arc::clone(&plan.alarm));
        let thread = std::thread::Builder::new()
            .name(format!("securetf-fuse-{number}"))
            .spawn(move || alarm.watch(|| classic::serve(&own, &server)))?;
        threads.push(thread);
    }
    let Some(queues) = queues else {
        return Ok((threads, Transport::DevFuse));
    };
    threads.extend(queues.start(server, &plan.alarm)?);
    Ok((threads, Transport::IoUring))
}

/// How another thread of the classic transport is started. It is in the namespace of the one that asks for it.
fn hire(device: &Arc<File>, server: &Arc<Server>, alarm: &Arc<Alarm>) -> Hire {
    let (device, alarm) = (Arc::clone(device), Arc::clone(alarm));
    let server = Arc::downgrade(server); // which has it
    Box::new(move || {
        let server = server.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let (own, alarm) = (clone(&device)?, Arc::clone(&alarm));
        std::thread::Builder::new()
            .name("securetf-fuse-h".to_owned())
            .spawn(move || alarm.watch(|| classic::serve(&own, &server)))
    })
}

/// The kernel's offer, and the number of its request.
fn hear(device: &File) -> io::Result<(u64, Offer)> {
    let mut buffer = vec![0; classic::MESSAGE_MAX];
    let unusual = || io::Error::from(io::ErrorKind::InvalidData);
    loop {
        let gone = io::Error::from(io::ErrorKind::NotConnected);
        let message = classic::receive(device, &mut buffer)?.ok_or(gone)?;
        let head = Head::parse(message).map_err(|_| unusual())?;
        if head.opcode != abi::INIT {
            classic::send(device, head.unique, Err(Errno::EIO), &[])?;
            return Err(unusual());
        }
        let fields = Fields::new(message.get(IN_HEADER..).unwrap_or_default());
        let offer = Offer::parse(fields).map_err(|_| unusual())?;
        match offer.fit() {
            Fit::Fits => return Ok((head.unique, offer)),
            Fit::Newer => {
                let mut answer = [0; 64];
                Body::new(&mut answer).words(&[MAJOR, MINOR])?;
                classic::send(device, head.unique, Ok(answer.len()), &answer)?;
            }
            Fit::Old => {
                classic::send(device, head.unique, Err(Errno::EPROTO), &[])?;
                return Err(Errno::EPROTO.into());
            }
        }
    }
}
