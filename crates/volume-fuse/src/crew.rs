//! The threads of the classic transport. One that waits for the anchor reads no requests meanwhile, and another takes its
//! place: who reads never waits for who syncs, however many do and however long the anchor is away.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// As many read requests, whatever the others wait for: one may itself wait for what the kernel has to write (`sparse`).
const LEAST: usize = 2;

/// Threads beyond those that the mount began with: as many waits do not hold up others.
const HIRED_MAX: usize = 60;

/// Starts one thread that serves.
pub(crate) type Hire = Box<dyn Fn() -> io::Result<JoinHandle<()>> + Send + Sync>;

struct Terms {
    /// More readers than these only wake one another.
    most: usize,
    hire: Hire,
}

#[derive(Default)]
struct State {
    parked: usize,
    /// Of the parked threads, those that have been called and did not come yet: they count as reading.
    called: usize,
    ended: bool,
    hired: Vec<JoinHandle<()>>,
}

/// Who reads requests, who waits, who is spare.
#[derive(Default)]
pub(crate) struct Crew {
    /// Unset where each request has a thread of its own.
    terms: OnceLock<Terms>,
    /// Written under `state`.
    reading: AtomicUsize,
    state: Mutex<State>,
    calls: Condvar,
}

/// Puts a thread that waited among those that read, also when it panics.
struct Back<'a>(&'a Crew);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        let _state = self.0.state();
        self.0.reading.fetch_add(1, Ordering::Relaxed);
    }
}

impl Crew {
    /// From now on `threads` serve, and `hire` starts more.
    pub(crate) fn begin(&self, threads: usize, hire: Hire) {
        self.reading.store(threads, Ordering::Relaxed);
        let most = threads.max(LEAST);
        let _ = self.terms.set(Terms { most, hire });
    }

    /// Runs what may wait for the anchor, on a serving thread, while others read.
    pub(crate) fn beside<T>(&self, action: impl FnOnce() -> T) -> T {
        let Some(terms) = self.terms.get() else {
            return action();
        };
        self.replace_reader(terms);
        let _back = Back(self);
        action()
    }

    /// A thread less reads. A spare one, or a new one, takes its place where too few do. If no thread is to be had, fewer
    /// read until one comes back.
    fn replace_reader(&self, terms: &Terms) {
        let mut state = self.state();
        if self.reading.fetch_sub(1, Ordering::Relaxed) > LEAST {
            return;
        }
        if state.parked > state.called {
            state.called += 1;
            self.calls.notify_one();
        } else if state.hired.len() < HIRED_MAX && !state.ended {
            let Ok(thread) = (terms.hire)() else { return };
            state.hired.push(thread);
        } else {
            return;
        }
        self.reading.fetch_add(1, Ordering::Relaxed);
    }

    /// Between two requests of a serving thread: rests while enough others read. False: the connection has ended meanwhile.
    pub(crate) fn goes_on(&self) -> bool {
        let Some(terms) = self.terms.get() else {
            return true;
        };
        if self.reading.load(Ordering::Relaxed) <= terms.most {
            return true;
        }
        let mut state = self.state();
        if self.reading.load(Ordering::Relaxed) <= terms.most {
            return true;
        }
        self.reading.fetch_sub(1, Ordering::Relaxed);
        state.parked += 1;
        while state.called == 0 && !state.ended {
            state = self
                .calls
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.parked -= 1;
        state.called = state.called.saturating_sub(1);
        !state.ended
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection has ended: nobody rests any more.
    pub(crate) fn end(&self) {
        self.state().ended = true;
        self.calls.notify_all();
    }

    /// Waits until the hired threads are gone.
    pub(crate) fn join(&self) {
        loop {
            let Some(thread) = self.state().hired.pop() else {
                return;
            };
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;

    fn crew(hired: &Arc<AtomicUsize>) -> Crew {
        let crew = Crew::default();
        let counted = Arc::clone(hired);
        let hire = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(std::thread::spawn(|| ()))
        };
        crew.begin(4, Box::new(hire));
        crew
    }

    fn reading(crew: &Crew) -> usize {
        crew.reading.load(Ordering::Relaxed)
    }

    #[test]
    fn threads_that_wait_are_replaced_where_too_few_would_read() {
        let hired = Arc::new(AtomicUsize::new(0));
        let crew = crew(&hired);
        let (count, seen) = (Arc::clone(&hired), |crew: &Crew| {
            (reading(crew), hired.load(Ordering::Relaxed))
        });
        let inner = || crew.beside(|| crew.beside(|| seen(&crew)));
        assert_eq!(crew.beside(|| seen(&crew)), (3, 0));
        assert_eq!(crew.beside(|| crew.beside(|| seen(&crew))), (2, 0));
        assert_eq!(crew.beside(inner), (2, 1));
        assert_eq!((reading(&crew), count.load(Ordering::Relaxed)), (5, 1));
    }

    #[test]
    fn no_more_threads_than_agreed_are_hired_and_the_action_runs_all_the_same() {
        fn deep(crew: &Crew, depth: usize) -> usize {
            match depth {
                0 => crew.state().hired.len(),
                _ => crew.beside(|| deep(crew, depth - 1)),
            }
        }
        let crew = crew(&Arc::default());
        assert_eq!(deep(&crew, 3 + HIRED_MAX), HIRED_MAX);
        crew.join();
        assert!(crew.state().hired.is_empty());
    }

    #[test]
    fn spare_thread_rests_until_it_is_called_and_ends_with_the_connection() {
        let hired = Arc::default();
        let crew = Arc::new(crew(&hired));
        crew.beside(|| crew.beside(|| crew.beside(|| ()))); // five read now: one is spare
        let resting = Arc::clone(&crew);
        let (said, heard) = channel();
        let spare = std::thread::spawn(move || {
            while resting.goes_on() {
                said.send(()).unwrap_or_default();
                while reading(&resting) <= 4 && !resting.state().ended {
                    std::thread::yield_now();
                }
            }
        });
        while crew.state().parked == 0 {
            std::thread::yield_now();
        }
        assert_eq!(reading(&crew), 4);
        crew.beside(|| crew.beside(|| crew.beside(|| heard.recv())))
            .expect("the spare thread came");
        assert_eq!(hired.load(Ordering::Relaxed), 1); // not another one
        crew.end();
        spare.join().expect("it ended");
    }

    #[test]
    fn where_each_request_has_a_thread_nothing_is_counted() {
        let crew = Crew::default();
        assert_eq!(crew.beside(|| reading(&crew)), 0);
        assert!(crew.goes_on());
    }
}
