//! Options of sockets that no crate sets or reads for us.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

const IPV6_TRANSPARENT: i32 = 75; // linux/in6.h

/// Lets a socket have foreign addresses at our end: `IP_TRANSPARENT` of its family; `ip(7)`.
pub(crate) fn set_transparent(socket: impl AsFd, v6: bool) -> io::Result<()> {
    if v6 {
        set(&socket, libc::IPPROTO_IPV6, IPV6_TRANSPARENT)
    } else {
        set(&socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT)
    }
}

/// `bind` to an address leaves the choice of the port to `connect`, which knows the other end.
pub(crate) fn choose_port_late(socket: impl AsFd) -> io::Result<()> {
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

/// What TCP waits for.
pub(crate) struct UnderWay {
    /// No segment, and no probe of a window.
    pub is_nothing: bool,
    /// Since the last acknowledgement that came.
    pub since_acknowledgement: Duration,
}

/// Reads `TCP_INFO`: `tcpi_probes`, `tcpi_unacked` and `tcpi_last_ack_recv` of `struct tcp_info`, linux/tcp.h. Probes of a
/// window also stand for segments that cannot even be sent, since the way to the peer is gone.
pub(crate) fn under_way(tcp: impl AsFd) -> io::Result<UnderWay> {
    let mut info = [0_u32; 15];
    let mut size = libc::socklen_t::try_from(size_of_val(&info)).unwrap_or_default();
    let descriptor = tcp.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `size` bytes, which is what `info` has; any bytes are a valid u32; the descriptor
    // is open while it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let [first, .., segments, _, _, _, _, _, _, _, milliseconds] = info;
    let [_, _, _, probes] = first.to_ne_bytes();
    Ok(UnderWay {
        is_nothing: segments == 0 && probes == 0,
        since_acknowledgement: Duration::from_millis(milliseconds.into()),
    })
}
