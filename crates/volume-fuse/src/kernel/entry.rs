//! One entry of a queue of FUSE over `io_uring` (linux/fuse.h, `fuse_uring_req_header`): memory that the kernel and one
//! thread hand each other. The kernel puts a request there and completes our command; with the next command we give it
//! the answer, and the memory for the next request.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};

use crate::abi::{OP_HEADER_MAX, OUT_HEADER};

/// A signal, or a moment without memory: what was queued is queued still.
const TRANSIENT: [io::ErrorKind; 4] = [
    io::ErrorKind::Interrupted,
    io::ErrorKind::WouldBlock,
    io::ErrorKind::ResourceBusy,
    io::ErrorKind::OutOfMemory,
];

const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;

/// `fuse_uring_req_header`: a FUSE header (`in_out`), the header of the operation, and what concerns the entry.
#[repr(C, align(8))]
struct Headers {
    in_out: [u8; 128],
    operation: [u8; 128],
    flags: u64,
    commit_id: u64,
    payload_size: u32,
    _padding: u32,
    _reserved: u64,
}

/// `fuse_uring_cmd_req`, in the SQE's room for a command.
fn command(commit_id: u64, queue: u16) -> [u8; 80] {
    let mut bytes = [0; 80];
    let (_flags, rest) = bytes.split_at_mut(8);
    let (id, rest) = rest.split_at_mut(8);
    id.copy_from_slice(&commit_id.to_ne_bytes());
    rest.split_at_mut(2).0.copy_from_slice(&queue.to_ne_bytes());
    bytes
}

/// The parts of a request, copied or borrowed out of an entry that is ours.
pub(crate) struct Parts<'a> {
    /// Begins with `fuse_in_header`.
    pub(crate) head: &'a [u8],
    /// Begins with the header of the operation.
    pub(crate) operation: &'a [u8],
    /// Names and data, as many as the kernel says; the rest is what is left of it from before.
    pub(crate) payload: &'a mut [u8],
    /// Bytes of the payload that belong to the request, as the kernel says.
    pub(crate) payload_size: usize,
}

/// An entry with a ring of its own, used by the thread that made it.
pub(crate) struct Entry {
    ring: IoUring<Entry128, cqueue::Entry>,
    device: Arc<File>,
    queue: u16,
    /// Both are from `Box::into_raw`, and not freed while the kernel may write to them.
    headers: NonNull<Headers>,
    payload: NonNull<[u8]>,
    /// Whether a command is under way: the memory is the kernel's.
    lent: bool,
    /// Whether a request came with the registration.
    arrived: bool,
}

impl Entry {
    /// Makes a ring and memory for payloads of `size` bytes, which is mapped as it is used. Nothing is registered yet.
    ///
    /// # Errors
    /// The kernel's, which may not allow `io_uring` to this process.
    pub(crate) fn new(device: Arc<File>, queue: u16, size: usize) -> io::Result<Self> {
        let ring = IoUring::<Entry128, cqueue::Entry>::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(2)?;
        let headers = Box::new(Headers {
            in_out: [0; 128],
            operation: [0; 128],
            flags: 0,
            commit_id: 0,
            payload_size: 0,
            _padding: 0,
            _reserved: 0,
        });
        Ok(Self {
            ring,
            device,
            queue,
            headers: NonNull::from(Box::leak(headers)),
            payload: NonNull::from(Box::leak(vec![0; size].into_boxed_slice())),
            lent: false,
            arrived: false,
        })
    }

    /// Registers the entry with the queue. Its first request may be there at once: [`Entry::wait`].
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn register(&mut self) -> io::Result<()> {
        let areas = [
            libc::iovec {
                iov_base: self.headers.as_ptr().cast(),
                iov_len: size_of::<Headers>(),
            },
            libc::iovec {
                iov_base: self.payload.as_ptr().cast(),
                iov_len: self.payload.len(),
            },
        ];
        let mut entry = opcode::UringCmd80::new(types::Fd(self.device.as_raw_fd()), REGISTER)
            .cmd(command(0, self.queue))
            .addr(Some(areas.as_ptr() as u64))
            .build();
        // SAFETY: Entry128 is `repr(C)`, 128 bytes: an `io_uring_sqe`, whose field `len` is the u32 at byte 24. The crate has
        // no setter for it; the kernel takes it as the number of `areas`.
        unsafe { (&raw mut entry).cast::<u32>().add(6).write(2) };
        self.submit(&entry)?;
        self.ring.submit()?; // the kernel reads `areas` before it returns
        self.arrived = self.completed()?;
        Ok(())
    }

    /// Waits until a request is in the entry.
    ///
    /// # Errors
    /// The kernel's; ENOTCONN when the connection has ended.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        while !std::mem::take(&mut self.arrived) {
            match self.ring.submit_and_wait(1) {
                Ok(_) => self.arrived = self.completed()?,
                Err(error) if TRANSIENT.contains(&error.kind()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the command has brought a request.
    fn completed(&mut self) -> io::Result<bool> {
        let Some(done) = self.ring.completion().next() else {
            return Ok(false);
        };
        self.lent = false;
        match done.result() {
            0.. => Ok(true),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }

    /// The request that the entry holds.
    pub(crate) fn parts(&mut self) -> Option<Parts<'_>> {
        if self.lent {
            return None;
        }
        // SAFETY: both come from a Box that is not freed before `self`; no command is under way, so that the kernel does not
        // write; the borrow of `self` keeps it so, since a command needs `&mut self`.
        let (headers, payload) = unsafe { (self.headers.as_ref(), self.payload.as_mut()) };
        let payload_size = headers.payload_size as usize;
        Some(Parts {
            head: &headers.in_out,
            operation: headers.operation.get(..OP_HEADER_MAX)?,
            payload,
            payload_size,
        })
    }

    /// Gives the kernel the answer, of which `size` bytes of body are in the payload, and the entry for the next request.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn commit(&mut self, header: &[u8; OUT_HEADER], size: usize) -> io::Result<()> {
        if self.lent {
            return Err(io::Error::from(io::ErrorKind::ResourceBusy));
        }
        // SAFETY: as in `parts`.
        let headers = unsafe { self.headers.as_mut() };
        headers
            .in_out
            .split_at_mut(OUT_HEADER)
            .0
            .copy_from_slice(header);
        headers.payload_size = u32::try_from(size).unwrap_or(0);
        let next = opcode::UringCmd80::new(types::Fd(self.device.as_raw_fd()), COMMIT_AND_FETCH)
            .cmd(command(headers.commit_id, self.queue))
            .build();
        self.submit(&next)
    }

    /// Queues a command; the memory is the kernel's from now on.
    fn submit(&mut self, entry: &Entry128) -> io::Result<()> {
        self.lent = true;
        // SAFETY: what the command points at (`headers`, `payload`, by the registration) outlives the ring: see `Drop`.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)
    }
}

// SAFETY: `headers` and `payload` are memory that the entry owns like a Box; the ring is Send.
unsafe impl Send for Entry {}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.lent {
            return; // the kernel may still write: better lost than written to by somebody else's command
        }
        // SAFETY: both were leaked from a Box in `new`, nobody else has them, and no command is under way.
        unsafe {
            drop(Box::from_raw(self.headers.as_ptr()));
            drop(Box::from_raw(self.payload.as_ptr()));
        }
    }
}
