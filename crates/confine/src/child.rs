//! What happens between fork and exec, in the child of a process with many threads: system calls alone, no
//! allocation, no lock, no panic. Everything it needs was prepared before the fork.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::os::fd::RawFd;
use std::ptr;

use libc::{c_int, c_long, c_ulong, sock_fprog};

use crate::spawn::Extra;

/// Where the child stopped; sent to the parent with an errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Step {
    /// Not an error: waits for the parent's part of [`Extra`].
    Waiting = 1,
    Network,
    Session,
    User,
    Capabilities,
    Privileges,
    WorkingDirectory,
    Extra,
    Descriptors,
    Signals,
    Filter,
    Interpreter,
    Program,
}

impl Step {
    pub(crate) fn from_number(number: i32) -> Option<Self> {
        [
            Self::Waiting,
            Self::Network,
            Self::Session,
            Self::User,
            Self::Capabilities,
            Self::Privileges,
            Self::WorkingDirectory,
            Self::Extra,
            Self::Descriptors,
            Self::Signals,
            Self::Filter,
            Self::Interpreter,
            Self::Program,
        ]
        .into_iter()
        .find(|step| *step as i32 == number)
    }
}

/// Prepared by the parent; every pointer stays valid because the child has a copy of the parent's memory.
pub(crate) struct Plan<'a> {
    /// Paths to try in turn, as `execvp` would.
    pub(crate) programs: &'a [&'a CStr],
    /// Ends with a null pointer.
    pub(crate) argv: &'a [*const c_char],
    /// Ends with a null pointer.
    pub(crate) envp: &'a [*const c_char],
    pub(crate) working_directory: &'a CStr,
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) network: Option<RawFd>,
    pub(crate) filter: sock_fprog,
    pub(crate) parent: i32,
    /// The child's end of the stream to the parent.
    pub(crate) channel: RawFd,
    pub(crate) extra: Option<&'a dyn Extra>,
}

type Stopped = (Step, c_int);

/// Becomes the program, or tells the parent why not and ends.
pub(crate) fn run(plan: &Plan<'_>) -> ! {
    let (step, errno) = match prepare(plan) {
        Ok(()) => execute(plan),
        Err(stopped) => stopped,
    };
    tell(plan.channel, step, errno);
    // SAFETY: ends this process without running anything of the parent's exit handlers.
    unsafe { libc::_exit(127) }
}

fn prepare(plan: &Plan<'_>) -> Result<(), Stopped> {
    // SAFETY: system calls with integers and with pointers into `plan`, which outlives them.
    unsafe {
        if let Some(network) = plan.network {
            check(
                Step::Network,
                libc::setns(network, libc::CLONE_NEWNET).into(),
            )?;
        }
        check(Step::Session, libc::setsid().into())?;
        drop_bounding_set()?;
        if let Some((uid, gid)) = plan.user {
            // Not glibc's wrappers: they would signal threads that do not exist in this process.
            let none = ptr::null::<u32>();
            check(Step::User, libc::syscall(libc::SYS_setgroups, 0, none))?;
            check(
                Step::User,
                libc::syscall(libc::SYS_setresgid, gid, gid, gid),
            )?;
            check(
                Step::User,
                libc::syscall(libc::SYS_setresuid, uid, uid, uid),
            )?;
        }
        drop_capabilities()?;
        control(Step::Privileges, libc::PR_SET_NO_NEW_PRIVS, 1)?;
        // After the change of user, which clears it. The parent's thread waits for us meanwhile.
        control(
            Step::Privileges,
            libc::PR_SET_PDEATHSIG,
            c_ulong::from(libc::SIGKILL.unsigned_abs()),
        )?;
        if libc::getppid() != plan.parent {
            return Err((Step::Privileges, libc::ESRCH));
        }
        check(
            Step::WorkingDirectory,
            libc::chdir(plan.working_directory.as_ptr()).into(),
        )?;
    }
    additions(plan)?;
    reset_signals()?;
    // SAFETY: as above; the filter's instructions belong to the parent's copy of `plan`.
    unsafe {
        let all = libc::CLOSE_RANGE_CLOEXEC;
        check(
            Step::Descriptors,
            libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, all),
        )?;
        let filter = ptr::from_ref(&plan.filter);
        check(
            Step::Filter,
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, filter),
        )
    }
}

/// The interceptor's own steps; the parent answers with one byte when it has done its part.
fn additions(plan: &Plan<'_>) -> Result<(), Stopped> {
    let Some(extra) = plan.extra else {
        return Ok(());
    };
    let number = extra.in_child().map_err(|errno| (Step::Extra, errno))?;
    tell(plan.channel, Step::Waiting, number);
    let mut answer = 0_u8;
    // SAFETY: reads one byte into `answer`; retried while a signal interrupts it.
    let length = loop {
        let length = unsafe { libc::read(plan.channel, ptr::from_mut(&mut answer).cast(), 1) };
        if length >= 0 || errno() != libc::EINTR {
            break length;
        }
    };
    if length == 1 {
        Ok(())
    } else {
        Err((Step::Extra, libc::ECANCELED))
    }
}

/// Tries the paths as `execvp` does: goes on where there is no file, remembers a file that may not be executed.
fn execute(plan: &Plan<'_>) -> Stopped {
    let mut stopped = (Step::Program, libc::ENOENT);
    for path in plan.programs {
        // SAFETY: NUL-terminated strings and arrays that end with a null pointer, all in our memory.
        unsafe { libc::execve(path.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr()) };
        match errno() {
            libc::ENOENT if exists(path) => return (Step::Interpreter, libc::ENOENT),
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => stopped = (Step::Program, libc::EACCES),
            other => return (Step::Program, other),
        }
    }
    stopped
}

fn exists(path: &CStr) -> bool {
    // SAFETY: a NUL-terminated string.
    unsafe { libc::access(path.as_ptr(), libc::F_OK) == 0 }
}

/// Whatever the program executes later cannot have what is not in this set, root's programs included.
fn drop_bounding_set() -> Result<(), Stopped> {
    for capability in 0..64 {
        match control(Step::Capabilities, libc::PR_CAPBSET_DROP, capability) {
            Err((_, libc::EINVAL)) if capability > 0 => break, // the kernel's last one is behind us
            // Without CAP_SETPCAP we have none to give, and no_new_privs keeps it so; checked below for root.
            Err((_, libc::EPERM)) if !is_root() => break,
            other => other?,
        }
    }
    // Not on kernels before 4.3, which have no ambient set.
    control(
        Step::Capabilities,
        libc::PR_CAP_AMBIENT,
        c_ulong::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs()),
    )
}

fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Empties the effective, permitted and inheritable sets: `capset(2)`, version 3.
fn drop_capabilities() -> Result<(), Stopped> {
    let header = [0x2008_0522_u32, 0]; // _LINUX_CAPABILITY_VERSION_3, this thread
    let none = [0_u32; 6];
    // SAFETY: the layouts of `__user_cap_header_struct` and of two `__user_cap_data_struct`.
    check(Step::Capabilities, unsafe {
        libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr())
    })
}

/// Handlers of the parent are not ours; what it ignores stays ignored (`nohup`) but for the two that Python ignores.
fn reset_signals() -> Result<(), Stopped> {
    // SAFETY: `action` is a valid, zeroed sigaction (SIG_DFL); numbers that may not be set give EINVAL and stay.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        for number in 1..=64 {
            let kept = libc::sigaction(number, ptr::null(), &raw mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
                && number != libc::SIGPIPE
                && number != libc::SIGXFSZ;
            if !kept {
                let default: libc::sigaction = std::mem::zeroed();
                libc::sigaction(number, &raw const default, ptr::null_mut());
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(
            Step::Signals,
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()).into(),
        )
    }
}

fn control(step: Step, option: c_int, value: c_ulong) -> Result<(), Stopped> {
    let zero: c_ulong = 0;
    // SAFETY: the options used here take integers only.
    check(
        step,
        unsafe { libc::prctl(option, value, zero, zero, zero) }.into(),
    )
}

fn tell(channel: RawFd, step: Step, number: c_int) {
    let message = [(step as i32).to_ne_bytes(), number.to_ne_bytes()];
    // SAFETY: eight bytes of our own; if the parent is gone there is nobody to tell. The stream holds them at once.
    unsafe {
        libc::send(
            channel,
            message.as_ptr().cast(),
            size_of_val(&message),
            libc::MSG_NOSIGNAL,
        )
    };
}

fn check(step: Step, result: c_long) -> Result<(), Stopped> {
    if result == -1 {
        Err((step, errno()))
    } else {
        Ok(())
    }
}

pub(crate) fn errno() -> c_int {
    // SAFETY: the location of this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}
