//! A second thread for large writes: while the one that was asked seals the first half and hands it to the store, this
//! one does the same with the second half. Who has done the first half and finds the second one untouched does that
//! also, so that no write waits for a thread that gets no processor.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use crate::error::VolumeError;
use crate::flush::Placed;
use crate::inode::Node;
use crate::segment::Lane;
use crate::volume::{Result, Volume};

/// Full chunks to be sealed.
pub(crate) struct Job {
    pub node: Arc<Node>,
    /// The size that the file will have.
    pub size: u64,
    /// Index of the first chunk.
    pub first: u64,
}

/// Chunks that are written, also when a later one failed.
pub(crate) type Done = (Vec<Placed>, Result<()>);

/// What happens to one job after the other; all but the thread is done by who gives the job.
enum State {
    /// Nothing; memory for the next job's chunks.
    Idle(Vec<u8>),
    Given(Job, Vec<u8>),
    Taken,
    Done(Done, Vec<u8>),
    /// There is no thread.
    Absent,
}

/// The thread, as seen by those who have work for it.
pub(crate) struct Sealer {
    state: Mutex<State>,
    changed: Condvar,
}

impl Sealer {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::Absent),
            changed: Condvar::new(),
        })
    }

    /// Starts the thread, which ends with [`Self::end`]. Where there can be none, writes are sealed by who makes them.
    pub(crate) fn start(self: &Arc<Self>, volume: Weak<Volume>) {
        *self.state.lock() = State::Idle(Vec::new());
        let sealer = Arc::clone(self);
        let thread = std::thread::Builder::new().name("volume-seal".to_owned());
        if thread.spawn(move || sealer.run(&volume)).is_err() {
            self.end();
        }
    }

    /// Ends the thread. No job may be under way.
    pub(crate) fn end(&self) {
        *self.state.lock() = State::Absent;
        self.changed.notify_all();
    }

    /// Gives the thread a job with a copy of its chunks, unless it is absent or has one. Then [`Self::take_back`].
    pub(crate) fn give(&self, job: Job, plain: &[u8]) -> bool {
        let mut state = self.state.lock();
        let State::Idle(memory) = &mut *state else {
            return false;
        };
        let mut copy = std::mem::take(memory);
        copy.clear();
        copy.extend_from_slice(plain);
        *state = State::Given(job, copy);
        drop(state);
        self.changed.notify_all();
        true
    }

    /// What became of the job that was given; `None` if it was not begun, and will not be.
    pub(crate) fn take_back(&self) -> Option<Done> {
        let mut state = self.state.lock();
        loop {
            match std::mem::replace(&mut *state, State::Taken) {
                State::Given(_, memory) => {
                    *state = State::Idle(memory);
                    return None;
                }
                State::Done(done, memory) => {
                    *state = State::Idle(memory);
                    return Some(done);
                }
                other => *state = other,
            }
            self.changed.wait(&mut state);
        }
    }

    fn run(&self, volume: &Weak<Volume>) {
        let mut state = self.state.lock();
        loop {
            match std::mem::replace(&mut *state, State::Taken) {
                State::Given(job, mut memory) => {
                    drop(state);
                    let done = perform(volume, &job, &mut memory);
                    drop(job);
                    state = self.state.lock();
                    *state = State::Done(done, memory);
                    self.changed.notify_all();
                }
                State::Absent => {
                    *state = State::Absent;
                    return;
                }
                other => *state = other,
            }
            self.changed.wait(&mut state);
        }
    }
}

/// Does the job. The volume is let go of before that is known: who gave the job still has it.
fn perform(volume: &Weak<Volume>, job: &Job, plain: &mut [u8]) -> Done {
    let mut placed = Vec::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let volume = volume.upgrade().ok_or_else(|| stopped("is gone"))?;
        volume.seal_chunks(
            &job.node,
            job.size,
            job.first,
            plain,
            Lane::Second,
            &mut placed,
        )
    }));
    (placed, outcome.unwrap_or_else(|_| Err(stopped("failed"))))
}

fn stopped(how: &str) -> VolumeError {
    VolumeError::Io(format!("the thread that seals half of a write {how}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ops::InodeRecord;
    use crate::types::{FileType, Protection};

    fn job() -> Job {
        let record = InodeRecord {
            ino: 7,
            file_id: [7; 16],
            kind: FileType::File,
            protection: Protection::Encrypted,
            mode: 0o600,
            uid: 0,
            gid: 0,
            nlink: 1,
            key_version: 0,
            chunk_log2: 12,
            device: 0,
            size: 0,
            atime: 0,
            mtime: 0,
            ctime: 0,
            xattrs: BTreeMap::new(),
            body: None,
        };
        Job {
            node: Arc::new(Node::from_record(record)),
            size: 4096,
            first: 0,
        }
    }

    #[test]
    fn a_job_that_was_not_begun_is_taken_back_and_another_can_be_given() {
        let sealer = Sealer::new();
        *sealer.state.lock() = State::Idle(Vec::new()); // as with a thread that gets no processor
        assert!(sealer.give(job(), b"chunk"));
        assert!(!sealer.give(job(), b"chunk"), "there is one job at a time");
        assert!(sealer.take_back().is_none());
        assert!(sealer.give(job(), b"chunk"));
    }

    #[test]
    fn a_job_is_refused_where_there_is_no_thread() {
        let sealer = Sealer::new();
        assert!(!sealer.give(job(), b"chunk"));
        sealer.start(Weak::new());
        assert!(sealer.give(job(), b"chunk"));
        if let Some((placed, outcome)) = sealer.take_back() {
            assert!(placed.is_empty());
            assert_eq!(outcome, Err(stopped("is gone")));
        }
        sealer.end();
        assert!(!sealer.give(job(), b"chunk"));
    }
}
