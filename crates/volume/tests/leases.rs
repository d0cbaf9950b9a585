//! Readers with a lease on an older state read on while the writer goes on, for so long and for so many bytes.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use securetf_volume::{Freshness, Ino, Volume, VolumeError};
use support::history::{make, pattern};
use support::{MemoryStore, TestAnchor, open, open_with, options};

const SIZE: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(3600);

struct Scene {
    store: Arc<MemoryStore>,
    anchor: Arc<TestAnchor>,
    writer: Arc<Volume>,
    ino: Ino,
}

fn writer(store: &Arc<MemoryStore>, anchor: &Arc<TestAnchor>, retain_bytes: u64) -> Arc<Volume> {
    let mut options = options(Freshness::Group);
    options.retain_bytes = retain_bytes;
    options.dirty_limit = 64 << 20; // so that only commits write
    open_with(store, anchor, anchor.grant(true), options).unwrap()
}

fn scene(retain_bytes: u64) -> Scene {
    let store = Arc::new(MemoryStore {
        room: Some(AtomicI64::new(i64::MAX)),
        ..MemoryStore::default()
    });
    let anchor = TestAnchor::virgin();
    let writer = writer(&store, &anchor, retain_bytes);
    let ino = make(&writer, "model", &pattern(0, SIZE));
    writer.sync(None).unwrap();
    Scene {
        store,
        anchor,
        writer,
        ino,
    }
}

impl Scene {
    fn lease(&self, time: Duration) {
        *self.anchor.leased.lock().unwrap() = time;
    }

    /// Writes the file anew, `times` times.
    fn go_on(&self, times: u64) {
        for seed in 1..=times as u8 {
            self.writer
                .write(self.ino, 0, &pattern(seed, SIZE))
                .unwrap();
            self.writer.sync(None).unwrap();
        }
        self.writer.compact(&mut |_| true).unwrap();
    }

    /// From now on the store grows by so many bytes.
    fn leave_room(&self, bytes: i64) {
        let room = self.store.room.as_ref().unwrap();
        room.store(bytes, Ordering::SeqCst);
    }

    fn newest(&self) -> Vec<u8> {
        let reader = open(&self.store, &self.anchor, false).unwrap();
        assert_eq!(reader.check().unwrap(), []);
        whole(&reader, self.ino).unwrap()
    }

    fn stored(&self) -> usize {
        let files = self.store.snapshot();
        let data = files.iter().filter(|(path, _)| path.starts_with("data/"));
        data.map(|(_, bytes)| bytes.len()).sum()
    }
}

fn whole(volume: &Volume, ino: Ino) -> Result<Vec<u8>, VolumeError> {
    let mut bytes = vec![0; SIZE];
    volume.read(ino, 0, &mut bytes).map(|_| bytes)
}

#[test]
fn test_a_reader_of_a_leased_state_reads_it_on_while_the_writer_writes_and_compacts() {
    let scene = scene(64 << 20);
    let reader = open(&scene.store, &scene.anchor, false).unwrap();
    scene.lease(LONG);
    scene.go_on(10);
    assert!(whole(&reader, scene.ino).unwrap() == pattern(0, SIZE));
    let newest = open(&scene.store, &scene.anchor, false).unwrap();
    assert!(whole(&newest, scene.ino).unwrap() == pattern(10, SIZE));
}

#[test]
fn test_without_a_lease_or_after_it_the_room_is_used_again_and_the_reader_is_told() {
    let scene = scene(64 << 20);
    let reader = open(&scene.store, &scene.anchor, false).unwrap();
    scene.lease(Duration::from_nanos(1)); // it has ended when the next commit looks
    scene.go_on(20);
    assert!(
        scene.stored() < 5 * SIZE,
        "{} bytes are stored",
        scene.stored()
    );
    let error = whole(&reader, scene.ino).unwrap_err();
    assert!(matches!(error, VolumeError::Integrity { .. }), "{error}");
}

#[test]
fn test_leases_that_never_end_keep_no_more_bytes_than_the_writer_allows() {
    let scene = scene(4 * SIZE as u64);
    scene.lease(LONG);
    scene.go_on(40);
    // As much as is allowed or lives, which includes what is kept; the live file; and one commit on its way.
    assert!(
        scene.stored() < 12 * SIZE,
        "{} bytes are stored",
        scene.stored()
    );
}

#[test]
fn test_a_writer_that_starts_anew_leaves_the_segments_of_leased_states_and_removes_them_later() {
    let scene = scene(64 << 20);
    let reader = open(&scene.store, &scene.anchor, false).unwrap();
    scene.lease(LONG);
    scene.go_on(1);
    scene.writer.close().unwrap();
    let Scene {
        store, anchor, ino, ..
    } = scene;
    let second = writer(&store, &anchor, 64 << 20);
    second.write(ino, 0, &pattern(7, SIZE)).unwrap();
    second.close().unwrap();
    drop(writer(&store, &anchor, 64 << 20));
    assert!(whole(&reader, ino).unwrap() == pattern(0, SIZE));
    *anchor.leased.lock().unwrap() = Duration::ZERO;
    drop(writer(&store, &anchor, 64 << 20));
    let error = whole(&reader, ino).unwrap_err();
    assert!(matches!(error, VolumeError::Integrity { .. }), "{error}");
}

/// Enough for the records of a commit, and not for the file.
const NARROW: i64 = 128 << 10;

#[test]
fn test_a_commit_that_finds_the_store_full_takes_the_room_of_leased_states_and_succeeds() {
    let scene = scene(64 << 20);
    scene.lease(LONG);
    scene.go_on(3);
    scene.leave_room(NARROW);
    for (number, piece) in pattern(9, SIZE).chunks(1000).enumerate() {
        let offset = number as u64 * 1000; // no whole chunk: all waits for the commit
        scene.writer.write(scene.ino, offset, piece).unwrap();
    }
    scene.writer.sync(None).unwrap();
    assert!(scene.newest() == pattern(9, SIZE));
}

#[test]
fn test_a_write_that_finds_the_store_full_succeeds_once_leases_were_ended_and_not_before() {
    let scene = scene(64 << 20);
    scene.lease(LONG);
    scene.go_on(3);
    scene.leave_room(NARROW);
    for _ in 0..2 {
        let outcome = scene.writer.write(scene.ino, 0, &pattern(9, SIZE));
        assert_eq!(outcome, Err(VolumeError::NoSpace));
    }
    scene.writer.end_leases();
    scene.writer.write(scene.ino, 0, &pattern(9, SIZE)).unwrap();
    scene.writer.sync(None).unwrap();
    assert!(scene.newest() == pattern(9, SIZE));
}

#[test]
fn test_a_store_that_is_full_without_leases_stays_full() {
    let scene = scene(64 << 20);
    scene.leave_room(NARROW);
    scene.writer.end_leases();
    let outcome = scene.writer.write(scene.ino, 0, &pattern(9, SIZE));
    assert_eq!(outcome, Err(VolumeError::NoSpace));
    assert!(scene.newest() == pattern(0, SIZE));
}
