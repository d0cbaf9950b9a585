//! Landlock without a rule: no TCP bind, no TCP connect, whatever door a program finds; `landlock(7)`.
//!
//! It holds where the notification filter cannot: behind a `CONTINUE` whose descriptor was swapped, in `io_uring`,
//! and when nobody supervises any more. Not the crate `landlock`: two system calls, and the child may not allocate.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use crate::ConfineError;

const CREATE_RULESET_VERSION: u32 = 1; // LANDLOCK_CREATE_RULESET_VERSION
const ABI_NETWORK: i64 = 4; // Linux 6.7
const ABI_SCOPES: i64 = 6; // Linux 6.12
const BIND_TCP: u64 = 1; // LANDLOCK_ACCESS_NET_BIND_TCP
const CONNECT_TCP: u64 = 2;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;

/// `struct landlock_ruleset_attr`; kernels before ABI 6 know the first two fields.
#[repr(C)]
struct Attributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// An empty ruleset, made before the fork.
#[derive(Debug)]
pub(crate) struct Ruleset(OwnedFd);

impl Ruleset {
    /// Handles TCP, and from ABI 6 on keeps abstract sockets and signals among the program and its children.
    ///
    /// # Errors
    /// [`ConfineError::Unfit`] without Landlock of ABI 4 or newer.
    pub(crate) fn deny_tcp() -> Result<Self, ConfineError> {
        let abi = abi();
        if abi < ABI_NETWORK {
            return Err(ConfineError::unfit(
                format!("Landlock of this kernel has ABI {abi}, 4 or newer is needed"),
                "use Linux 6.7 or newer with `landlock` in its list of security modules, or interceptor `namespace`",
            ));
        }
        let attributes = Attributes {
            handled_access_fs: 0,
            handled_access_net: BIND_TCP | CONNECT_TCP,
            scoped: SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL,
        };
        let known = if abi < ABI_SCOPES { 16 } else { 24 };
        // SAFETY: `known` bytes of `attributes` are read; the kernel returns a new descriptor of ours or -1.
        unsafe {
            let pointer = ptr::from_ref(&attributes);
            let made = libc::syscall(libc::SYS_landlock_create_ruleset, pointer, known, 0_u32);
            match i32::try_from(made) {
                Ok(number) if number >= 0 => Ok(Self(OwnedFd::from_raw_fd(number))),
                _ => Err(ConfineError::unfit(
                    format!("no Landlock ruleset: {}", io::Error::last_os_error()),
                    "use interceptor `namespace`",
                )),
            }
        }
    }

    /// Confines the calling thread for ever; needs `no_new_privs`. One system call.
    pub(crate) fn restrict(&self) -> Result<(), i32> {
        // SAFETY: integers only.
        let done =
            unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.0.as_raw_fd(), 0_u32) };
        if done == 0 {
            Ok(())
        } else {
            Err(crate::child::errno())
        }
    }
}

/// ABI of the running kernel; 0 when Landlock is missing or switched off.
fn abi() -> i64 {
    let nothing = ptr::null::<Attributes>();
    // SAFETY: asks for a number; nothing is read or written.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            nothing,
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    abi.max(0)
}
