//! The start of the program, seen from the launcher.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, OsString, c_char};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::ptr;

use rustix::net::{AddressFamily, sockopt};
use rustix::process::{Pid, WaitOptions, getpid, waitpid};

use crate::ConfineError;
use crate::child::{self, Plan, Step};
use crate::filter;

/// What an interceptor adds to the start: Landlock and the notification filter of S, for example.
pub trait Extra {
    /// In the child, after fork: without capabilities, with `no_new_privs`, as the program's user, in its namespaces
    /// and working directory, before descriptors get close-on-exec and before the static filter.
    ///
    /// The parent had other threads: system calls only, no allocation, no lock, no panic. The number that is
    /// returned, of a descriptor of the child for example, is given to [`Extra::in_parent`].
    ///
    /// # Errors
    /// An errno; nothing is started.
    fn in_child(&self) -> Result<i32, i32>;

    /// In the parent, in the thread that called [`spawn`], while the child waits.
    ///
    /// # Errors
    /// The child ends and nothing is started.
    fn in_parent(&self, child: Pid, number: i32) -> io::Result<()>;
}

/// What to start and how.
pub struct Spawn<'a> {
    /// The command. A name without `/` is searched in the directories of `PATH` in `env`, from `cwd`.
    pub argv: &'a [OsString],
    /// The program's whole environment.
    pub env: &'a [(OsString, OsString)],
    /// Its working directory, as the program will see it.
    pub cwd: &'a OsStr,
    /// User to become, without supplementary groups; none: ours. Needs root.
    pub uid: Option<u32>,
    /// Group to become; none with a `uid`: the group of the same number.
    pub gid: Option<u32>,
    /// Network namespace to enter; none: stay in ours.
    pub netns: Option<BorrowedFd<'a>>,
    /// The interceptor's part.
    pub extra: Option<&'a dyn Extra>,
}

/// Starts the program and returns when it has been executed. It is a direct child of this process in a session of
/// its own, in the mount namespace of the calling thread, dies with SIGKILL when the calling *thread* ends, has no
/// capabilities, gains no privileges, has no descriptor but 0, 1 and 2, and runs under the static filter.
///
/// The child enters the working directory and opens the program while the caller waits: a caller that holds a lock
/// which a file server of this process needs (Python's GIL) must release it first.
///
/// # Errors
/// [`ConfineError::Launch`] when the program or the directory does not fit; [`ConfineError::Unfit`] when the machine
/// refuses a part of the confinement. Nothing is running then.
#[allow(clippy::missing_panics_doc)] // the filter is a constant of ours and fits
pub fn spawn(what: &Spawn<'_>) -> Result<Pid, ConfineError> {
    refuse_network_streams()?;
    let strings = Strings::prepare(what)?;
    let (argv, envp) = (pointers(&strings.argv), pointers(&strings.env));
    let programs: Vec<&CStr> = strings.programs.iter().map(CString::as_c_str).collect();
    let instructions = filter::program();
    let (ours, theirs) =
        UnixStream::pair().map_err(|error| unfit("no pair of sockets for the start", &error))?;
    let plan = Plan {
        programs: &programs,
        argv: &argv,
        envp: &envp,
        working_directory: &strings.cwd,
        user: what.uid.map(|uid| (uid, what.gid.unwrap_or(uid))),
        network: what.netns.map(|fd| fd.as_raw_fd()),
        filter: libc::sock_fprog {
            len: u16::try_from(instructions.len()).expect("a few hundred instructions"),
            filter: instructions.as_ptr().cast_mut(),
        },
        parent: getpid().as_raw_nonzero().get(),
        channel: theirs.as_raw_fd(),
        extra: what.extra,
    };
    let child = fork(&plan).map_err(|error| unfit("no new process", &error))?;
    drop(theirs);
    let outcome = attend(ours, child, what.extra);
    outcome.map_err(|failure| {
        reap(child);
        failure.explain(what)
    })?;
    Ok(child)
}

/// Signals are blocked meanwhile: a handler of ours in the child would write into descriptors that both share.
fn fork(plan: &Plan<'_>) -> io::Result<Pid> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises `all`, pthread_sigmask `before`. The child only runs `child::run`, which makes
    // nothing but system calls and never returns.
    let (pid, error) = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        let pid = libc::fork();
        if pid == 0 {
            child::run(plan);
        }
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
        (pid, error)
    };
    Pid::from_raw(pid).filter(|_| pid > 0).ok_or(error)
}

enum Failure {
    Child(Step, i32),
    Parent(io::Error),
    Garbled,
}

/// Follows the child until it has executed the program: the end of the stream without a message. A child that was
/// killed before looks the same; waiting for it tells.
fn attend(mut stream: UnixStream, child: Pid, extra: Option<&dyn Extra>) -> Result<(), Failure> {
    loop {
        let mut message = [0_u8; 8];
        let length = read(&mut stream, &mut message).map_err(Failure::Parent)?;
        if length == 0 {
            return Ok(());
        }
        let ([step, number], []) = message.as_chunks::<4>() else {
            return Err(Failure::Garbled);
        };
        let (step, number) = (i32::from_ne_bytes(*step), i32::from_ne_bytes(*number));
        match (Step::from_number(step).filter(|_| length == 8), extra) {
            (Some(Step::Waiting), Some(extra)) => {
                extra.in_parent(child, number).map_err(Failure::Parent)?;
                stream.write_all(&[1]).map_err(Failure::Parent)?;
            }
            (Some(step), _) => return Err(Failure::Child(step, number)),
            (None, _) => return Err(Failure::Garbled),
        }
    }
}

/// Reads until the buffer is full or the stream ends; a child that dies with unread bytes resets it.
fn read(stream: &mut UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The child has told why it stops, or is to stop: make sure that it is gone.
fn reap(child: Pid) {
    let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
    while let Err(rustix::io::Errno::INTR) = waitpid(Some(child), WaitOptions::empty()) {}
}

/// A network socket as standard stream would be a way out that no interceptor sees.
fn refuse_network_streams() -> Result<(), ConfineError> {
    for number in 0..3 {
        // SAFETY: used for one question only; a descriptor that is not open answers EBADF.
        let stream = unsafe { BorrowedFd::borrow_raw(number) };
        let Ok(family) = sockopt::socket_domain(stream) else {
            continue; // not a socket
        };
        if family != AddressFamily::UNIX {
            return Err(ConfineError::unfit(
                format!("descriptor {number} is a network socket, which the program would inherit"),
                "start with files, pipes or a terminal as standard input, output and error",
            ));
        }
    }
    Ok(())
}

struct Strings {
    programs: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
}

impl Strings {
    fn prepare(what: &Spawn<'_>) -> Result<Self, ConfineError> {
        let name = what.argv.first().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| {
            ConfineError::launch("the command is empty".to_owned(), "correct `command`")
        })?;
        let argv = what.argv.iter().map(|one| terminated(one.as_bytes()));
        let env = what.env.iter().map(|(key, value)| {
            let mut pair = key.clone().into_vec();
            pair.push(b'=');
            pair.extend(value.as_bytes());
            terminated(&pair)
        });
        Ok(Self {
            programs: candidates(name, search_path(what))?,
            argv: argv.collect::<Result<_, _>>()?,
            env: env.collect::<Result<_, _>>()?,
            cwd: terminated(what.cwd.as_bytes())?,
        })
    }
}

fn search_path<'a>(what: &'a Spawn<'_>) -> &'a OsStr {
    let entry = what.env.iter().find(|(key, _)| key == "PATH");
    entry.map_or(OsStr::new(""), |(_, value)| value.as_os_str())
}

/// The paths to try for `name`; an empty directory in `PATH` is the working directory, as for `execvp`.
fn candidates(name: &OsStr, path: &OsStr) -> Result<Vec<CString>, ConfineError> {
    if name.as_bytes().contains(&b'/') {
        return Ok(vec![terminated(name.as_bytes())?]);
    }
    let directories = path.as_bytes().split(|&byte| byte == b':');
    directories
        .map(|directory| {
            let directory = if directory.is_empty() {
                b"."
            } else {
                directory
            };
            terminated(&[directory, b"/", name.as_bytes()].concat())
        })
        .collect()
}

fn terminated(bytes: &[u8]) -> Result<CString, ConfineError> {
    CString::new(bytes).map_err(|_| {
        ConfineError::launch(
            "the command, its environment or its working directory contains a NUL byte".to_owned(),
            "correct `command`, `environment` or `working_directory`",
        )
    })
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    let ends = std::iter::once(ptr::null());
    strings.iter().map(|one| one.as_ptr()).chain(ends).collect()
}

fn unfit(what: &str, error: &io::Error) -> ConfineError {
    ConfineError::unfit(
        format!("{what}: {error}"),
        "look at the machine's limits and logs",
    )
}

impl Failure {
    fn explain(self, what: &Spawn<'_>) -> ConfineError {
        let (step, errno) = match self {
            Self::Child(step, errno) => (step, errno),
            Self::Parent(error) => {
                return unfit("the interceptor could not take over the program", &error);
            }
            Self::Garbled => {
                return ConfineError::unfit(
                    "the child ended before it could tell its state".to_owned(),
                    "look for an out-of-memory kill in the machine's log",
                );
            }
        };
        let text = io::Error::from_raw_os_error(errno);
        let part = match step {
            Step::Program | Step::Interpreter => return program_error(step, errno, what),
            Step::WorkingDirectory => {
                return ConfineError::launch(
                    format!(
                        "the working directory {} cannot be entered: {text}",
                        what.cwd.display()
                    ),
                    "correct `working_directory`, or mount a volume that holds it",
                );
            }
            Step::Waiting | Step::Extra => "the interceptor's part failed",
            Step::Network => "the network namespace cannot be entered",
            Step::Session => "no session of its own",
            Step::User => "the user cannot be changed",
            Step::Capabilities => "capabilities cannot be dropped",
            Step::Privileges => "no_new_privs or the parent-death signal cannot be set",
            Step::Descriptors => "descriptors cannot be closed",
            Step::Signals => "signals cannot be reset",
            Step::Filter => "the seccomp filter is refused",
        };
        ConfineError::unfit(
            format!("the program cannot be confined: {part}: {text}"),
            "run as root on Linux 6.2 or newer; see docs/reference/network-shield.md",
        )
    }
}

fn program_error(step: Step, errno: i32, what: &Spawn<'_>) -> ConfineError {
    let name = what.argv.first().map(|name| name.display().to_string());
    let name = name.unwrap_or_default();
    match (step, errno) {
        (Step::Interpreter, _) => ConfineError::launch(
            format!("the interpreter or loader that {name} names does not exist"),
            "install it, or correct the first line of the program",
        ),
        (_, libc::ENOENT) if name.contains('/') => ConfineError::launch(
            format!("the program {name} does not exist"),
            "correct `command`, or mount what holds it",
        ),
        (_, libc::ENOENT) => ConfineError::launch(
            format!(
                "the program {name} is in no directory of PATH ({})",
                search_path(what).display()
            ),
            "install it, give its whole path in `command`, or set PATH in `environment`",
        ),
        (_, libc::EACCES | libc::ENOEXEC) => ConfineError::launch(
            format!("the program {name} is not executable"),
            "start it through its interpreter in `command`",
        ),
        (_, other) => ConfineError::launch(
            format!(
                "the program {name} cannot be executed: {}",
                io::Error::from_raw_os_error(other)
            ),
            "look at the file, the arguments and the machine's limits",
        ),
    }
}
