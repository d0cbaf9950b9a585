//! Buffers of one core. A stream holds one only while bytes are under way, so idle streams cost no buffers.

use std::cell::RefCell;

use super::record::{MAX_RECORD, STRIDE};

/// Records in a large buffer: 256 KiB of plaintext.
pub const RECORDS: usize = 16;
/// Kept for the next user, per size and core.
const KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<[Vec<Box<[u8]>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
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
    /// Takes a free buffer or makes one.
    pub fn take(size: Size) -> Self {
        let free = FREE.with_borrow_mut(|free| slot(free, size).pop());
        let bytes = match size {
            Size::Small => MAX_RECORD,
            Size::Large => STRIDE * RECORDS,
        };
        Self(
            free.unwrap_or_else(|| vec![0; bytes].into_boxed_slice()),
            size,
        )
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
        FREE.with_borrow_mut(|free| {
            let free = slot(free, size);
            if free.len() < KEPT {
                free.push(bytes);
            }
        });
    }
}

fn slot(free: &mut [Vec<Box<[u8]>>; 2], size: Size) -> &mut Vec<Box<[u8]>> {
    let [small, large] = free;
    match size {
        Size::Small => small,
        Size::Large => large,
    }
}
