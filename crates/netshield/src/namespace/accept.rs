//! The program's own connections: accepted in batches, handed to the relay with their original destination.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt};

use crate::event::{Caller, Outbound};

/// Takes each connection in the accepting thread: hand it on, do not serve it there.
pub type OnOutbound = Arc<dyn Fn(Outbound) + Send + Sync>;

/// Runs until `stop` is readable.
pub(super) fn serve(
    listeners: &[TcpListener; 2],
    permitted: &BTreeSet<SocketAddr>,
    caller: &Caller,
    stop: &OwnedFd,
    on_outbound: &OnOutbound,
) {
    let [v4, v6] = listeners;
    loop {
        let mut wait = [
            PollFd::new(v4, PollFlags::IN),
            PollFd::new(v6, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        match poll(&mut wait, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        let [one, two, stopped] = wait.map(|one| !one.revents().is_empty());
        if stopped {
            return;
        }
        for (ready, listener) in [(one, v4), (two, v6)] {
            if ready {
                take_all(listener, permitted, caller, on_outbound);
            }
        }
    }
}

/// Takes what waits, so that one wake-up serves many connections.
fn take_all(
    listener: &TcpListener,
    permitted: &BTreeSet<SocketAddr>,
    caller: &Caller,
    on_outbound: &OnOutbound,
) {
    loop {
        match next(listener, permitted, caller) {
            Ok(Some(outbound)) => on_outbound(outbound),
            Ok(None) | Err(Errno::CONNABORTED | Errno::INTR) => {}
            Err(Errno::AGAIN) => return,
            Err(_) => {
                std::thread::sleep(Duration::from_millis(20)); // out of descriptors or memory: others must close
                return;
            }
        }
    }
}

/// None: the connection did not come through the ruleset, whose set is `permitted`; it is reset.
fn next(
    listener: &TcpListener,
    permitted: &BTreeSet<SocketAddr>,
    caller: &Caller,
) -> Result<Option<Outbound>, Errno> {
    let socket = accept_with(listener.as_fd(), SocketFlags::CLOEXEC)?;
    let stream = std::net::TcpStream::from(socket);
    let ends = || -> io::Result<(SocketAddr, SocketAddr)> {
        stream.set_nodelay(true)?;
        Ok((stream.local_addr()?, stream.peer_addr()?))
    };
    let Ok((destination, source)) = ends() else {
        return Ok(None);
    };
    if !permitted.contains(&destination) {
        let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        return Ok(None);
    }
    Ok(Some(Outbound {
        stream,
        destination,
        source,
        caller: caller.clone(),
    }))
}
