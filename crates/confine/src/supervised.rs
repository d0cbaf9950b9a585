//! What interceptor S adds to the start: Landlock, and the filter that asks a supervisor about `connect`, `bind` and
//! `listen`. `seccomp(2)`, `seccomp_unotify(2)`.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::Mutex;

use libc::{sock_filter, sock_fprog};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::bpf::{
    allow, architecture, argument, kill, notify, number, refuse, unless_equal, when_equal,
};
use crate::landlock::Ruleset;
use crate::spawn::Extra;
use crate::{ConfineError, filter};

const IP_OPTIONS: u32 = 4; // linux/in.h

/// Prepared for one start; hands out the descriptor on which the supervisor is asked.
///
/// The filter asks about three calls and no more: `sendmsg` would cost a notification per message. Beyond that it
/// refuses `IP_OPTIONS`, because a source route sends the packets of a loopback connection to another machine.
#[derive(Debug)]
pub struct Supervised {
    ruleset: Ruleset,
    filter: Vec<sock_filter>,
    listener: Mutex<Option<OwnedFd>>,
}

impl Supervised {
    /// Everything that needs memory, before the fork.
    ///
    /// # Errors
    /// [`ConfineError::Unfit`] when the kernel's Landlock cannot refuse TCP.
    pub fn prepare() -> Result<Self, ConfineError> {
        Ok(Self {
            ruleset: Ruleset::deny_tcp()?,
            filter: program(),
            listener: Mutex::new(None),
        })
    }

    /// In the child: no TCP from now on but what a supervisor does. One system call.
    ///
    /// # Errors
    /// An errno; without `no_new_privs`: `EPERM`.
    pub fn restrict(&self) -> Result<(), i32> {
        self.ruleset.restrict()
    }

    /// In the child: from now on a supervisor is asked. Returns the number of the child's descriptor.
    ///
    /// # Errors
    /// An errno; below another supervised program: `EBUSY`.
    pub fn install(&self) -> Result<i32, i32> {
        install(&self.filter)
    }

    /// The notification descriptor, once, after the start.
    #[must_use]
    pub fn take_listener(&self) -> Option<OwnedFd> {
        self.listener.lock().ok()?.take()
    }
}

impl Extra for Supervised {
    /// Landlock first: the notification filter is only safe above it. Returns the child's descriptor number.
    fn in_child(&self) -> Result<i32, i32> {
        self.restrict()?;
        self.install()
    }

    /// Not by `SCM_RIGHTS`: a filter that asks about `sendmsg` would wait for the supervisor that it creates.
    fn in_parent(&self, child: Pid, number: i32) -> io::Result<()> {
        let child = pidfd_open(child, PidfdFlags::empty())?;
        let listener = pidfd_getfd(&child, number, PidfdGetfdFlags::empty())?;
        let mut slot = self.listener.lock().map_err(|_| io::ErrorKind::Other)?;
        *slot = Some(listener);
        Ok(())
    }
}

/// The notification filter.
fn program() -> Vec<sock_filter> {
    let set_option = [
        argument(1),
        unless_equal(libc::IPPROTO_IP.unsigned_abs(), allow()),
        argument(2),
        when_equal(IP_OPTIONS, refuse(libc::EPERM)),
        allow(),
    ];
    let mut whole = architecture();
    whole.extend(unless_equal(filter::NATIVE, kill()));
    whole.extend(number());
    for call in [libc::SYS_connect, libc::SYS_bind, libc::SYS_listen] {
        whole.extend(when_equal(filter::bits(call), notify()));
    }
    whole.extend(when_equal(
        filter::bits(libc::SYS_setsockopt),
        set_option.concat(),
    ));
    whole.extend(allow());
    whole
}

/// Installs the filter in the calling thread; one system call, and one more for its errno.
///
/// `WAIT_KILLABLE_RECV` (Linux 5.19): once the supervisor has begun, only a fatal signal interrupts the program's
/// call. Without it a signal would make the program repeat a `connect` that was already done.
fn install(filter: &[sock_filter]) -> Result<i32, i32> {
    let program = sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| libc::E2BIG)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let flags =
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: the program and its instructions are valid for the call, which copies them.
    let made = unsafe {
        let pointer = ptr::from_ref(&program);
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            pointer,
        )
    };
    match i32::try_from(made) {
        Ok(number) if number >= 0 => Ok(number),
        _ => Err(crate::child::errno()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::bpf::decide;

    fn native(call: i64, args: [u64; 6]) -> u32 {
        decide(&program(), filter::bits(call), filter::NATIVE, args)
    }

    #[test]
    fn the_supervisor_is_asked_about_three_calls_only() {
        for call in [libc::SYS_connect, libc::SYS_bind, libc::SYS_listen] {
            assert_eq!(native(call, [0; 6]), libc::SECCOMP_RET_USER_NOTIF);
        }
        for call in [
            libc::SYS_sendmsg,
            libc::SYS_accept4,
            libc::SYS_close,
            libc::SYS_fcntl,
        ] {
            assert_eq!(native(call, [0; 6]), libc::SECCOMP_RET_ALLOW);
        }
    }

    #[test]
    fn source_routes_are_refused_and_other_options_are_not() {
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
        assert_eq!(native(libc::SYS_setsockopt, [3, 0, 4, 0, 0, 0]), refused);
        assert_eq!(
            native(libc::SYS_setsockopt, [3, 0, 1, 0, 0, 0]),
            libc::SECCOMP_RET_ALLOW
        );
        assert_eq!(
            native(libc::SYS_setsockopt, [3, 6, 4, 0, 0, 0]),
            libc::SECCOMP_RET_ALLOW
        );
    }

    #[test]
    fn foreign_architectures_are_killed() {
        let verdict = decide(&program(), 102, 0x4000_0003, [0; 6]);
        assert_eq!(verdict, libc::SECCOMP_RET_KILL_PROCESS);
    }
}
