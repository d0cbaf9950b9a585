//! Counters of a relay since its start.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// Counters that grow, and `live`.
        #[derive(Debug, Default)]
        pub struct Stats { $(pub $name: AtomicU64),* }

        /// The counters at one moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Snapshot { $($(#[doc = $doc])* pub $name: u64),* }

        impl Stats {
            /// Reads all counters.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Connections of the program to peers that were established.
    outbound,
    /// Connections of peers to the program that were established.
    inbound,
    /// Connections of clients outside of the session to the program that were established.
    outside,
    /// Statements that such clients were given.
    statements,
    /// Streams open now.
    live,
    /// Refusals by policy or identity.
    denied,
    /// Peers that could not be reached or did not listen.
    unreachable,
    /// Streams ended by a reset instead of in order.
    cut,
    /// Streams that went on in a new tunnel.
    resumed,
    /// Attempts at a new tunnel for a live stream that failed.
    resume_failures,
    /// Bytes of programs sent to peers.
    sent_bytes,
    /// Bytes of peers given to the program.
    received_bytes,
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
