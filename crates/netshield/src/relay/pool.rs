//! Buffers of one core. A stream holds one only while bytes are under way, so idle streams cost no buffers.

use std::cell::RefCell;

use super::record::{MAX_RECORD, STRIDE};

/// Records in a large buffer: 1 MiB of plaintext (decision 9).
pub const RECORDS: usize = 64;
/// Small ones kept for the next user, per core.
const SMALL_KEPT: usize = 8;
/// Large ones kept: of streams that go on, one at a time holds one.
const LARGE_KEPT: usize = 2;
/// Large ones of a core in use at once, most of them by streams whose reader does not read. Who comes later gets a small one.
const LARGE_OUT: usize = 32;

#[derive(Default)]
struct Pool {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    large_out: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// Small for messages, large for bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// One record.
    Small,
    /// [`RECORDS`] records.
    Large,
}

/// A buffer that goes back to its core.
pub struct Buffer(Box<[u8]>, Size);

impl Buffer {
    /// Takes a free buffer or makes one. It is small where [`LARGE_OUT`] large ones are in use.
    pub fn take(wanted: Size) -> Self {
        POOL.with_borrow_mut(|pool| {
            if wanted == Size::Large && pool.large_out < LARGE_OUT {
                pool.large_out += 1;
                let free = pool.large.pop();
                Self(free.unwrap_or_else(|| zeros(STRIDE * RECORDS)), Size::Large)
            } else {
                let free = pool.small.pop();
                Self(free.unwrap_or_else(|| zeros(MAX_RECORD)), Size::Small)
            }
        })
    }

    /// Its size.
    pub fn size(&self) -> Size {
        self.1
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let (bytes, size) = (std::mem::take(&mut self.0), self.1);
        POOL.with_borrow_mut(|pool| {
            let (free, most) = match size {
                Size::Small => (&mut pool.small, SMALL_KEPT),
                Size::Large => {
                    pool.large_out = pool.large_out.saturating_sub(1);
                    (&mut pool.large, LARGE_KEPT)
                }
            };
            if free.len() < most {
                free.push(bytes);
            }
        });
    }
}

fn zeros(bytes: usize) -> Box<[u8]> {
    vec![0; bytes].into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::{Buffer, LARGE_OUT, Size};

    #[test]
    fn streams_that_hold_large_buffers_leave_small_ones_to_the_others_until_they_let_go() {
        let mut held: Vec<Buffer> = (0..LARGE_OUT).map(|_| Buffer::take(Size::Large)).collect();
        assert!(held.iter().all(|one| one.size() == Size::Large));
        assert_eq!(Buffer::take(Size::Large).size(), Size::Small);
        held.pop();
        assert_eq!(Buffer::take(Size::Large).size(), Size::Large);
    }
}
