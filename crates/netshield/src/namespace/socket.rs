//! Options of sockets that no crate sets for us.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

const IPV6_TRANSPARENT: i32 = 75; // linux/in6.h

/// Lets a socket have foreign addresses at our end: `IP_TRANSPARENT` of its family; `ip(7)`.
pub(super) fn set_transparent(socket: impl AsFd, v6: bool) -> io::Result<()> {
    if v6 {
        set(&socket, libc::IPPROTO_IPV6, IPV6_TRANSPARENT)
    } else {
        set(&socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT)
    }
}

/// `bind` to an address leaves the choice of the port to `connect`, which knows the other end.
pub(super) fn choose_port_late(socket: impl AsFd) -> io::Result<()> {
    set(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)
}

fn set(socket: &impl AsFd, level: i32, option: i32) -> io::Result<()> {
    let one: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&one)).unwrap_or_default();
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the option takes one int, which `one` is; the descriptor is open while it is borrowed.
    let result =
        unsafe { libc::setsockopt(descriptor, level, option, (&raw const one).cast(), size) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
