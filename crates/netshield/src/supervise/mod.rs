//! Interceptor S: no privilege, no namespace. The kernel asks us about the program's `connect`, `bind` and `listen`
//! (seccomp user notification), we do them on the program's own sockets, and Landlock refuses all TCP beside that.
//! `docs/reference/network-shield-seccomp.md` says what differs for the program.

mod block;
mod calls;
mod error;
mod handoff;
mod listening;
mod self_test;
mod sockaddr;
mod sys;
mod verdict;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use confine::{ConfineError, Extra, Spawn, Supervised};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::Pid;

use self::block::Block;
use self::calls::Supervision;
pub use self::error::SuperviseError;
use self::error::unfit;
use self::handoff::Handoff;
use self::listening::Listening;
use self::sys::Listener;
use self::verdict::Destinations;
use crate::event::{DenialLog, Inner};
use crate::names;
use crate::names::responder::Responder;
use crate::namespace::OnOutbound;
use crate::policy::Policy;

const DIAL: Duration = Duration::from_secs(5);

/// A raised interceptor. Dropping it ends the supervision: every further `connect`, `bind` and `listen` of the
/// program fails with `ENOSYS`, and Landlock stays.
pub struct Supervisor {
    shared: Arc<Supervision>,
    /// Closed to stop the threads.
    stop: Option<OwnedFd>,
    stopped: Arc<OwnedFd>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Supervisor {
    /// Takes a block of private addresses, opens the inner listener and passes the self-test. Permitted connections
    /// wait until [`Supervisor::start`]; all others are refused at once and noted in `denials`.
    ///
    /// # Errors
    /// [`SuperviseError`] names what the kernel lacks or what the self-test found; nothing is left then.
    pub fn raise(policy: &Policy, denials: Arc<dyn DenialLog>) -> Result<Self, SuperviseError> {
        if !sys::notifications_fit().map_err(|error| unfit("no seccomp notifications", &error))? {
            return Err(SuperviseError::new(
                "the kernel's seccomp notifications have an unknown size",
                "use interceptor `namespace`, and report the kernel's version",
            ));
        }
        let block =
            Block::claim().map_err(|error| unfit("no private loopback addresses", &error))?;
        let listener = calls::inner_listener(&block)
            .map_err(|error| unfit("no listener on a private loopback address", &error))?;
        let inner = listener
            .local_addr()
            .map_err(|error| unfit("no inner listener", &error))?;
        let listening = Listening::open()
            .map_err(|error| unfit("the kernel does not tell about sockets (sock_diag)", &error))?;
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| unfit("no pipe", &error.into()))?;
        let responder = Responder::new(names::resolvable(policy));
        let shared = Arc::new(Supervision {
            destinations: Destinations::new(policy),
            listening,
            handoff: Handoff::new(Arc::clone(&denials), responder, block.test()),
            block,
            inner,
            denials,
            waiting: AtomicU32::new(0),
            testing: AtomicU32::new(0),
        });
        let (stop, stopped) = (Some(stop), Arc::new(stopped));
        let supervisor = Self {
            shared,
            stop,
            stopped,
            threads: Mutex::default(),
        };
        supervisor
            .accept(listener)
            .map_err(|error| unfit("no thread", &error))?;
        supervisor.self_test()?;
        Ok(supervisor)
    }

    /// From now on each permitted connection of the program goes to `on_outbound`, in the accepting thread: hand it on,
    /// do not serve it there. To be called once.
    ///
    /// # Errors
    /// [`SuperviseError`] when it was called before.
    pub fn start(&self, on_outbound: OnOutbound) -> Result<(), SuperviseError> {
        if self.shared.handoff.start(on_outbound) {
            return Ok(());
        }
        Err(SuperviseError::new(
            "the interceptor has been started",
            "call `start` once",
        ))
    }

    /// Reaches the program for inbound connections.
    #[must_use]
    pub fn inner(&self) -> Arc<dyn Inner> {
        Arc::new(Dialer(Arc::clone(&self.shared)))
    }

    /// Starts a program under supervision; `what.extra` is ours. May be called more than once.
    ///
    /// # Errors
    /// As [`confine::spawn`].
    pub fn spawn(&self, what: &Spawn<'_>) -> Result<Pid, ConfineError> {
        let supervised = Supervised::prepare()?;
        let start = Start {
            supervised: &supervised,
            supervisor: self,
        };
        confine::spawn(&Spawn {
            argv: what.argv,
            env: what.env,
            cwd: what.cwd,
            uid: what.uid,
            gid: what.gid,
            netns: what.netns,
            extra: Some(&start),
        })
    }

    /// Shows that the shield holds: from a confined child, TCP past the supervisor fails, forbidden destinations
    /// are refused and reach nobody, and the permitted one arrives at the inner listener.
    ///
    /// # Errors
    /// [`SuperviseError`] names the first that does not hold.
    pub fn self_test(&self) -> Result<(), SuperviseError> {
        self_test::run(self)
    }

    /// Ends the supervision and waits for its threads. The program should have ended before.
    pub fn lower(mut self) {
        self.stop = None;
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join(); // a thread that panicked has said so
        }
    }

    /// Answers the notifications of one program from a thread of its own until its last process has ended.
    fn serve(&self, listener: OwnedFd) -> io::Result<()> {
        let (shared, stopped) = (Arc::clone(&self.shared), Arc::clone(&self.stopped));
        let listener = Arc::new(Listener::new(listener));
        self.start_thread("shield-supervisor", move || {
            supervise(&shared, &listener, &stopped);
        })
    }

    fn accept(&self, listener: TcpListener) -> io::Result<()> {
        let (shared, stopped) = (Arc::clone(&self.shared), Arc::clone(&self.stopped));
        self.start_thread("shield-inner", move || {
            shared.handoff.serve(&listener, &stopped);
        })
    }

    fn start_thread(&self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)?;
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }
}

/// Dials the program.
struct Dialer(Arc<Supervision>);

impl Inner for Dialer {
    /// Only to a socket on which the program itself listens, and not to one that it bound to its loopback. The program
    /// sees a private loopback address as its peer: to show another one needs privileges.
    fn dial(&self, port: u16, _peer: SocketAddr) -> io::Result<TcpStream> {
        let block = &self.0.block;
        self.first(&[block.any(), block.any6()], port)
    }

    fn dial_loopback(&self, port: u16) -> io::Result<TcpStream> {
        let block = &self.0.block;
        let v4 = [block.loopback(), block.any()];
        let v6 = [block.loopback6(), block.any6()];
        self.first(&[v4, v6].concat(), port)
    }
}

impl Dialer {
    /// Connects to the first of `candidates` where the program listens.
    fn first(&self, candidates: &[Ipv4Addr], port: u16) -> io::Result<TcpStream> {
        let block = &self.0.block;
        let found = self.0.listening.find(candidates, port)?;
        let ip = found.ok_or(io::ErrorKind::ConnectionRefused)?;
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        sys::bind_address_without_port(socket.as_fd())?;
        rustix::net::bind(&socket, &SocketAddr::new(block.relay().into(), 0))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(DIAL))?;
        match rustix::net::connect(&socket, &SocketAddr::new(ip.into(), port)) {
            Err(Errno::INPROGRESS) => return Err(io::ErrorKind::TimedOut.into()),
            other => other?,
        }
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, None)?;
        Ok(socket.into())
    }
}

/// Begins to answer before the program runs.
struct Start<'a> {
    supervised: &'a Supervised,
    supervisor: &'a Supervisor,
}

impl Extra for Start<'_> {
    fn in_child(&self) -> Result<i32, i32> {
        self.supervised.in_child()
    }

    fn in_parent(&self, child: Pid, number: i32) -> io::Result<()> {
        self.supervised.in_parent(child, number)?;
        let listener = self
            .supervised
            .take_listener()
            .ok_or(io::ErrorKind::NotFound)?;
        self.supervisor.serve(listener)
    }
}

fn supervise(shared: &Arc<Supervision>, listener: &Arc<Listener>, stopped: &OwnedFd) {
    loop {
        let mut waits = [
            PollFd::from_borrowed_fd(listener.descriptor(), PollFlags::IN),
            readable(stopped),
        ];
        let polled = rustix::event::poll(&mut waits, None);
        let [call, end] = waits.map(|wait| wait.revents());
        if !end.is_empty() {
            return;
        }
        if polled.is_ok() && call.contains(PollFlags::IN) {
            match listener.receive() {
                Ok(Some(notification)) => shared.handle(listener, notification),
                Ok(None) => {}
                Err(_) => return, // the program's calls fail with ENOSYS from now on
            }
        } else if !call.is_empty() {
            return; // hung up: no process is left
        }
    }
}

fn readable(descriptor: &impl AsFd) -> PollFd<'_> {
    PollFd::new(descriptor, PollFlags::IN)
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
