//! Connections to the program for peers: the socket is made inside the namespace and has the peer's virtual address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

use super::error::NamespaceError;
use crate::event::Inner;
use crate::socket::{choose_port_late, set_transparent};

const READY: usize = 16; // sockets of each family made in advance: `dial` need not wait for a thread
const DEADLINE: Duration = Duration::from_secs(5); // the program's backlog is full for as long

/// Reaches the program inside the namespace.
pub struct Dialer {
    own: Vec<IpAddr>,
    v4: Option<Mutex<Receiver<io::Result<OwnedFd>>>>,
    v6: Option<Mutex<Receiver<io::Result<OwnedFd>>>>,
}

impl Dialer {
    /// Starts one thread per family that stays in the namespace; it ends once the dialer is gone.
    pub(super) fn start(namespace: impl AsFd, own: &[IpAddr]) -> Result<Self, NamespaceError> {
        let pool = |v6: bool| -> Result<_, NamespaceError> {
            if !own.iter().any(|address| address.is_ipv6() == v6) {
                return Ok(None);
            }
            let (sender, receiver) = sync_channel(READY);
            let namespace = namespace.as_fd().try_clone_to_owned();
            let namespace =
                namespace.map_err(|error| NamespaceError::refused("no dialer", &error))?;
            let thread = std::thread::Builder::new().name("securetf-dialer".to_owned());
            let thread = thread.spawn(move || make_sockets(&namespace, v6, &sender));
            thread.map_err(|error| NamespaceError::refused("no dialer", &error))?;
            Ok(Some(Mutex::new(receiver)))
        };
        let (v4, v6) = (pool(false)?, pool(true)?);
        let own = own.to_vec();
        Ok(Self { own, v4, v6 })
    }
}

impl Inner for Dialer {
    fn dial(&self, port: u16, peer: SocketAddr) -> io::Result<TcpStream> {
        let own = self.own.iter().find(|own| own.is_ipv4() == peer.is_ipv4());
        let own = own.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = self.socket(peer.is_ipv6())?;
        if peer.port() == 0 || bind(&socket, &peer).is_err() {
            choose_port_late(&socket)?;
            bind(&socket, &SocketAddr::new(peer.ip(), 0))?;
        }
        connected(socket, SocketAddr::new(*own, port))
    }

    fn dial_loopback(&self, port: u16) -> io::Result<TcpStream> {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match connected(self.socket(false)?, v4) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
                connected(self.socket(true)?, v6)
            }
            other => other,
        }
    }
}

impl Dialer {
    fn socket(&self, v6: bool) -> io::Result<OwnedFd> {
        let pool = if v6 { &self.v6 } else { &self.v4 };
        let pool = pool.as_ref().ok_or(io::ErrorKind::AddrNotAvailable)?;
        pool.lock().recv().map_err(io::Error::other)?
    }
}

fn connected(socket: OwnedFd, program: SocketAddr) -> io::Result<TcpStream> {
    connect_in_time(&socket, program)?;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn connect_in_time(socket: &OwnedFd, program: SocketAddr) -> io::Result<()> {
    match connect(socket, &program) {
        Ok(()) => return Ok(()),
        Err(Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let deadline = Timespec::try_from(DEADLINE).map_err(io::Error::other)?;
    let mut wait = [PollFd::new(socket, PollFlags::OUT)];
    loop {
        match poll(&mut wait, Some(&deadline)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    sockopt::socket_error(socket)?.map_err(io::Error::from)
}

/// Runs in a thread of its own, as it moves that thread into the namespace.
fn make_sockets(namespace: &OwnedFd, v6: bool, ready: &SyncSender<io::Result<OwnedFd>>) {
    if let Err(errno) = setns(namespace, CloneFlags::CLONE_NEWNET) {
        let _ = ready.send(Err(errno.into()));
        return;
    }
    while ready.send(new_socket(v6)).is_ok() {}
}

fn new_socket(v6: bool) -> io::Result<OwnedFd> {
    let family = if v6 {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    set_transparent(&socket, v6)?;
    sockopt::set_socket_reuseaddr(&socket, true)?; // a program may listen on this port later
    Ok(socket)
}
