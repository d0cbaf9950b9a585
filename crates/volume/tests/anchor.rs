//! What a program sees when the anchor or the store fails, and what is safe afterwards.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Barrier};

use securetf_volume::{AnchorError, Ino, NodeKind, ROOT_INO, RenameFlags, VolumeError};
use support::history::{content, make};
use support::model::{read_all, view};
use support::{Event, MemoryStore, Mood, TestAnchor, open};

#[test]
fn test_a_zombie_writer_stops_for_good_when_a_newer_one_was_let_in() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let zombie = open(&store, &anchor, true).unwrap();
    make(&zombie, "shared", &[1; 9000]);
    zombie.sync(None).unwrap();
    let newer = open(&store, &anchor, true).unwrap();
    make(&newer, "mine", &[2; 9000]);
    newer.sync(None).unwrap();
    make(&zombie, "late", &[3; 9000]);
    assert_eq!(zombie.sync(None), Err(VolumeError::LeaseLost));
    assert_eq!(zombie.write(2, 0, b"x"), Err(VolumeError::LeaseLost));
    newer.close().unwrap();
    let reader = open(&store, &anchor, false).unwrap();
    assert_eq!(
        view(&reader).unwrap().keys().collect::<Vec<_>>(),
        ["mine", "shared"]
    );
    assert_eq!(reader.check().unwrap(), []);
}

#[test]
fn test_a_zombie_that_goes_on_writing_its_journal_raises_no_alarm_when_the_newer_state_is_opened() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let zombie = open(&store, &anchor, true).unwrap();
    make(&zombie, "base", &[1; 9000]);
    zombie.sync(None).unwrap();
    let before = store.snapshot();
    make(&zombie, "branch", &[2; 9000]);
    anchor.set(Mood::Silent);
    assert!(zombie.sync(None).is_err());
    let branch = store.snapshot();
    // The newer writer does not see the branch (another replica of the storage) and anchors its own.
    *store.files.lock().unwrap() = before;
    anchor.set(Mood::Well);
    let newer = open(&store, &anchor, true).unwrap();
    make(&newer, "truth", &[3; 9000]);
    newer.close().unwrap();
    // Then the branch appears.
    for (path, bytes) in branch {
        store.files.lock().unwrap().insert(path, bytes);
    }
    for writable in [false, true] {
        let volume = open(&store, &anchor, writable).unwrap();
        assert_eq!(
            view(&volume).unwrap().keys().collect::<Vec<_>>(),
            ["base", "truth"]
        );
    }
}

#[test]
fn test_reads_go_on_and_nothing_is_lost_when_the_anchor_does_not_answer_for_a_while() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let volume = open(&store, &anchor, true).unwrap();
    make(&volume, "a", &[1; 5000]);
    volume.sync(None).unwrap();
    for mood in [
        Mood::Silent,
        Mood::AnswerLost,
        Mood::Silent,
        Mood::Refusing,
        Mood::AnswerLost,
        Mood::AnswerLost,
    ] {
        anchor.set(mood);
        make(
            &volume,
            &format!("{mood:?}-{}", volume.status().files),
            &[2; 5000],
        );
        let error = volume.sync(None).unwrap_err();
        assert!(matches!(
            error,
            VolumeError::Anchor(AnchorError::Unreachable(_) | AnchorError::Refused(_))
        ));
        assert_eq!(error.errno(), 5);
        assert_eq!(content(&volume, "a"), [1; 5000]);
    }
    anchor.set(Mood::Well);
    volume.sync(None).unwrap();
    assert_eq!(volume.status().seq, anchor.position().0);
    let reader = open(&store, &anchor, false).unwrap();
    assert_eq!(view(&reader).unwrap(), view(&volume).unwrap());
    assert_eq!(reader.check().unwrap(), []);
}

#[test]
fn test_a_lost_answer_to_the_only_advance_is_found_out_when_sync_is_called_again() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let volume = open(&store, &anchor, true).unwrap();
    make(&volume, "a", b"1");
    anchor.set(Mood::AnswerLost);
    assert!(volume.sync(None).is_err());
    anchor.set(Mood::Well);
    volume.sync(None).unwrap();
    assert_eq!(
        (volume.status().seq, volume.status().root),
        anchor.position()
    );
}

#[test]
fn test_a_crash_while_the_anchor_was_silent_keeps_the_durable_records_beyond_it() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let volume = open(&store, &anchor, true).unwrap();
    anchor.set(Mood::Silent);
    make(&volume, "unanchored", &[5; 70_000]);
    assert!(volume.sync(None).is_err());
    anchor.set(Mood::Well);
    let reader = open(&store, &anchor, false).unwrap();
    assert_eq!(
        view(&reader).unwrap().len(),
        0,
        "a reader stops exactly at the anchor"
    );
    let next = open(&store, &anchor, true).unwrap();
    assert_eq!(content(&next, "unanchored"), [5; 70_000]);
    assert_eq!(next.check().unwrap(), []);
}

#[test]
fn test_a_foreign_state_at_the_anchor_stops_the_writer() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let volume = open(&store, &anchor, true).unwrap();
    anchor.state.lock().unwrap().1 = (77, [7; 32]);
    make(&volume, "a", b"1");
    assert_eq!(
        volume.sync(None),
        Err(VolumeError::Anchor(AnchorError::Conflict))
    );
    assert_eq!(volume.sync(None), Err(VolumeError::LeaseLost));
}

#[test]
fn test_a_full_disk_reaches_the_caller_and_leaves_the_committed_state_intact() {
    for room in (0..200_000).step_by(9_731) {
        let anchor = TestAnchor::virgin();
        let store = Arc::new(MemoryStore {
            room: Some(AtomicI64::new(i64::MAX)),
            ..MemoryStore::default()
        });
        let volume = open(&store, &anchor, true).unwrap();
        make(&volume, "kept", &[1; 50_000]);
        volume.sync(None).unwrap();
        store
            .room
            .as_ref()
            .unwrap()
            .store(room, std::sync::atomic::Ordering::SeqCst);
        let ino = volume
            .make_node(ROOT_INO, b"new", NodeKind::File, 0o644, 0, 0)
            .unwrap()
            .ino;
        let mut failed = false;
        for at in 0..50 {
            let result = volume
                .write(ino, at * 5000, &[2; 5000])
                .and_then(|_| volume.sync(None));
            if let Err(error) = result {
                assert_eq!(error, VolumeError::NoSpace);
                failed = true;
            }
        }
        assert!(failed);
        assert_eq!(content(&volume, "kept"), [1; 50_000]);
        let reader = open(&store, &anchor, false).unwrap();
        assert_eq!(content(&reader, "kept"), [1; 50_000]);
        assert_eq!(reader.check().unwrap(), []);
        // Room again: what waited is written now.
        store
            .room
            .as_ref()
            .unwrap()
            .store(i64::MAX, std::sync::atomic::Ordering::SeqCst);
        volume.write(ino, 0, &[3; 5000]).unwrap();
        volume.close().unwrap();
        let reader = open(&store, &anchor, false).unwrap();
        assert_eq!(view(&reader).unwrap(), view(&volume).unwrap());
        assert_eq!(reader.check().unwrap(), []);
    }
}

#[test]
fn test_a_failing_store_never_makes_a_false_promise_when_it_fails_at_any_call() {
    for after in 0..60 {
        let anchor = TestAnchor::virgin();
        let store = Arc::new(MemoryStore {
            fail_after: Some(AtomicI64::new(i64::MAX)),
            ..MemoryStore::default()
        });
        let volume = open(&store, &anchor, true).unwrap();
        store
            .fail_after
            .as_ref()
            .unwrap()
            .store(after, std::sync::atomic::Ordering::SeqCst);
        let mut promised = Vec::new();
        for number in 0..12_u8 {
            let name = format!("f{number}");
            let ino = volume.make_node(ROOT_INO, name.as_bytes(), NodeKind::File, 0o644, 0, 0);
            let Ok(ino) = ino.map(|attr| attr.ino) else {
                break;
            };
            if volume
                .write(ino, 0, &[number; 6000])
                .and_then(|_| volume.sync(None))
                .is_ok()
            {
                promised.push(number);
            } else {
                assert!(volume.sync(None).is_err());
            }
        }
        drop(volume);
        let healthy = MemoryStore::new(store.snapshot());
        let volume = open(&healthy, &anchor, true).unwrap();
        for number in promised {
            assert_eq!(
                content(&volume, &format!("f{number}")),
                [number; 6000],
                "failed after {after}"
            );
        }
        assert_eq!(volume.check().unwrap(), []);
    }
}

#[test]
fn test_concurrent_syncs_share_commits() {
    let events = Arc::new(std::sync::Mutex::new(Vec::new()));
    let store = MemoryStore::new(Default::default());
    let anchor = TestAnchor::recording(0, (0, [0; 32]), Some(Arc::clone(&events)));
    let volume = open(&store, &anchor, true).unwrap();
    let inos: Vec<Ino> = (0..8)
        .map(|n| make(&volume, &format!("f{n}"), b""))
        .collect();
    anchor.set(Mood::Slow);
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for ino in &inos {
            scope.spawn(|| {
                for step in 0..20 {
                    barrier.wait();
                    volume.write(*ino, step * 100, &[1; 100]).unwrap();
                    volume.sync(Some(*ino)).unwrap();
                }
            });
        }
    });
    let advances = events
        .lock()
        .unwrap()
        .iter()
        .filter(|event| matches!(event, Event::Advance { .. }))
        .count();
    assert!(advances < 80, "{advances} advances for 160 syncs");
    let reader = open(&store, &anchor, false).unwrap();
    assert_eq!(view(&reader).unwrap(), view(&volume).unwrap());
}

#[test]
fn test_an_unlinked_file_is_readable_until_its_last_open_ends_and_gone_after_a_crash() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let volume = open(&store, &anchor, true).unwrap();
    let ino = make(&volume, "temporary", &[8; 9000]);
    volume.open_file(ino).unwrap();
    volume.remove_file(ROOT_INO, b"temporary").unwrap();
    volume.write(ino, 9000, &[9; 10]).unwrap();
    volume.sync(None).unwrap();
    assert_eq!(
        read_all(&volume, ino, 9010).unwrap()[8999..],
        [8, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]
    );
    let crashed = MemoryStore::new(store.snapshot());
    let after = open(&crashed, &TestAnchor::at(5, anchor.position()), true).unwrap();
    assert_eq!(after.attr(ino).err(), Some(VolumeError::NotFound));
    assert_eq!(after.status().files, 1);
    volume.release(ino);
    assert_eq!(volume.attr(ino).err(), Some(VolumeError::NotFound));
    volume.close().unwrap();
    assert_eq!(volume.status().dirty_bytes, 0);
}

#[test]
fn test_a_rename_over_a_file_is_anchored_with_the_new_content_when_it_returns() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let volume = open(&store, &anchor, true).unwrap();
    make(&volume, "checkpoint", &[1; 9000]);
    make(&volume, "checkpoint.tmp", &[2; 9000]);
    volume
        .rename(
            ROOT_INO,
            b"checkpoint.tmp",
            ROOT_INO,
            b"checkpoint",
            RenameFlags::Replace,
        )
        .unwrap();
    let reader = open(&store, &anchor, false).unwrap();
    assert_eq!(content(&reader, "checkpoint"), [2; 9000]);
    assert_eq!(reader.status().files, 2);
}
