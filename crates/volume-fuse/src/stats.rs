//! What a mount has served: counters for reports and for the alarm on damaged data.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How requests come from the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// By reads and writes of `/dev/fuse`.
    #[default]
    DevFuse,
    /// By queues of `io_uring`, one for each processor.
    IoUring,
}

impl Transport {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DevFuse => "dev_fuse",
            Self::IoUring => "io_uring",
        }
    }
}

/// Totals since the mount began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reads answered.
    pub reads: u64,
    /// Plaintext bytes read.
    pub bytes_read: u64,
    /// Writes answered.
    pub writes: u64,
    /// Plaintext bytes written.
    pub bytes_written: u64,
    /// Answers EBADMSG and EUCLEAN: stored bytes that did not authenticate.
    pub integrity_errors: u64,
    /// The last such finding in words; empty if none.
    pub last_integrity_error: String,
    /// Answers ESTALE: what a state that another one followed has lost, to the writer that goes on or to damage.
    pub stale_errors: u64,
    /// Why the read-ahead could not be raised; empty if it was.
    pub read_ahead_refused: String,
    /// How requests come from the kernel.
    pub transport: Transport,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    reads: AtomicU64,
    bytes_read: AtomicU64,
    writes: AtomicU64,
    bytes_written: AtomicU64,
    integrity_errors: AtomicU64,
    stale_errors: AtomicU64,
    words: Mutex<(String, String)>,
    over_io_uring: AtomicBool,
}

impl Counters {
    pub(crate) fn note_read(&self, bytes: usize) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn note_write(&self, bytes: usize) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.bytes_written
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn note_integrity(&self, problem: String) {
        self.integrity_errors.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut words) = self.words.lock() {
            words.0 = problem;
        }
    }

    pub(crate) fn note_stale(&self) {
        self.stale_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Another state is shown now: what was missing in the one before may be where the newer one was written.
    pub(crate) fn note_replaced(&self) {
        let missed = self.integrity_errors.swap(0, Ordering::Relaxed);
        self.stale_errors.fetch_add(missed, Ordering::Relaxed);
    }

    pub(crate) fn note_read_ahead(&self, error: &io::Error) {
        if let Ok(mut words) = self.words.lock() {
            words.1 = error.to_string();
        }
    }

    pub(crate) fn note_io_uring(&self) {
        self.over_io_uring.store(true, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Stats {
        let words = self
            .words
            .lock()
            .map(|words| words.clone())
            .unwrap_or_default();
        Stats {
            reads: self.reads.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
            integrity_errors: self.integrity_errors.load(Ordering::Relaxed),
            last_integrity_error: words.0,
            stale_errors: self.stale_errors.load(Ordering::Relaxed),
            read_ahead_refused: words.1,
            transport: if self.over_io_uring.load(Ordering::Relaxed) {
                Transport::IoUring
            } else {
                Transport::DevFuse
            },
        }
    }
}
