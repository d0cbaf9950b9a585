//! Whether the peer's machine still acknowledges what we send. While the peer sends, its heartbeats tell; after its
//! `close_notify` there are none, TCP's keepalive rests while bytes are under way, and `TCP_USER_TIMEOUT` would also end
//! connections whose reader merely pauses: that one's machine answers probes of its window, a vanished machine answers nothing.

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::limits::Limits;
use crate::socket::under_way;

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
