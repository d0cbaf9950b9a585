//! Does for the program what it asked for, on its own socket. Nothing that belongs to `AF_INET` or `AF_INET6` is ever
//! left to the kernel (`CONTINUE`): between our look and the kernel's the program could change address or descriptor.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::block::Block;
use super::handoff::Handoff;
use super::listening::Listening;
use super::sockaddr::{Address, LONGEST, canonical, for_family};
use super::sys::{self, Answer, Listener, Notification};
use super::verdict::{Destinations, Verdict};
use crate::event::{Caller, Denial, DenialLog};
use crate::names;

const PIDFD_THREAD: u32 = libc::O_EXCL.unsigned_abs(); // linux/pidfd.h, Linux 6.9
const BACKLOG: i32 = 4096; // connections that wait for the relay; the standard library asks for 128
const BLOCKING_AT_MOST: u32 = 256; // threads that wait in a blocking connect of the program to itself

/// Everything that a decision needs.
pub(super) struct Supervision {
    pub(super) block: Block,
    pub(super) destinations: Destinations,
    pub(super) listening: Listening,
    pub(super) handoff: Handoff,
    /// Address of the relay's inner listener.
    pub(super) inner: SocketAddr,
    pub(super) denials: Arc<dyn DenialLog>,
    /// Threads in a blocking connect.
    pub(super) waiting: AtomicU32,
    /// Process id of the self-test's child, whose refusals are no news; 0 when none runs.
    pub(super) testing: AtomicU32,
}

/// A call with the program's socket in our hands.
struct Call {
    notification: Notification,
    socket: OwnedFd,
    inet6: bool,
}

enum Kind {
    Inet {
        inet6: bool,
    },
    /// `AF_UNIX` or `AF_NETLINK`.
    Other,
    /// A protocol that the static filter refuses: a descriptor from elsewhere.
    Foreign,
}

impl Supervision {
    /// Handles one notification; answers it, now or from a thread of its own.
    pub(super) fn handle(self: &Arc<Self>, listener: &Arc<Listener>, notification: Notification) {
        let answer = self
            .decide(listener, notification)
            .unwrap_or_else(|errno| Some(Answer::Errno(errno)));
        if let Some(answer) = answer {
            listener.answer(notification.id, answer);
        }
    }

    /// None: somebody else answers, or nobody needs an answer any more.
    fn decide(
        self: &Arc<Self>,
        listener: &Arc<Listener>,
        asked: Notification,
    ) -> Result<Option<Answer>, i32> {
        let [descriptor, address, length, ..] = asked.args;
        let is_listen = asked.call == libc::SYS_listen;
        let socket = fetch(asked.thread, descriptor)?;
        let mut buffer = [0_u8; LONGEST];
        let mut bytes: &mut [u8] = &mut [];
        if !is_listen {
            bytes = usize::try_from(int(length))
                .ok()
                .and_then(|length| buffer.get_mut(..length))
                .ok_or(libc::EINVAL)?;
            sys::read_memory(asked.thread, address, bytes)?;
        }
        if !listener.valid(asked.id) {
            return Ok(None); // the thread is gone; what we read may be another's
        }
        let inet6 = match kind(&socket)? {
            Kind::Inet { inet6 } => inet6,
            Kind::Other if is_listen => return Ok(Some(listen(&socket, int(address)))),
            Kind::Other => return other_family(bytes).map(Some),
            Kind::Foreign => {
                self.deny(
                    asked.thread,
                    "a socket of another protocol",
                    "only TCP is shielded",
                );
                return Err(libc::EACCES);
            }
        };
        let call = Call {
            notification: asked,
            socket,
            inet6,
        };
        if is_listen {
            return self.listen(&call, int(address)).map(Some);
        }
        let address = Address::parse(bytes)?;
        if asked.call == libc::SYS_bind {
            self.bind(&call, address).map(Some)
        } else {
            self.connect(listener, call, address)
        }
    }

    fn connect(
        self: &Arc<Self>,
        listener: &Arc<Listener>,
        call: Call,
        address: Address,
    ) -> Result<Option<Answer>, i32> {
        let asked = match address {
            Address::Unspecified { .. } => {
                return Ok(Some(outcome(rustix::net::connect_unspec(&call.socket))));
            }
            Address::Other(_) => return Err(libc::EAFNOSUPPORT),
            Address::Inet(inet) if inet.is_ipv6() != call.inet6 => return Err(libc::EAFNOSUPPORT),
            Address::Inet(inet) => inet,
        };
        let destination = canonical(asked);
        match self.destinations.decide(&self.block, destination) {
            Verdict::Relay | Verdict::Test => self.to_relay(call, destination).map(Some),
            Verdict::Own(candidates) if self.is_resolver(destination, &candidates)? => {
                self.to_relay(call, destination).map(Some)
            }
            Verdict::Own(candidates) => {
                self.to_itself(listener, call, &candidates, destination.port())
            }
            Verdict::Refused(reason) => {
                self.deny(call.notification.thread, &destination.to_string(), reason);
                Err(libc::ECONNREFUSED)
            }
        }
    }

    /// Whether our responder is meant: the program may have one of its own.
    fn is_resolver(&self, destination: SocketAddr, candidates: &[Ipv4Addr]) -> Result<bool, i32> {
        if destination != names::RESOLVER {
            return Ok(false);
        }
        let found = self.listening.find(candidates, destination.port());
        let found = found.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
        Ok(found.is_none())
    }

    /// Connects the program's socket to the inner listener and tells the other side where it wanted to go.
    fn to_relay(&self, call: Call, destination: SocketAddr) -> Result<Answer, i32> {
        let fresh = sys::is_closed(call.socket.as_fd());
        if fresh {
            self.bind_source(&call)?;
        }
        let SocketAddr::V4(inner) = self.inner else {
            return Err(libc::EINVAL);
        };
        let inner = for_family(*inner.ip(), inner.port(), call.inet6);
        let connected = rustix::net::connect(&call.socket, &inner);
        let begun = matches!(connected, Ok(()) | Err(Errno::INPROGRESS));
        if fresh && begun {
            let process = describe(call.notification.thread);
            let caller = Caller::new(move || process.clone());
            self.handoff
                .expect(local(&call.socket)?, destination, call.socket, caller);
        }
        Ok(outcome(connected))
    }

    /// Connects the program's socket to one of its own listening sockets. A blocking socket waits in a thread:
    /// with a full backlog for minutes, and the other threads of the program must not.
    fn to_itself(
        self: &Arc<Self>,
        listener: &Arc<Listener>,
        call: Call,
        candidates: &[Ipv4Addr],
        port: u16,
    ) -> Result<Option<Answer>, i32> {
        if sys::is_closed(call.socket.as_fd()) {
            self.bind_source(&call)?;
        }
        let found = self.listening.find(candidates, port);
        let ip = found.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
        let ip = ip.ok_or(libc::ECONNREFUSED)?;
        let target = for_family(ip, port, call.inet6);
        let flags = rustix::fs::fcntl_getfl(&call.socket).map_err(Errno::raw_os_error)?;
        if flags.contains(rustix::fs::OFlags::NONBLOCK) {
            return Ok(Some(outcome(rustix::net::connect(&call.socket, &target))));
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= BLOCKING_AT_MOST {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(libc::EAGAIN);
        }
        let (supervision, listener) = (Arc::clone(self), Arc::clone(listener));
        let wait = move || {
            let answer = outcome(rustix::net::connect(&call.socket, &target));
            supervision.waiting.fetch_sub(1, Ordering::Relaxed);
            listener.answer(call.notification.id, answer);
        };
        let started = std::thread::Builder::new()
            .name("shield-connect".to_owned())
            .spawn(wait);
        if started.is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(libc::EAGAIN);
        }
        Ok(None)
    }

    /// Gives an unbound socket 127.0.0.1 as its address. With it the kernel sends nothing to another machine even if
    /// the program finds a way to a route out (`__mkroute_output`: no loopback source on another device).
    fn bind_source(&self, call: &Call) -> Result<(), i32> {
        let source = local(&call.socket)?;
        if source.ip().is_unspecified() {
            if call.inet6 {
                admit_ipv4(&call.socket);
            }
            sys::bind_address_without_port(call.socket.as_fd())
                .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
            let address = for_family(Ipv4Addr::LOCALHOST, 0, call.inet6);
            return rustix::net::bind(&call.socket, &address).map_err(Errno::raw_os_error);
        }
        if self.block.is_bound_by_us(source.ip()) {
            return Ok(());
        }
        let what = format!("a socket bound to {source}");
        self.deny(
            call.notification.thread,
            &what,
            "it was bound outside of the shield",
        );
        Err(libc::EACCES)
    }

    fn bind(&self, call: &Call, address: Address) -> Result<Answer, i32> {
        let asked = match address {
            Address::Inet(inet) if inet.is_ipv6() == call.inet6 => inet,
            Address::Unspecified { any: Some(port) } if !call.inet6 => {
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
            }
            _ => return Err(libc::EAFNOSUPPORT),
        };
        let only = call.inet6 && sockopt::ipv6_v6only(&call.socket).unwrap_or(false);
        let ip = self.destinations.private(&self.block, asked.ip(), only);
        let ip = ip.ok_or(libc::EADDRNOTAVAIL)?;
        if only {
            admit_ipv4(&call.socket);
        }
        let private = for_family(ip, asked.port(), call.inet6);
        Ok(outcome(rustix::net::bind(&call.socket, &private)))
    }

    /// `listen` on an unbound socket would take a port on all addresses of the machine: bind it first.
    fn listen(&self, call: &Call, backlog: i32) -> Result<Answer, i32> {
        let source = local(&call.socket)?;
        if source.ip().is_unspecified() {
            if call.inet6 {
                admit_ipv4(&call.socket);
            }
            let address = for_family(self.block.any(), 0, call.inet6);
            rustix::net::bind(&call.socket, &address).map_err(Errno::raw_os_error)?;
        } else if !self.block.is_bound_by_us(source.ip()) {
            return Err(libc::EACCES);
        }
        let answer = listen(&call.socket, backlog);
        if let (Answer::Done, SocketAddr::V4(own)) = (answer, local(&call.socket)?) {
            let noted = self.listening.note(&call.socket, *own.ip(), own.port());
            noted.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
        }
        Ok(answer)
    }

    fn deny(&self, thread: u32, destination: &str, reason: &str) {
        if self.testing.load(Ordering::Relaxed) == thread {
            return;
        }
        self.denials.deny(Denial {
            time_s: super::now_s(),
            direction: "outbound",
            process: describe(thread),
            destination: destination.to_owned(),
            reason: reason.to_owned(),
        });
    }
}

/// `pid comm` of a thread.
fn describe(thread: u32) -> String {
    let comm = fs::read_to_string(format!("/proc/{thread}/comm")).unwrap_or_default();
    format!("{thread} {}", comm.trim_end())
}

/// A duplicate of the program's descriptor: whatever the program does with its number now, this socket stays.
fn fetch(thread: u32, descriptor: u64) -> Result<OwnedFd, i32> {
    let pid = i32::try_from(thread)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(libc::ESRCH)?;
    let process = match pidfd_open(pid, PidfdFlags::from_bits_retain(PIDFD_THREAD)) {
        Err(Errno::INVAL) => pidfd_open(leader(pid)?, PidfdFlags::empty()), // before Linux 6.9
        other => other,
    };
    let process = process.map_err(Errno::raw_os_error)?;
    pidfd_getfd(process, int(descriptor), PidfdGetfdFlags::empty()).map_err(Errno::raw_os_error)
}

/// The process of a thread.
fn leader(thread: Pid) -> Result<Pid, i32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).map_err(|_| libc::ESRCH)?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|number| Pid::from_raw(number.trim().parse().ok()?))
        .ok_or(libc::ESRCH)
}

fn kind(socket: &OwnedFd) -> Result<Kind, i32> {
    let family = sockopt::socket_domain(socket).map_err(Errno::raw_os_error)?;
    if family == AddressFamily::UNIX || family == AddressFamily::NETLINK {
        return Ok(Kind::Other);
    }
    let inet6 = family == AddressFamily::INET6;
    let tcp = sockopt::socket_type(socket) == Ok(SocketType::STREAM)
        && sockopt::socket_protocol(socket) == Ok(Some(rustix::net::ipproto::TCP));
    if tcp && (inet6 || family == AddressFamily::INET) {
        Ok(Kind::Inet { inet6 })
    } else {
        Ok(Kind::Foreign)
    }
}

/// For `AF_UNIX` and `AF_NETLINK` the kernel goes on, with the program's own paths and credentials. If it swaps
/// descriptor or address now, Landlock refuses TCP.
fn other_family(bytes: &[u8]) -> Result<Answer, i32> {
    match Address::parse(bytes)? {
        Address::Inet(_) => Err(libc::EINVAL),
        Address::Unspecified { .. } | Address::Other(_) => Ok(Answer::Continue),
    }
}

/// Also for `AF_UNIX`: behind a `CONTINUE` a swapped-in TCP socket would get a port on all addresses.
fn listen(socket: &OwnedFd, backlog: i32) -> Answer {
    outcome(rustix::net::listen(socket, backlog))
}

/// Private addresses are IPv4: a socket with `IPV6_V6ONLY` must give that up. Fails on a bound socket, whose `bind`
/// or `connect` then tells the program.
fn admit_ipv4(socket: &OwnedFd) {
    let _ = sockopt::set_ipv6_v6only(socket, false);
}

fn local(socket: &OwnedFd) -> Result<SocketAddr, i32> {
    let name = rustix::net::getsockname(socket).map_err(Errno::raw_os_error)?;
    SocketAddr::try_from(name)
        .map(canonical)
        .map_err(|_| libc::EAFNOSUPPORT)
}

fn outcome(result: Result<(), Errno>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(errno) => Answer::Errno(errno.raw_os_error()),
    }
}

/// An `int` argument: the kernel ignores the upper half, too.
#[allow(clippy::cast_possible_truncation)]
fn int(argument: u64) -> i32 {
    (argument as u32).cast_signed()
}

/// The listener of the relay for the program's connections.
pub(super) fn inner_listener(block: &Block) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind((IpAddr::V4(block.relay()), 0))?;
    listener.set_nonblocking(true)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}
