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

/// A buffer that goes back to its core.
pub struct Buffer(Box<[u8]>);

impl Buffer {
    /// Takes a free large buffer or makes one; a small one where [`LARGE_OUT`] large ones are in use. What a program sends at
    /// once then also goes on at once: in pieces, each would wake everybody on the way.
    pub fn take() -> Self {
        POOL.with_borrow_mut(|pool| {
            Self(if pool.large_out < LARGE_OUT {
                pool.large_out += 1;
                let free = pool.large.pop();
                free.unwrap_or_else(|| zeros(STRIDE * RECORDS))
            } else {
                let free = pool.small.pop();
                free.unwrap_or_else(|| zeros(MAX_RECORD))
            })
        })
    }

    /// Records that it has place for.
    pub fn records(&self) -> usize {
        if self.is_large() { RECORDS } else { 1 }
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn is_large(&self) -> bool {
        self.0.len() > MAX_RECORD
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let is_large = self.is_large();
        let bytes = std::mem::take(&mut self.0);
        POOL.with_borrow_mut(|pool| {
            let (free, most) = if is_large {
                pool.large_out = pool.large_out.saturating_sub(1);
                (&mut pool.large, LARGE_KEPT)
            } else {
                (&mut pool.small, SMALL_KEPT)
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
    use super::{Buffer, LARGE_OUT, RECORDS};

    #[test]
    fn streams_that_hold_large_buffers_leave_small_ones_to_the_others_until_they_let_go() {
        let mut held: Vec<Buffer> = (0..LARGE_OUT).map(|_| Buffer::take()).collect();
        assert!(held.iter().all(|one| one.records() == RECORDS));
        assert_eq!(Buffer::take().records(), 1);
        held.pop();
        assert_eq!(Buffer::take().records(), RECORDS);
    }
}
