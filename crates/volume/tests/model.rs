//! Random programs see in a volume what they see in a file system, over any number of opens.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::sync::Arc;

use proptest::prelude::*;
use securetf_volume::{NodeKind, ROOT_INO};
use support::model::{self, Model};
use support::program::random_op;
use support::{MemoryStore, Rng, TestAnchor, open};

fn run(seed: u64, steps: usize) {
    let mut rng = Rng(seed);
    let store = MemoryStore::new(Default::default());
    let anchor = TestAnchor::virgin();
    let mut volume = open(&store, &anchor, true).unwrap();
    let mut expected = Model::default();
    for step in 0..steps {
        let op = random_op(&mut rng);
        let (want, got) = (expected.apply(&op), model::apply(&volume, &op));
        assert_eq!(got, want, "seed {seed}, step {step}: {op:?}");
        if step % 7 == 0 {
            assert!(
                model::view(&volume).unwrap() == expected.view(),
                "seed {seed}, step {step}"
            );
        }
        if rng.below(25) == 0 {
            volume.close().unwrap();
            drop(volume);
            let reader = open(&store, &anchor, false).unwrap();
            assert!(
                model::view(&reader).unwrap() == expected.view(),
                "seed {seed}, step {step}: reopened"
            );
            assert_eq!(reader.check().unwrap(), []);
            volume = open(&store, &anchor, true).unwrap();
        }
    }
    assert_eq!(Arc::strong_count(&volume), 1);
    assert!(
        model::view(&volume).unwrap() == expected.view(),
        "seed {seed}"
    );
}

#[test]
fn test_a_tree_of_many_files_and_chunks_is_read_back_from_a_snapshot_of_several_levels() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let volume = open(&store, &anchor, true).unwrap();
    for number in 0..3000 {
        let name = format!("file-{number}");
        let ino = volume
            .make_node(ROOT_INO, name.as_bytes(), NodeKind::File, 0o644, 0, 0)
            .unwrap()
            .ino;
        volume
            .write(ino, 0, &vec![number as u8; 50 + number % 100])
            .unwrap();
    }
    let big = volume
        .make_node(ROOT_INO, b"big", NodeKind::File, 0o644, 0, 0)
        .unwrap()
        .ino;
    for step in 0..10_u64 {
        volume
            .write(big, step << 20, &vec![step as u8; 1 << 20])
            .unwrap();
    }
    volume.sync(None).unwrap();
    volume
        .write(big, 5, b"and one more commit, which writes the snapshot")
        .unwrap();
    volume.close().unwrap();
    assert!(
        store
            .snapshot()
            .keys()
            .any(|path| path.contains("snapshot"))
    );
    let reader = open(&store, &anchor, false).unwrap();
    assert!(model::view(&reader).unwrap() == model::view(&volume).unwrap());
    let mut names = 0;
    let mut cookie = 0;
    loop {
        let mut taken = 0;
        reader
            .read_dir(ROOT_INO, cookie, &mut |entry| {
                cookie = entry.cookie;
                taken += 1;
                taken < 7
            })
            .unwrap();
        names += taken;
        if taken == 0 {
            break;
        }
    }
    assert_eq!(names, 3003);
}

#[test]
fn test_overwritten_and_removed_content_leaves_the_store_when_commits_are_anchored() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let volume = open(&store, &anchor, true).unwrap();
    let ino = volume
        .make_node(ROOT_INO, b"log", NodeKind::File, 0o644, 0, 0)
        .unwrap()
        .ino;
    for round in 0..200_u64 {
        volume
            .write(ino, (round % 4) * 4096, &[round as u8; 40_960])
            .unwrap();
        volume.sync(None).unwrap();
    }
    let bytes: usize = store.snapshot().values().map(Vec::len).sum();
    assert!(
        bytes < 600_000,
        "{bytes} bytes for a file of 53248 after 200 rewrites"
    );
    volume.remove_file(ROOT_INO, b"log").unwrap();
    volume.sync(None).unwrap();
    volume.close().unwrap();
    assert!(
        !store
            .snapshot()
            .keys()
            .any(|path| path.starts_with("data/")),
        "{:?}",
        store.snapshot().keys()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn test_a_random_program_sees_a_file_system_when_the_volume_is_reopened(seed in any::<u64>()) {
        run(seed, 150);
    }
}
