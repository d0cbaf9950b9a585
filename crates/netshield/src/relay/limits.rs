//! Times and counts that bound what others can make the relay wait for or keep.

use std::time::Duration;

/// The defaults are those of `docs/formats/tunnel-v1.md`; tests use shorter ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// TCP connection to a peer or to the program.
    pub dial: Duration,
    /// TLS handshake, first frame, answer: each.
    pub handshake: Duration,
    /// A direction that has nothing to send sends an empty record this often.
    pub heartbeat: Duration,
    /// A tunnel on which nothing came for this long is dead.
    pub silence: Duration,
    /// Handshakes of peers under way at once.
    pub handshakes: usize,
    /// Streams at once.
    pub streams: u64,
    /// Records under one key before it is updated; RFC 8446 section 5.5 allows 2^24.5 full ones for AES-GCM.
    pub records_per_key: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            heartbeat: Duration::from_secs(6),
            silence: Duration::from_secs(20),
            handshakes: 1024,
            streams: 16_384,
            records_per_key: 1 << 23,
        }
    }
}
