//! Small files of a read-only mount, given to the kernel before it asks: one request of the kernel costs more than
//! decrypting several of them. Files that were packed together have neighbouring numbers and tend to be read together.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use volume::{FileType, Volume};

use crate::notify::Notifier;

/// Files of a block: neighbouring inode numbers.
const BLOCK: u64 = 64;
/// Reads in a block after which the rest of it is given: one alone says nothing about the next.
const READS: u8 = 2;
/// Largest file that is given unasked, in bytes.
const SMALL: u64 = 16 << 10;
/// Blocks that may wait.
const WAITING: usize = 256;

/// What the kernel knows and did with one block.
#[derive(Default)]
struct Block {
    /// Files that the kernel has an inode of; it takes no content for others.
    known: u64,
    reads: u8,
}

/// Watches reads and asks the thread for blocks.
pub(crate) struct Prefetch {
    blocks: Mutex<HashMap<u64, Block>>,
    queue: SyncSender<(u64, u64)>,
}

impl Prefetch {
    /// The watcher, and what [`serve`] needs.
    pub(crate) fn new() -> (Self, Receiver<(u64, u64)>) {
        let (queue, wanted) = sync_channel(WAITING);
        let blocks = Mutex::default();
        (Self { blocks, queue }, wanted)
    }

    /// The kernel has this inode from now on.
    pub(crate) fn known(&self, ino: u64) {
        self.with(ino, |block, bit| block.known |= bit);
    }

    /// The kernel dropped this inode.
    pub(crate) fn forgotten(&self, ino: u64) {
        self.with(ino, |block, bit| block.known &= !bit);
    }

    /// The kernel asked for content of this file.
    pub(crate) fn read(&self, ino: u64) {
        let due = self.with(ino, |block, bit| {
            block.reads = block.reads.saturating_add(1);
            (block.reads == READS).then_some(block.known & !bit)
        });
        if let Some(files) = due
            && self.queue.try_send((ino / BLOCK, files)).is_err()
        {
            self.with(ino, |block, _| block.reads = READS - 1); // the next read asks again
        }
    }

    fn with<T>(&self, ino: u64, change: impl FnOnce(&mut Block, u64) -> T) -> T {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        change(blocks.entry(ino / BLOCK).or_default(), 1 << (ino % BLOCK))
    }
}

/// Gives the small files of each wanted block, until the watcher is gone. Needs a thread of its own: the kernel may
/// hold a page that is being read, whose answer must come from another thread. What cannot be read is left out: who
/// asks for it gets the error.
pub(crate) fn serve(volume: &Arc<Volume>, notifier: &Notifier, wanted: &Receiver<(u64, u64)>) {
    let mut content = Vec::new();
    for (block, files) in wanted {
        for ino in (0..BLOCK)
            .filter(|bit| files >> bit & 1 == 1)
            .map(|bit| block * BLOCK + bit)
        {
            let Ok(attr) = volume.attr(ino) else { continue };
            if attr.kind != FileType::File || attr.size == 0 || attr.size > SMALL {
                continue;
            }
            content.resize(usize::try_from(attr.size).unwrap_or(0), 0);
            if volume.read(ino, 0, &mut content) == Ok(content.len()) {
                let _ = notifier.store(ino, &content); // the kernel may have dropped it meanwhile
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_read_asks_once_for_the_other_files_that_the_kernel_knows() {
        let (prefetch, wanted) = Prefetch::new();
        for ino in [64, 65, 70, 128] {
            prefetch.known(ino);
        }
        prefetch.forgotten(70);
        prefetch.read(65);
        assert!(wanted.try_recv().is_err(), "one read alone says nothing");
        prefetch.read(65);
        assert_eq!(wanted.try_recv(), Ok((1, 1)));
        prefetch.read(64);
        assert!(wanted.try_recv().is_err(), "a block is given once");
    }

    #[test]
    fn more_blocks_than_may_wait_never_block_a_read_and_are_asked_for_again() {
        let (prefetch, wanted) = Prefetch::new();
        for block in 0..1000 {
            prefetch.read(block * BLOCK);
            prefetch.read(block * BLOCK);
        }
        assert_eq!(wanted.try_iter().count(), WAITING);
        prefetch.read(999 * BLOCK);
        assert_eq!(wanted.try_iter().count(), 1);
    }
}
