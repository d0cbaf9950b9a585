//! The transport over `io_uring`: the kernel has one queue of requests for each processor, and hands a request to one of
//! the entries that are registered with its queue. Each entry has a thread, which may wait for as long as it likes while
//! the others go on. INIT, FORGET and INTERRUPT stay with `/dev/fuse`.
//!
//! That is quick for small requests: no processor has to wake another one. Large ones go to workers that may run anywhere.

use std::fs::{self, File};
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::abi::{self, Fields, Malformed, OUT_HEADER};
use crate::alarm::Alarm;
use crate::device::MAX_REQUEST;
use crate::kernel::entry::Entry;
use crate::message::{Head, Request};
use crate::reply::{Body, out_header};
use crate::service::Server;

const POSSIBLE: &str = "/sys/devices/system/cpu/possible";

/// Machines with more processors use `/dev/fuse`: every possible one needs a queue with threads, also one that is not there.
const PROCESSORS_MAX: usize = 128;
/// Entries in all, as far as each queue of a processor that we may use has between these. An entry is a thread, a
/// descriptor, and memory for the largest request, which is mapped when one comes.
const ENTRIES: usize = 32;
const DEPTH: std::ops::RangeInclusive<usize> = 4..=16;
/// Entries of any other queue.
pub(crate) const DEPTH_MIN: usize = 2;
/// Workers, and the bytes of a request that is for them: it is worth waking a processor that has nothing to do.
const WORKERS_MAX: usize = 16;
const LARGE: usize = 64 << 10;

/// Entries that are ready to be registered, each on a thread of its own.
pub(crate) struct Queues {
    threads: Vec<(Sender<Start>, JoinHandle<()>)>,
    registered: Receiver<io::Result<()>>,
}

impl Queues {
    /// Makes rings and threads for `device`.
    ///
    /// # Errors
    /// Why `io_uring` cannot be used here.
    pub(crate) fn prepare(device: &Arc<File>) -> io::Result<Self> {
        let count = processors(&fs::read_to_string(POSSIBLE)?).ok_or_else(unusual)?;
        let ours = sched_getaffinity(Pid::from_raw(0))?;
        let is_ours = |queue: &usize| ours.is_set(*queue).unwrap_or(false);
        let used = (0..count).filter(is_ours).count().max(1);
        let depth = (ENTRIES / used).clamp(*DEPTH.start(), *DEPTH.end());
        let (ready, readiness) = channel();
        let (report, registered) = channel();
        let mut threads = Vec::new();
        let (pool, large) = channel();
        let large = Arc::new(Mutex::new(large));
        for number in 0..used.min(WORKERS_MAX) {
            let large = Arc::clone(&large);
            std::thread::Builder::new()
                .name(format!("securetf-large-{number}"))
                .spawn(move || work(&large))?;
        }
        for queue in 0..count {
            for _ in 0..if is_ours(&queue) { depth } else { DEPTH_MIN } {
                let (start, started) = channel();
                let ends = Ends {
                    ready: ready.clone(),
                    started,
                    registered: report.clone(),
                    pool: pool.clone(),
                };
                let device = Arc::clone(device);
                let number = u16::try_from(queue).map_err(|_| unusual())?;
                let thread = std::thread::Builder::new()
                    .name(format!("securetf-uring-{queue}"))
                    .spawn(move || run(device, number, ends))?;
                threads.push((start, thread));
            }
        }
        drop((ready, report)); // a thread that ends without a word is then noticed
        for _ in &threads {
            readiness.recv().map_err(io::Error::other)??;
        }
        Ok(Self {
            threads,
            registered,
        })
    }

    /// Registers the entries, after INIT, and serves. The threads end with the connection.
    ///
    /// # Errors
    /// The kernel's refusal of an entry: the connection cannot be used.
    pub(crate) fn start(
        self,
        server: &Arc<Server>,
        alarm: &Arc<Alarm>,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        for (start, _) in &self.threads {
            let word = (Arc::clone(server), Arc::clone(alarm));
            start.send(word).map_err(io::Error::other)?;
        }
        for _ in &self.threads {
            self.registered.recv().map_err(io::Error::other)??;
        }
        Ok(self.threads.into_iter().map(|(_, thread)| thread).collect())
    }
}

/// The word that a thread waits for: what it serves, and whom it tells when it cannot.
type Start = (Arc<Server>, Arc<Alarm>);

/// What a thread has besides its entry.
struct Ends {
    ready: Sender<io::Result<()>>,
    started: Receiver<Start>,
    registered: Sender<io::Result<()>>,
    pool: Sender<Large>,
}

/// The life of one thread: makes its entry, says so, waits for the word, registers, says so, serves.
fn run(device: Arc<File>, queue: u16, ends: Ends) {
    let Ends {
        ready,
        started,
        registered,
        pool,
    } = ends;
    let mut entry = match Entry::new(device, queue, MAX_REQUEST as usize) {
        Ok(entry) => entry,
        Err(error) => return drop(ready.send(Err(error))),
    };
    // The kernel hands a request to the queue of the processor where it was made: answered there, it wakes no other one.
    let mut here = CpuSet::new();
    let _ = here
        .set(usize::from(queue))
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &here));
    if ready.send(Ok(())).is_err() {
        return;
    }
    let Ok((server, alarm)) = started.recv() else {
        return;
    };
    let outcome = entry.register();
    let refused = outcome.is_err();
    if registered.send(outcome).is_err() || refused {
        return;
    }
    alarm.watch(|| go_on(entry, &server, &pool));
}

/// Serves until the connection ends.
///
/// # Errors
/// What the kernel says then, or why it cannot go on.
fn go_on(mut entry: Entry, server: &Arc<Server>, pool: &Sender<Large>) -> io::Result<()> {
    let mut names = Vec::new();
    loop {
        entry.wait()?;
        let answered = if large(&mut entry) {
            let (back, done) = channel();
            let large = Large {
                entry,
                server: Arc::clone(server),
                back,
            };
            pool.send(large).map_err(|_| lost())?;
            let (given, answered) = done.recv().map_err(|_| lost())?;
            entry = given;
            answered
        } else {
            serve(&mut entry, server, &mut names)
        };
        let (header, size) = answered?;
        entry.commit(&header, size)?;
    }
}

/// Whether the request that the entry holds moves many bytes.
fn large(entry: &mut Entry) -> bool {
    let Some(parts) = entry.parts() else {
        return false;
    };
    match Head::parse(parts.head).map(|head| head.opcode) {
        Ok(abi::WRITE) => parts.payload_size >= LARGE,
        Ok(abi::READ) => wanted(parts.operation).is_ok_and(|size| size >= LARGE),
        _ => false,
    }
}

/// `fuse_read_in.size`.
fn wanted(operation: &[u8]) -> Result<usize, Malformed> {
    let mut fields = Fields::new(operation);
    let (_handle, _offset) = (fields.u64()?, fields.u64()?);
    Ok(fields.u32()? as usize)
}

/// The header of an answer, and the bytes of its body, which are in the entry.
type Answered = io::Result<([u8; OUT_HEADER], usize)>;

/// An entry with a large request, which may be answered on any processor.
struct Large {
    entry: Entry,
    server: Arc<Server>,
    back: Sender<(Entry, Answered)>,
}

/// Answers large requests, until nobody has any.
fn work(pool: &Mutex<Receiver<Large>>) {
    let mut names = Vec::new();
    loop {
        let next = pool.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Large {
            mut entry,
            server,
            back,
        }) = next
        else {
            return;
        };
        let answered = serve(&mut entry, &server, &mut names);
        drop(server);
        let _ = back.send((entry, answered));
    }
}

/// Answers the request that the entry holds. The answer is written where the request stands: what is small is copied
/// out of the way to `names`, and data to write is used up before the answer is written.
fn serve(entry: &mut Entry, server: &Server, names: &mut Vec<u8>) -> Answered {
    let parts = entry.parts().ok_or_else(unusual)?;
    let head = Head::parse(parts.head).map_err(|_| unusual())?;
    let outcome = match parts.payload.get_mut(..parts.payload_size) {
        None => Err(Errno::EIO),
        Some(data) if head.opcode == abi::WRITE => {
            let mut small = [0; 16];
            let outcome = answer(server, head, parts.operation, data, &mut small);
            if let Some(place) = parts.payload.first_chunk_mut() {
                *place = small;
            }
            outcome
        }
        Some(data) => {
            names.clear();
            names.extend_from_slice(data);
            answer(server, head, parts.operation, names, parts.payload)
        }
    };
    Ok((out_header(head.unique, outcome), outcome.unwrap_or(0)))
}

fn answer(
    server: &Server,
    head: Head,
    operation: &[u8],
    payload: &mut [u8],
    out: &mut [u8],
) -> Result<usize, Errno> {
    let request = Request::of_parts(head, operation, payload).map_err(|_| Errno::EIO)?;
    let outcome = server.answer(request, &mut Body::new(out));
    outcome.unwrap_or(Ok(0)) // of what wants no answer the entry still has to be given back
}

/// A worker has ended, which only a fault of ours does.
fn lost() -> io::Error {
    io::Error::other("a thread for large requests panicked")
}

fn unusual() -> io::Error {
    io::Error::from(io::ErrorKind::Unsupported)
}

/// How many processors a list of the kernel has, as `0-3,8`; `None` for more than are served.
fn processors(ranges: &str) -> Option<usize> {
    let mut count = 0_usize;
    for range in ranges.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    (count <= PROCESSORS_MAX).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::processors;

    #[test]
    fn processors_are_counted_as_the_kernel_lists_them() {
        assert_eq!(processors("0-1\n"), Some(2));
        assert_eq!(processors("0\n"), Some(1));
        assert_eq!(processors("0-3,8-11,15\n"), Some(9));
        assert_eq!(processors("0-127\n"), Some(128));
        assert_eq!(processors("0-128\n"), None);
        assert_eq!(processors("3-1\n"), None);
        assert_eq!(processors(""), None);
    }
}
