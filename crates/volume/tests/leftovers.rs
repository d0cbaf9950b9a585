//! What a writer removes when it takes a volume over: what others of its kind left, and nothing else.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use securetf_volume::{
    Anchor, AnchorError, Freshness, Position, ROOT_INO, Store, Volume, VolumeError,
};
use support::history::{content, make};
use support::{MemoryStore, TestAnchor, TestEnvironment, open, options};

#[test]
fn test_objects_of_others_stay_and_leftovers_of_older_epochs_go() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    open(&store, &anchor, true).unwrap().close().unwrap();
    let others = [
        "data/train/cat.png",
        "data/00000001/cat.png",
        "data/00000001/1",
        "metadata/notes.txt",
        "metadata/journal-1-1",
        "elsewhere/file",
    ];
    let left = [
        "data/00000001/00000077",
        "metadata/journal-00000001-00000009",
        "metadata/snapshot-0000000000000000",
    ];
    for path in others.iter().chain(&left) {
        store.write_at(path, 0, b"x").unwrap();
    }
    open(&store, &anchor, true).unwrap().close().unwrap();
    let held = store.snapshot();
    assert_eq!(others.map(|path| held.contains_key(path)), [true; 6]);
    assert_eq!(left.map(|path| held.contains_key(path)), [false; 3]);
}

/// Lets another writer take the volume over before the first advance returns.
struct Overtaking {
    store: Arc<MemoryStore>,
    anchor: Arc<TestAnchor>,
    done: AtomicBool,
}

impl Anchor for Overtaking {
    fn advance(&self, epoch: u32, from: Position, to: Position) -> Result<(), AnchorError> {
        self.anchor.advance(epoch, from, to)?;
        if !self.done.swap(true, Ordering::SeqCst) {
            let newer = open(&self.store, &self.anchor, true).unwrap();
            make(&newer, "newer", &[7; 90]);
            make(&newer, "large", &[8; 9000]);
            newer.close().unwrap();
        }
        Ok(())
    }
}

#[test]
fn test_writer_that_was_overtaken_while_it_opened_removes_nothing_of_the_newer_one() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let overtaking = Arc::new(Overtaking {
        store: Arc::clone(&store),
        anchor: Arc::clone(&anchor),
        done: AtomicBool::new(false),
    });
    let held = Arc::clone(&store) as Arc<dyn Store>;
    let clock = Arc::new(TestEnvironment::default());
    let (grant, options) = (anchor.grant(true), options(Freshness::Group));
    let older = Volume::open_with(held, Some(overtaking), clock, grant, options).unwrap();
    make(&older, "older", b"too late");
    assert_eq!(older.sync(None), Err(VolumeError::LeaseLost));
    let reader = open(&store, &anchor, false).unwrap();
    assert_eq!(content(&reader, "newer"), [7; 90]);
    assert_eq!(reader.check().unwrap(), []);
    assert_eq!(
        reader.lookup(ROOT_INO, b"older").err(),
        Some(VolumeError::NotFound)
    );
}
