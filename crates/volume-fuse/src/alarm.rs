//! What happens when a connection cannot be served any more: it is aborted, so that requests fail with ENOTCONN and none
//! waits for an answer that nobody gives, and the reason is kept for who unmounts.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use nix::errno::Errno;

/// What the kernel says to a thread of a connection that has ended.
const ENDED: [Errno; 3] = [Errno::ENOTCONN, Errno::ECONNABORTED, Errno::ENODEV];

/// Aborts a connection.
pub(crate) type Abort = Box<dyn Fn() -> Result<(), Errno> + Send + Sync>;

/// Aborts one connection, once.
pub(crate) struct Alarm {
    abort: Abort,
    why: OnceLock<String>,
}

impl Alarm {
    pub(crate) fn new(abort: Abort) -> Self {
        let why = OnceLock::new();
        Self { abort, why }
    }

    /// Serves by `serve`, which must not end before the connection does.
    pub(crate) fn watch(&self, serve: impl FnOnce() -> io::Result<()>) {
        let panicked = |_| Err(io::Error::other("a thread that served it panicked"));
        match catch_unwind(AssertUnwindSafe(serve)).unwrap_or_else(panicked) {
            Err(error) if !ended(&error) => self.raise(&error),
            _ => {}
        }
    }

    /// The first error says why; others follow from the abort.
    fn raise(&self, error: &io::Error) {
        let mut aborts = false;
        self.why.get_or_init(|| {
            aborts = true;
            error.to_string()
        });
        if aborts {
            let _ = (self.abort)(); // EINVAL: unmounted meanwhile
        }
    }

    /// Why the connection was aborted; `None` if it was not.
    pub(crate) fn why(&self) -> Option<&str> {
        self.why.get().map(String::as_str)
    }
}

fn ended(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|number| ENDED.contains(&Errno::from_raw(number)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn counting() -> (Alarm, Arc<AtomicU32>) {
        let aborts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&aborts);
        let alarm = Alarm::new(Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }));
        (alarm, aborts)
    }

    #[test]
    fn an_unexpected_error_aborts_once_and_the_first_says_why() {
        let (alarm, aborts) = counting();
        alarm.watch(|| Err(Errno::EBADFD.into()));
        alarm.watch(|| Err(Errno::EIO.into()));
        assert_eq!(aborts.load(Ordering::Relaxed), 1);
        assert_eq!(
            alarm.why(),
            Some("File descriptor in bad state (os error 77)")
        );
    }

    #[test]
    fn a_panic_of_a_thread_that_serves_aborts() {
        let (alarm, aborts) = counting();
        alarm.watch(|| panic!("a fault of ours"));
        assert_eq!(aborts.load(Ordering::Relaxed), 1);
        assert_eq!(alarm.why(), Some("a thread that served it panicked"));
    }

    #[test]
    fn the_end_of_a_connection_is_no_alarm() {
        let (alarm, aborts) = counting();
        alarm.watch(|| Ok(()));
        for errno in ENDED {
            alarm.watch(|| Err(errno.into()));
        }
        assert_eq!(aborts.load(Ordering::Relaxed), 0);
        assert_eq!(alarm.why(), None);
    }
}
