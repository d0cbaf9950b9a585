//! What waits for the anchor: with `strict` each rename, too; with `async` nothing for a while, and what that risks.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use securetf_volume::{
    Anchor, AnchorError, Freshness, Position, ROOT_INO, RenameFlags, Volume, VolumeError,
};
use support::history::{CHUNK, content, make, pattern};
use support::model::view;
use support::{
    Files, MemoryStore, Mood, TestAnchor, TestEnvironment, open, open_as, open_with, options,
};

fn rename(volume: &Volume, from: &str, to: &str) {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    volume
        .rename(ROOT_INO, from, ROOT_INO, to, RenameFlags::Replace)
        .unwrap();
}

fn fresh() -> (Arc<MemoryStore>, Arc<TestAnchor>) {
    (MemoryStore::new(Files::new()), TestAnchor::virgin())
}

#[test]
fn test_a_rename_to_a_new_name_is_anchored_when_it_returns_if_and_only_if_the_freshness_is_strict()
{
    for freshness in [Freshness::Strict, Freshness::Group, Freshness::Async] {
        let (store, anchor) = fresh();
        let volume = open_as(&store, &anchor, freshness).unwrap();
        make(&volume, "new.tmp", &pattern(1, 9000));
        rename(&volume, "new.tmp", "new");
        let reader = open(&store, &anchor, false).unwrap();
        let seen = view(&reader).unwrap();
        assert_eq!(
            seen.contains_key("new"),
            freshness == Freshness::Strict,
            "{freshness:?}"
        );
    }
}

#[test]
fn test_async_fsync_returns_without_the_anchor_and_the_next_writer_has_what_it_promised() {
    let (store, anchor) = fresh();
    let volume = open_as(&store, &anchor, Freshness::Async).unwrap();
    anchor.set(Mood::Silent);
    make(&volume, "promised", &pattern(1, 9000));
    volume.fsync(None).unwrap();
    make(&volume, "target", b"old");
    make(&volume, "target.tmp", &pattern(2, 9000));
    rename(&volume, "target.tmp", "target");
    anchor.set(Mood::Well);
    let reader = open(&store, &anchor, false).unwrap();
    assert_eq!(
        view(&reader).unwrap().len(),
        0,
        "a reader stops exactly at the anchor"
    );
    drop(volume); // killed
    let next = open(&store, &anchor, true).unwrap();
    assert_eq!(content(&next, "promised"), pattern(1, 9000));
    assert_eq!(content(&next, "target"), pattern(2, 9000));
    assert_eq!(next.check().unwrap(), []);
}

#[test]
fn test_async_sync_and_close_still_wait_for_the_anchor() {
    let (store, anchor) = fresh();
    let volume = open_as(&store, &anchor, Freshness::Async).unwrap();
    make(&volume, "a", b"1");
    anchor.set(Mood::Silent);
    for outcome in [volume.sync(None), volume.close()] {
        let unreachable = VolumeError::Anchor(AnchorError::Unreachable("no route".to_owned()));
        assert_eq!(outcome, Err(unreachable));
    }
    anchor.set(Mood::Well);
    volume.close().unwrap();
    let reader = open(&store, &anchor, false).unwrap();
    assert_eq!(content(&reader, "a"), b"1");
}

#[test]
fn test_async_fsync_waits_for_the_anchor_once_that_is_behind_for_longer_than_the_window() {
    let (store, anchor) = fresh();
    let mut options = options(Freshness::Async);
    options.anchor_window = Duration::from_millis(200);
    let volume = open_with(&store, &anchor, anchor.grant(true), options).unwrap();
    anchor.set(Mood::Silent);
    make(&volume, "within", b"1");
    volume.fsync(None).unwrap();
    make(&volume, "within too", b"2"); // a later commit does not begin the window anew
    volume.fsync(None).unwrap();
    std::thread::sleep(Duration::from_millis(250));
    make(&volume, "late", b"3");
    let error = volume.fsync(None).unwrap_err();
    assert!(
        matches!(error, VolumeError::Anchor(AnchorError::Unreachable(_))),
        "{error}"
    );
    assert_eq!(error.errno(), 5);
    anchor.set(Mood::Well);
    volume.fsync(None).unwrap();
    let reader = open(&store, &anchor, false).unwrap();
    assert_eq!(
        view(&reader).unwrap().len(),
        3,
        "it waited: all is anchored"
    );
    anchor.set(Mood::Silent);
    make(&volume, "again", b"4");
    volume.fsync(None).unwrap(); // a new window
}

#[test]
fn test_async_anchor_follows_without_being_asked() {
    let (store, anchor) = fresh();
    let mut options = options(Freshness::Async);
    options.commit_interval = Some(Duration::from_millis(20));
    let volume = open_with(&store, &anchor, anchor.grant(true), options).unwrap();
    anchor.set(Mood::Silent);
    make(&volume, "a", b"1");
    volume.fsync(None).unwrap();
    std::thread::sleep(Duration::from_millis(60)); // attempts that fail
    anchor.set(Mood::Well);
    let before = std::time::Instant::now();
    while open(&store, &anchor, false).is_ok_and(|reader| view(&reader).unwrap().is_empty()) {
        assert!(
            before.elapsed() < Duration::from_secs(20),
            "it never followed"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(volume.status().seq, anchor.position().0);
}

#[test]
fn test_async_lost_answers_and_more_commits_behind_them_are_found_out() {
    let (store, anchor) = fresh();
    let volume = open_as(&store, &anchor, Freshness::Async).unwrap();
    for round in 0..6 {
        anchor.set(Mood::AnswerLost);
        make(&volume, &format!("lost {round}"), b"1");
        assert!(volume.sync(None).is_err());
        make(&volume, &format!("behind {round}"), b"2");
        volume.fsync(None).unwrap();
        anchor.set(Mood::Well);
        volume.sync(None).unwrap();
        assert_eq!(
            (volume.status().seq, volume.status().root),
            anchor.position()
        );
    }
    assert_eq!(
        view(&open(&store, &anchor, false).unwrap()).unwrap().len(),
        12
    );
}

#[test]
fn test_async_rollback_is_refused_up_to_the_anchor_and_what_lies_beyond_is_the_window() {
    let (store, anchor) = fresh();
    let volume = open_as(&store, &anchor, Freshness::Async).unwrap();
    make(&volume, "first", &pattern(1, 9000));
    volume.sync(None).unwrap();
    let first = store.snapshot();
    make(&volume, "anchored", &pattern(2, 9000));
    volume.sync(None).unwrap();
    let anchored = store.snapshot();
    anchor.set(Mood::Silent);
    make(&volume, "in the window", &pattern(3, 9000));
    volume.fsync(None).unwrap();
    anchor.set(Mood::Well);
    drop(volume);
    for writable in [false, true] {
        let at = TestAnchor::at(9, anchor.position());
        let error = open(&MemoryStore::new(first.clone()), &at, writable)
            .err()
            .unwrap();
        assert!(matches!(error, VolumeError::Rollback { .. }), "{error}");
        // The documented risk: a host that crashes may take back what only its own storage has vouched for.
        let opened = open(&MemoryStore::new(anchored.clone()), &at, writable).unwrap();
        assert_eq!(
            view(&opened).unwrap().keys().collect::<Vec<_>>(),
            ["anchored", "first"]
        );
    }
    let next = open(&store, &anchor, true).unwrap();
    assert_eq!(content(&next, "in the window"), pattern(3, 9000));
}

/// Answers only when it is told to.
struct Held {
    inner: Arc<TestAnchor>,
    asked: Barrier,
    answer: Barrier,
    holding: AtomicBool,
}

impl Anchor for Held {
    fn advance(&self, epoch: u32, from: Position, to: Position) -> Result<(), AnchorError> {
        if self.holding.load(Ordering::SeqCst) {
            self.asked.wait();
            self.answer.wait();
        }
        self.inner.advance(epoch, from, to)
    }
}

#[test]
fn test_async_fsync_does_not_wait_for_an_advance_that_is_under_way_and_nothing_it_needs_goes() {
    let store = MemoryStore::new(Files::new());
    let anchor = Arc::new(Held {
        inner: TestAnchor::virgin(),
        asked: Barrier::new(2),
        answer: Barrier::new(2),
        holding: AtomicBool::new(false),
    });
    let mut options = options(Freshness::Async);
    options.snapshot_after = 1 << 10; // snapshots while the anchor is asked: older journals must stay
    let clock = Arc::new(TestEnvironment::default());
    let grant = anchor.inner.grant(true);
    let (held, asked) = (Arc::clone(&store), Arc::clone(&anchor));
    let volume = Volume::open_with(held, Some(asked), clock, grant, options).unwrap();
    let ino = make(&volume, "file", &pattern(1, 4 * CHUNK));
    volume.sync(None).unwrap();
    for round in 2..10_u8 {
        volume.write(ino, 0, &pattern(round, 4 * CHUNK)).unwrap();
        volume.fsync(None).unwrap();
        let expected = [pattern(round, 4 * CHUNK), pattern(round + 100, 4 * CHUNK)];
        anchor.holding.store(true, Ordering::SeqCst);
        std::thread::scope(|scope| {
            let follower = scope.spawn(|| volume.sync(None));
            anchor.asked.wait();
            anchor.holding.store(false, Ordering::SeqCst);
            for number in 0..6 {
                make(
                    &volume,
                    &format!("more {round} {number}"),
                    &pattern(number, 3000),
                );
                volume.write(ino, 0, &expected[1]).unwrap();
                volume.fsync(None).unwrap(); // would hang here if it waited
                reads_whole(&store, &anchor.inner);
            }
            anchor.answer.wait();
            follower.join().unwrap().unwrap();
        });
        let reader = reads_whole(&store, &anchor.inner);
        assert!(
            expected.contains(&content(&reader, "file")),
            "round {round}"
        );
    }
    volume.close().unwrap();
    assert_eq!(
        view(&reads_whole(&store, &anchor.inner)).unwrap().len(),
        1 + 8 * 6
    );
}

#[test]
fn test_strict_fsync_becomes_durable_while_the_advance_before_is_under_way_and_returns_only_once_anchored()
 {
    let store = MemoryStore::new(Files::new());
    let anchor = Arc::new(Held {
        inner: TestAnchor::virgin(),
        asked: Barrier::new(2),
        answer: Barrier::new(2),
        holding: AtomicBool::new(false),
    });
    let clock = Arc::new(TestEnvironment::default());
    let grant = anchor.inner.grant(true);
    let (held, asked) = (Arc::clone(&store), Arc::clone(&anchor));
    let volume =
        Volume::open_with(held, Some(asked), clock, grant, options(Freshness::Strict)).unwrap();
    make(&volume, "first", b"1");
    anchor.holding.store(true, Ordering::SeqCst);
    let returned = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| volume.fsync(None));
        anchor.asked.wait();
        make(&volume, "second", b"2");
        let second = scope.spawn(|| {
            volume.fsync(None).unwrap();
            returned.store(true, Ordering::SeqCst);
        });
        let before = std::time::Instant::now();
        loop {
            let at = TestAnchor::at(9, anchor.inner.position());
            let next = open(&MemoryStore::new(store.snapshot()), &at, true).unwrap();
            if view(&next).unwrap().contains_key("second") {
                break;
            }
            assert!(
                before.elapsed() < Duration::from_secs(60),
                "it waits for the advance before"
            );
        }
        assert!(!returned.load(Ordering::SeqCst), "not anchored yet");
        let reader = reads_whole(&store, &anchor.inner);
        assert_eq!(view(&reader).unwrap().len(), 0);
        anchor.holding.store(false, Ordering::SeqCst);
        anchor.answer.wait();
        first.join().unwrap().unwrap();
        second.join().unwrap();
    });
    assert_eq!(
        view(&reads_whole(&store, &anchor.inner)).unwrap().len(),
        2,
        "what returned is anchored"
    );
}

/// The anchored state is in the store as a whole.
fn reads_whole(store: &MemoryStore, anchor: &Arc<TestAnchor>) -> Arc<Volume> {
    let copy = MemoryStore::new(store.snapshot());
    let reader = open(&copy, anchor, false).unwrap();
    assert_eq!(reader.check().unwrap(), []);
    reader
}

/// Looks at the store before and after each advance.
struct Watched {
    inner: Arc<TestAnchor>,
    store: Arc<MemoryStore>,
    advances: AtomicU64,
    alone: Mutex<()>,
}

impl Anchor for Watched {
    fn advance(&self, epoch: u32, from: Position, to: Position) -> Result<(), AnchorError> {
        let _alone = self.alone.try_lock().expect("two advances at once");
        if from.0 > 0 {
            reads_whole(&self.store, &self.inner);
        }
        self.inner.advance(epoch, from, to)?;
        reads_whole(&self.store, &self.inner);
        self.advances.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn test_the_anchored_state_is_always_whole_beside_writers_with_every_freshness() {
    for freshness in [Freshness::Strict, Freshness::Group, Freshness::Async] {
        let store = MemoryStore::new(Files::new());
        let anchor = Arc::new(Watched {
            inner: TestAnchor::virgin(),
            store: Arc::clone(&store),
            advances: AtomicU64::new(0),
            alone: Mutex::default(),
        });
        let mut options = options(freshness);
        options.commit_interval = Some(Duration::from_millis(1));
        options.snapshot_after = 4 << 10;
        let clock = Arc::new(TestEnvironment::default());
        let grant = anchor.inner.grant(true);
        let (held, asked) = (Arc::clone(&store), Arc::clone(&anchor));
        let volume = Volume::open_with(held, Some(asked), clock, grant, options).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..3_u8 {
                let volume = &volume;
                scope.spawn(move || {
                    let ino = make(
                        volume,
                        &format!("file {thread}"),
                        &pattern(thread, 3 * CHUNK),
                    );
                    for round in 0..25_u8 {
                        volume.write(ino, 100, &pattern(round, 2 * CHUNK)).unwrap();
                        volume.fsync(Some(ino)).unwrap();
                        let temporary = format!("temporary {thread}");
                        make(volume, &temporary, &pattern(round, 2500));
                        rename(volume, &temporary, &format!("renamed {thread}"));
                    }
                });
            }
        });
        volume.close().unwrap();
        let reader = reads_whole(&store, &anchor.inner);
        assert_eq!(view(&reader).unwrap(), view(&volume).unwrap());
        assert!(anchor.advances.load(Ordering::SeqCst) > 1, "{freshness:?}");
    }
}
