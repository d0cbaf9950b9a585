//! Whether the peer's machine still acknowledges what we send. While the peer sends, its heartbeats tell; after its
//! `close_notify` there are none, TCP's keepalive rests while bytes are under way, and `TCP_USER_TIMEOUT` would also end
//! connections whose reader merely pauses: that one's machine answers probes of its window, a vanished machine answers nothing.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::limits::Limits;

/// Returns once something has been under way for `limits.silence` without any acknowledgement; looks at every heartbeat.
pub async fn unanswered(tcp: &TcpStream, limits: Limits) {
    let mut answered = Instant::now();
    while answered.elapsed() < limits.silence {
        sleep(limits.heartbeat).await;
        // The kernel knows this of every open TCP socket; if it does not answer, nothing says that the peer lives.
        if under_way(tcp)
            .is_ok_and(|found| found.is_nothing || found.since_acknowledgement < limits.heartbeat)
        {
            answered = Instant::now();
        }
    }
}

struct UnderWay {
    /// No segment, and no probe of a window.
    is_nothing: bool,
    since_acknowledgement: Duration,
}

/// Reads `TCP_INFO`: `tcpi_probes`, `tcpi_unacked` and `tcpi_last_ack_recv` of `struct tcp_info`, linux/tcp.h. Probes of a
/// window also stand for segments that cannot even be sent, since the way to the peer is gone.
fn under_way(tcp: &TcpStream) -> io::Result<UnderWay> {
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
