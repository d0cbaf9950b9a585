//! The system's clock, random generator and processors.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Pid;
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};
use volume::{Environment, Thread};

/// `CLOCK_REALTIME` and `getrandom(2)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn now(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    /// # Panics
    /// When the kernel's generator fails, which Linux never does once it is seeded: nothing can be made without it.
    fn random(&self, out: &mut [u8]) {
        let mut rest = out;
        while !rest.is_empty() {
            match getrandom(&mut *rest, GetRandomFlags::empty()) {
                Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("getrandom failed: {error}"),
            }
        }
    }

    /// `None` where it may run on one processor only.
    fn thread(&self) -> Option<Thread> {
        let ours = sched_getaffinity(None).ok()?;
        let processors: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|cpu| ours.is_set(*cpu))
            .collect();
        let id = gettid().as_raw_nonzero().get();
        (processors.len() > 1).then_some(Thread { id, processors })
    }

    /// A matter of speed: where it is not allowed, the thread runs where the kernel wakes it.
    fn elsewhere(&self, thread: &Thread) {
        let (mut others, here) = (CpuSet::new(), sched_getcpu());
        for cpu in thread.processors.iter().filter(|cpu| **cpu != here) {
            others.set(*cpu);
        }
        let _ = sched_setaffinity(Pid::from_raw(thread.id), &others);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_thread_that_was_sent_elsewhere_runs_on_any_processor_but_the_callers() {
        let (told, thread) = channel();
        let (ask, asked) = channel::<()>();
        let other = std::thread::spawn(move || {
            told.send(SystemEnvironment.thread()).unwrap();
            asked.recv().unwrap();
            sched_getaffinity(None).unwrap()
        });
        let Some(thread) = thread.recv().unwrap() else {
            assert_eq!(std::thread::available_parallelism().unwrap().get(), 1);
            return;
        };
        let one = *thread.processors.last().unwrap();
        let mut here = CpuSet::new();
        here.set(one);
        sched_setaffinity(None, &here).unwrap();
        SystemEnvironment.elsewhere(&thread);
        ask.send(()).unwrap();
        let allowed = other.join().unwrap();
        for cpu in &thread.processors {
            assert_eq!(allowed.is_set(*cpu), *cpu != one, "{cpu}");
        }
    }
}
