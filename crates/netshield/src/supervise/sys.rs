//! System calls that neither the standard library nor `rustix` has. `seccomp_unotify(2)`, `process_vm_readv(2)`.

#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use libc::{seccomp_notif, seccomp_notif_resp};

const SYNC_WAKE_UP: u64 = 1; // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, Linux 6.6
const TCP_STATE_CLOSE: u8 = 7; // net/tcp_states.h

/// One call of the program that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notification {
    pub(super) id: u64,
    /// Thread id in our pid namespace.
    pub(super) thread: u32,
    /// Number of the system call.
    pub(super) call: i64,
    /// Its arguments, unread.
    pub(super) args: [u64; 6],
}

/// What the program's call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// 0.
    Done,
    /// -1 with this errno.
    Errno(i32),
    /// The kernel executes the call itself. Only for what Landlock would stop if it were changed meanwhile.
    Continue,
}

/// The descriptor on which the kernel asks.
#[derive(Debug)]
pub(super) struct Listener(OwnedFd);

impl Listener {
    /// Asks for wake-ups on the caller's processor, where the kernel has them: they save a third of the time.
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        // SAFETY: the flags are passed by value; kernels before 6.6 answer EINVAL, and it works without.
        unsafe {
            let number = descriptor.as_raw_fd();
            libc::ioctl(number, libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP);
        }
        Self(descriptor)
    }

    /// For `poll`: readable when a call waits, hung up when no process has the filter any more.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }

    /// The next call; none when its thread was killed or interrupted before we came.
    pub(super) fn receive(&self) -> io::Result<Option<Notification>> {
        let mut buffer = [0_u64; 64]; // zeroed as the kernel demands, and room for fields of later kernels
        const { assert!(size_of::<seccomp_notif>() <= 512) }
        // SAFETY: the kernel writes one `struct seccomp_notif`, 80 bytes, at most 512 (checked when raised), of
        // which every bit pattern is valid; `buffer` is aligned for it.
        let notification = unsafe {
            let pointer = buffer.as_mut_ptr();
            if libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, pointer) != 0 {
                let error = io::Error::last_os_error();
                return match error.raw_os_error() {
                    Some(libc::ENOENT | libc::EINTR) => Ok(None),
                    _ => Err(error),
                };
            }
            ptr::read(pointer.cast::<seccomp_notif>())
        };
        Ok(Some(Notification {
            id: notification.id,
            thread: notification.pid,
            call: notification.data.nr.into(),
            args: notification.data.args,
        }))
    }

    /// Whether the call still waits: what was read from its thread before is then its thread's.
    pub(super) fn valid(&self, id: u64) -> bool {
        // SAFETY: the kernel reads one u64.
        unsafe {
            let pointer = ptr::from_ref(&id);
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
                pointer,
            ) == 0
        }
    }

    /// Ends the call. A thread that was killed meanwhile needs no answer.
    pub(super) fn answer(&self, id: u64, answer: Answer) {
        let (error, flags) = match answer {
            Answer::Done => (0, 0),
            Answer::Errno(errno) => (-errno, 0),
            Answer::Continue => (0, 1), // SECCOMP_USER_NOTIF_FLAG_CONTINUE
        };
        let mut response = seccomp_notif_resp {
            id,
            val: 0,
            error,
            flags,
        };
        // SAFETY: the kernel reads one `struct seccomp_notif_resp`.
        unsafe {
            let pointer = ptr::from_mut(&mut response);
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, pointer);
        }
    }
}

/// Whether the kernel's notifications fit [`Listener`]: `SECCOMP_GET_NOTIF_SIZES`.
pub(super) fn notifications_fit() -> io::Result<bool> {
    let mut sizes = libc::seccomp_notif_sizes {
        seccomp_notif: 0,
        seccomp_notif_resp: 0,
        seccomp_data: 0,
    };
    // SAFETY: the kernel writes one `struct seccomp_notif_sizes`.
    let done = unsafe {
        let pointer = ptr::from_mut(&mut sizes);
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_NOTIF_SIZES, 0, pointer)
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let response = usize::from(sizes.seccomp_notif_resp) == size_of::<seccomp_notif_resp>();
    Ok(sizes.seccomp_notif <= 512 && response)
}

/// Copies `into.len()` bytes at `address` out of another process, all or an errno.
pub(super) fn read_memory(thread: u32, address: u64, into: &mut [u8]) -> Result<(), i32> {
    let (Ok(pid), Ok(start)) = (i32::try_from(thread), usize::try_from(address)) else {
        return Err(libc::EFAULT);
    };
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let remote = libc::iovec {
        iov_base: ptr::without_provenance_mut(start),
        iov_len: into.len(),
    };
    // SAFETY: writes at most `into.len()` bytes into `into`; the other address is the other process's.
    let copied =
        unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    match usize::try_from(copied) {
        Ok(copied) if copied == into.len() => Ok(()),
        Ok(_) => Err(libc::EFAULT),
        Err(_) => Err(match io::Error::last_os_error().raw_os_error() {
            Some(libc::EPERM) => libc::EPERM,
            _ => libc::EFAULT,
        }),
    }
}

/// Lets the next `bind` to port 0 choose the address alone, and `connect` the port: `ip(7)`, `IP_BIND_ADDRESS_NO_PORT`.
/// Else 28,000 connections, those in TIME-WAIT included, would use up the ports.
pub(super) fn bind_address_without_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: the kernel reads one int.
    let done = unsafe {
        let (pointer, size) = (
            ptr::from_ref(&one).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>()),
        );
        let size = size.map_err(io::Error::other)?;
        let number = socket.as_raw_fd();
        libc::setsockopt(
            number,
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            pointer,
            size,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether a TCP socket is neither connected, connecting nor listening: the first byte of `struct tcp_info`.
pub(super) fn is_closed(socket: BorrowedFd<'_>) -> bool {
    let mut state = 0_u8;
    let mut size: libc::socklen_t = 1;
    // SAFETY: the kernel writes at most `size` bytes, and how many.
    let done = unsafe {
        let pointer = ptr::from_mut(&mut state).cast();
        let number = socket.as_raw_fd();
        libc::getsockopt(
            number,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            pointer,
            &raw mut size,
        )
    };
    done == 0 && state == TCP_STATE_CLOSE
}
