//! What was done so far, and whether to go on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How often the caller's observer is called while work is under way.
const INTERVAL: Duration = Duration::from_millis(200);

/// What went into a volume, or came out of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Regular files.
    pub files: u64,
    /// Directories, the root not counted.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Further names of files that were counted already.
    pub hard_links: u64,
    /// FIFOs and names of sockets.
    pub specials: u64,
    /// Bytes of contents that were copied.
    pub bytes: u64,
    /// Files whose contents were there already.
    pub kept: u64,
}

/// Called with (files, bytes) a few times per second on the calling thread; `false` stops the work.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

#[derive(Default)]
pub(crate) struct Meter {
    files: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
    working: AtomicU64,
}

impl Meter {
    pub(crate) fn add_file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Runs `count` workers and, on the calling thread, the observer until all have ended.
    pub(crate) fn watch(&self, count: usize, work: &(dyn Fn() + Sync), observe: Progress<'_>) {
        self.working.store(count as u64, Ordering::SeqCst);
        let observer = std::thread::current();
        std::thread::scope(|scope| {
            for _ in 0..count {
                let observer = observer.clone();
                scope.spawn(move || {
                    let _leaving = Leaving {
                        meter: self,
                        observer,
                    };
                    work();
                });
            }
            while self.working.load(Ordering::SeqCst) > 0 {
                std::thread::park_timeout(INTERVAL);
                if !observe(self.files(), self.bytes()) {
                    self.stop();
                }
            }
        });
    }
}

/// Counts a worker out, also when it panics.
struct Leaving<'a> {
    meter: &'a Meter,
    observer: std::thread::Thread,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.meter.working.fetch_sub(1, Ordering::SeqCst);
        self.observer.unpark();
    }
}
