//! The start-up self-test: a confined child tries what must fail and what must work. No program is executed; the
//! child makes system calls only, because it is forked from a process with threads.

#![allow(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::time::Duration;

use confine::{Extra, Supervised};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::{SuperviseError, Supervisor, unfit};

const PATIENCE_S: u32 = 10; // for the child, then SIGALRM ends it
const ARRIVAL_TRIES: u32 = 400;
const ARRIVAL_STEP: Duration = Duration::from_millis(5); // the other thread has to accept it
const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9); // RFC 5737: nobody's address

/// What the child found; its exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Finding {
    Holds = 0,
    NotPrepared = 1,
    LandlockOpen = 2,
    ForbiddenOpen = 3,
    ElsewhereOpen = 4,
    DatagramOpen = 5,
    PermittedShut = 6,
}

impl Finding {
    fn text(status: i32) -> &'static str {
        let found = |finding: Self| status == finding as i32;
        match status {
            _ if found(Self::NotPrepared) => "Landlock or the seccomp filters cannot be installed",
            _ if found(Self::LandlockOpen) => "Landlock alone does not refuse TCP",
            _ if found(Self::ForbiddenOpen) => "a forbidden connect was not refused",
            _ if found(Self::ElsewhereOpen) => "a connect to another machine was not refused",
            _ if found(Self::DatagramOpen) => "a UDP socket was not refused",
            _ if found(Self::PermittedShut) => "the permitted connect was not made",
            _ => "the child did not end by itself",
        }
    }
}

/// Made before the fork.
struct Plan<'a> {
    supervised: &'a Supervised,
    filter: libc::sock_fprog,
    channel: RawFd,
    forbidden: SocketAddrV4,
    permitted: SocketAddrV4,
}

pub(super) fn run(supervisor: &Supervisor) -> Result<(), SuperviseError> {
    let supervised = Supervised::prepare().map_err(|error| SuperviseError {
        problem: error.problem().to_owned(),
        fix: error.fix().to_owned(),
    })?;
    let before = supervisor.shared.handoff.tests();
    let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(cannot)?;
    outside.set_nonblocking(true).map_err(cannot)?;
    let port = outside.local_addr().map_err(cannot)?.port();
    let (mut ours, theirs) = UnixStream::pair().map_err(cannot)?;
    let instructions = confine::filter::program();
    let plan = Plan {
        supervised: &supervised,
        filter: libc::sock_fprog {
            len: u16::try_from(instructions.len()).unwrap_or(u16::MAX),
            filter: instructions.as_ptr().cast_mut(),
        },
        channel: theirs.as_raw_fd(),
        forbidden: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
        permitted: SocketAddrV4::new(supervisor.shared.block.test(), 9),
    };
    // SAFETY: the child makes system calls only and never returns.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        child(&plan);
    }
    let child = Pid::from_raw(pid).filter(|_| pid > 0);
    let child = child.ok_or_else(|| cannot(io::Error::last_os_error()))?;
    drop(theirs);
    let attended = attend(supervisor, &supervised, child, &mut ours);
    drop(ours); // a child that still waits reads the end
    let status = waitpid(Some(child), WaitOptions::empty()).map_err(cannot)?;
    attended.map_err(cannot)?;
    let status = status
        .and_then(|(_, status)| status.exit_status())
        .unwrap_or(-1);
    if status != Finding::Holds as i32 {
        return Err(failed(Finding::text(status)));
    }
    if outside.accept().is_ok() {
        return Err(failed("a refused connect reached its destination"));
    }
    for _ in 0..ARRIVAL_TRIES {
        if supervisor.shared.handoff.tests() != before {
            return Ok(());
        }
        std::thread::sleep(ARRIVAL_STEP);
    }
    Err(failed(
        "the permitted connect did not reach the inner listener",
    ))
}

/// Takes the notification descriptor over, answers, and waits until the child has done its part.
fn attend(
    supervisor: &Supervisor,
    supervised: &Supervised,
    child: Pid,
    channel: &mut UnixStream,
) -> io::Result<()> {
    let mut number = [0_u8; 4];
    if channel.read_exact(&mut number).is_err() {
        return Ok(()); // it has ended; its status tells why
    }
    supervised.in_parent(child, i32::from_ne_bytes(number))?;
    let listener = supervised.take_listener().ok_or(io::ErrorKind::NotFound)?;
    supervisor.serve(listener)?;
    channel.write_all(&[1])?;
    let _ = channel.read(&mut number); // its end
    Ok(())
}

/// System calls only.
fn child(plan: &Plan<'_>) -> ! {
    let finding = examine(plan);
    // SAFETY: ends this process without running anything of the parent's exit handlers.
    unsafe { libc::_exit(i32::from(finding as u8)) }
}

fn examine(plan: &Plan<'_>) -> Finding {
    // SAFETY: system calls with integers and with pointers to values that live here.
    unsafe {
        libc::alarm(PATIENCE_S);
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || plan.supervised.restrict().is_err()
        {
            return Finding::NotPrepared;
        }
        if connect(plan.forbidden) != libc::EACCES {
            return Finding::LandlockOpen;
        }
        let Ok(number) = plan.supervised.install() else {
            return Finding::NotPrepared;
        };
        let (size, mut go) = (size_of::<i32>(), 0_u8);
        let told = libc::write(plan.channel, ptr::from_ref(&number).cast(), size) == 4
            && libc::read(plan.channel, ptr::from_mut(&mut go).cast(), 1) == 1;
        let filter = ptr::from_ref(&plan.filter);
        let filtered =
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, filter) == 0;
        if !told || !filtered {
            return Finding::NotPrepared;
        }
        if connect(plan.forbidden) != libc::ECONNREFUSED {
            return Finding::ForbiddenOpen;
        }
        if connect(NOWHERE) != libc::ECONNREFUSED {
            return Finding::ElsewhereOpen;
        }
        if libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) != -1 {
            return Finding::DatagramOpen;
        }
        if connect(plan.permitted) != 0 {
            return Finding::PermittedShut;
        }
    }
    Finding::Holds
}

/// The errno of a blocking `connect`, 0 when it succeeds; -1 when there is no socket.
fn connect(to: SocketAddrV4) -> i32 {
    let address = libc::sockaddr_in {
        sin_family: u16::try_from(libc::AF_INET).unwrap_or_default(),
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(to.ip().octets()),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: one `struct sockaddr_in`, read by the kernel.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        if socket < 0 {
            return -1;
        }
        if libc::connect(socket, ptr::from_ref(&address).cast(), 16) == 0 {
            return 0;
        }
        *libc::__errno_location()
    }
}

fn cannot(error: impl Into<io::Error>) -> SuperviseError {
    unfit("the self-test cannot run", &error.into())
}

fn failed(what: &str) -> SuperviseError {
    SuperviseError {
        problem: format!("the self-test of interceptor `seccomp` failed: {what}"),
        fix:
            "use interceptor `namespace`; look for a security module or sandbox around this process"
                .to_owned(),
    }
}
