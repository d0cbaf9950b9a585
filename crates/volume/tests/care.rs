//! History, compaction and salvage.
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
    Environment, Grant, Position, ROOT_INO, Salvaged, Store, Volume, VolumeError,
};
use support::history::{CHUNK, content, make, pattern};
use support::model::view;
use support::scene::{Scene, appended};
use support::{Files, MemoryStore, TestAnchor, TestEnvironment, open, open_grant, open_roomy};

fn at(position: Position) -> Grant {
    let anchor = TestAnchor::at(50, position);
    anchor.grant(false)
}

#[test]
fn test_history_names_each_commit_and_each_can_be_opened_as_it_was() {
    let scene = Scene::get();
    let newest = scene.newest();
    let store = MemoryStore::new(newest.files.clone());
    let anchor = TestAnchor::at(50, newest.position);
    let volume = open(&store, &anchor, false).unwrap();
    let history = volume.history().unwrap();
    let last = history.last().unwrap();
    assert_eq!((last.seq, last.root), newest.position);
    assert!(
        history
            .iter()
            .all(|commit| commit.time >= Some(1_800_000_000_000_000_000))
    );
    assert_eq!(history.iter().filter(|commit| commit.mount).count(), 2);
    for step in &scene.steps {
        assert!(
            history
                .iter()
                .any(|commit| (commit.seq, commit.root) == step.position)
        );
        let then = open_grant(&store, &anchor, at(step.position)).unwrap();
        match view(&then) {
            Ok(seen) => assert!(seen == step.view, "{}", step.name),
            // Its places were used again by later commits: that is said, never other bytes.
            Err(error) => assert!(matches!(error, VolumeError::Integrity { .. }), "{error}"),
        }
    }
}

#[test]
fn test_a_state_that_was_never_anchored_here_is_not_opened_as_history() {
    let scene = Scene::get();
    let (seq, mut root) = scene.steps[2].position;
    root[0] ^= 1;
    let store = MemoryStore::new(scene.newest().files.clone());
    let anchor = TestAnchor::at(50, scene.newest().position);
    let error = open_grant(&store, &anchor, at((seq, root))).err().unwrap();
    assert!(matches!(error, VolumeError::Rollback { .. }), "{error}");
}

#[test]
fn test_files_with_the_same_bytes_are_the_same_wherever_they_lie() {
    let scene = Scene::get();
    let store = MemoryStore::new(scene.newest().files.clone());
    let anchor = TestAnchor::at(50, scene.newest().position);
    let volume = open(&store, &anchor, false).unwrap();
    let before = at(scene.steps[scene.step("times and xattr changed")].position);
    let then = open_grant(&store, &anchor, before).unwrap();
    let same = |name: &str, other: &str| {
        let (one, two) = (
            volume.lookup(ROOT_INO, name.as_bytes()).unwrap().ino,
            then.lookup(ROOT_INO, other.as_bytes()).unwrap().ino,
        );
        volume.same_content(one, &then, two).unwrap()
    };
    assert!(same("b", "b") && !same("a", "a") && !same("a", "b"));
}

/// A volume half of which is dead, in segments of an earlier epoch.
fn wasteful() -> (Arc<MemoryStore>, Arc<TestAnchor>) {
    let (store, anchor) = (MemoryStore::new(Files::new()), TestAnchor::virgin());
    let volume = open_roomy(&store, &anchor);
    for number in 0..20_u8 {
        make(
            &volume,
            &format!("file {number:02}"),
            &pattern(number, 2 * CHUNK + 2500),
        );
    }
    volume.sync(None).unwrap();
    for number in (0..20).step_by(2) {
        volume
            .remove_file(ROOT_INO, format!("file {number:02}").as_bytes())
            .unwrap();
    }
    volume.close().unwrap();
    (store, anchor)
}

fn data_bytes(store: &MemoryStore) -> usize {
    let files = store.snapshot();
    let data = files.iter().filter(|(path, _)| path.starts_with("data/"));
    data.map(|(_, content)| content.len()).sum()
}

#[test]
fn test_compact_gives_dead_space_back_and_changes_nothing_else() {
    let (store, anchor) = wasteful();
    let volume = open_roomy(&store, &anchor);
    let (expected, before) = (view(&volume).unwrap(), data_bytes(&store));
    let times = |volume: &Volume| volume.lookup(ROOT_INO, b"file 01").unwrap();
    let attr = times(&volume);
    let done = volume.compact(&mut |_| true).unwrap();
    assert!(
        done.segments >= 2 && done.dead_before > done.dead_after,
        "{done:?}"
    );
    assert_eq!(done.moved_bytes, 10 * (2 * CHUNK as u64 + 2500));
    assert!(
        data_bytes(&store) * 3 < before * 2,
        "{} of {before}",
        data_bytes(&store)
    );
    assert_eq!(times(&volume), attr);
    volume.close().unwrap();
    let reader = open(&store, &anchor, false).unwrap();
    assert!(view(&reader).unwrap() == expected);
    assert_eq!(reader.check().unwrap(), []);
    let again = open_roomy(&store, &anchor).compact(&mut |_| true).unwrap();
    assert_eq!(
        (again.segments, again.moved_bytes),
        (0, 0),
        "nothing is left to do"
    );
}

#[test]
fn test_compact_that_is_told_to_stop_keeps_what_it_did() {
    let (store, anchor) = wasteful();
    let volume = open_roomy(&store, &anchor);
    let expected = view(&volume).unwrap();
    let done = volume
        .compact(&mut |moved| moved < 3 * CHUNK as u64)
        .unwrap();
    assert!(
        done.moved_bytes > 0 && done.moved_bytes < 10 * CHUNK as u64,
        "{done:?}"
    );
    drop(volume);
    let reader = open(&store, &anchor, false).unwrap();
    assert!(view(&reader).unwrap() == expected);
    assert_eq!(reader.check().unwrap(), []);
}

#[test]
fn test_compact_runs_beside_writers_and_readers() {
    let (store, anchor) = wasteful();
    let volume = open_roomy(&store, &anchor);
    let ended = AtomicBool::new(false);
    let (expected, ino) = (
        content(&volume, "file 03"),
        volume.lookup(ROOT_INO, b"file 01").unwrap().ino,
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..50_u8 {
                volume
                    .write(ino, u64::from(round) * 100, &pattern(round, 5000))
                    .unwrap();
                volume.sync(None).unwrap();
            }
            ended.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                assert!(content(&volume, "file 03") == expected);
            }
        });
        scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                volume.compact(&mut |_| true).unwrap();
            }
        });
    });
    let written = content(&volume, "file 01");
    assert_eq!(written[4900..9900], pattern(49, 5000));
    volume.close().unwrap();
    assert_eq!(open(&store, &anchor, false).unwrap().check().unwrap(), []);
}

#[test]
fn test_compact_of_a_damaged_volume_names_the_file_and_loses_nothing_else() {
    let (store, anchor) = wasteful();
    let expected = view(&open(&store, &anchor, false).unwrap()).unwrap();
    let path = store
        .snapshot()
        .into_keys()
        .find(|path| path.starts_with("data/"))
        .unwrap();
    // Slots 2 and 3 are the chunks of file 01.
    store.files.lock().unwrap().get_mut(&path).unwrap()[3 * CHUNK] ^= 1;
    let volume = open_roomy(&store, &anchor);
    let error = volume.compact(&mut |_| true).unwrap_err();
    assert!(
        error.problem().starts_with("/file 01: chunk 1: its bytes"),
        "{error}"
    );
    volume.close().unwrap();
    let reader = open(&store, &anchor, false).unwrap();
    assert_eq!(reader.check().unwrap().len(), 1);
    assert_eq!(
        content(&reader, "file 03"),
        expected["file 03"].as_ref().unwrap().content
    );
}

fn salvage(files: Files, position: Position) -> Result<Salvaged, VolumeError> {
    let store: Arc<dyn Store> = MemoryStore::new(files);
    let environment: Arc<dyn Environment> = Arc::new(TestEnvironment::default());
    Volume::salvage(&store, &environment, &at(position))
}

#[test]
fn test_salvage_of_a_whole_store_is_the_anchored_state() {
    let newest = Scene::get().newest();
    let salvaged = salvage(newest.files.clone(), newest.position).unwrap();
    assert_eq!(salvaged.lost, None);
    assert!(view(&salvaged.volume).unwrap() == newest.view);
}

#[test]
fn test_salvage_without_the_newest_record_is_the_state_before_it_and_says_so() {
    let scene = Scene::get();
    let last = scene.steps.len() - 1;
    let (before, newest) = (&scene.steps[last - 1], scene.newest());
    let (path, record) = appended(&before.files, &newest.files);
    for spoil in [record.start, record.end - 1] {
        let mut files = newest.files.clone();
        files.get_mut(&path).unwrap()[spoil] ^= 1;
        let salvaged = salvage(files, newest.position).unwrap();
        let status = salvaged.volume.status();
        assert_eq!((status.seq, status.root), before.position);
        let lost = salvaged.lost.unwrap();
        assert!(matches!(lost, VolumeError::Rollback { .. }), "{lost}");
        assert!(view(&salvaged.volume).unwrap() == before.view);
    }
}

#[test]
fn test_salvage_of_nothing_authentic_fails_with_the_reason_of_the_anchored_state() {
    let newest = Scene::get().newest();
    let mut files = newest.files.clone();
    for (_, content) in files
        .iter_mut()
        .filter(|(path, _)| path.contains("journal"))
    {
        content[90] ^= 1;
        let copy = content[..80].to_vec();
        content.extend(copy);
    }
    let error = salvage(files, newest.position).err().unwrap();
    assert!(
        error.problem().contains("the anchor stands at sequence"),
        "{error}"
    );
}
