//! Attacks 21 to 36 (`docs/reference/volume-attacks.md`) on what only the engine sees; the table names those that are
//! tested elsewhere.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use aws_lc_rs::digest::{SHA256, digest};
use securetf_volume::{Grant, VolumeError};
use support::history::{CHUNK, content, make, pattern};
use support::scene::{Outcome, Scene, appended};
use support::{Files, MemoryStore, TestAnchor, open, open_grant, open_roomy};

/// A volume of another id under the same key, with as many commits.
fn other_volume(commits: usize) -> (Files, Grant) {
    let (store, anchor) = (MemoryStore::new(Files::new()), TestAnchor::virgin());
    let grant = Grant {
        volume_id: [7; 16],
        ..anchor.grant(true)
    };
    let volume = open_grant(&store, &anchor, grant.clone()).unwrap();
    for number in 0..commits {
        make(&volume, &format!("file {number}"), &pattern(1, 3 * CHUNK));
        volume.sync(None).unwrap();
    }
    volume.close().unwrap();
    (store.snapshot(), grant)
}

#[test]
fn test_attack_21_another_volumes_objects_under_the_same_key_are_noticed() {
    let scene = Scene::get();
    let (other, _) = other_volume(30);
    let Outcome::Refused(error) = scene.look(other.clone()) else {
        panic!("another volume was opened")
    };
    assert!(
        error
            .problem()
            .contains("the directory holds volume 07070707"),
        "{error}"
    );
    let mut bare = other.clone();
    bare.retain(|path, _| !path.contains("superblock"));
    scene.refuses(
        bare,
        &["it has another record", "the newest records are missing"],
    );
    let foreign = other
        .values()
        .find(|content| content.len() >= CHUNK)
        .unwrap();
    let chunk = foreign[..CHUNK].to_vec();
    scene.damages(
        scene.with(&[("/a", 0, chunk)]),
        &["/a"],
        "do not authenticate",
    );
}

#[test]
fn test_attack_22_an_older_key_version_suite_or_format_is_refused() {
    let scene = Scene::get();
    for (place, value, name) in [
        (9, 0, "version 0 with suite 1"),
        (10, 0, "version 1 with suite 0"),
    ] {
        let mut files = scene.newest().files.clone();
        for path in ["superblock-0", "superblock-1"] {
            let raw = files.get_mut(path).unwrap();
            raw[place] = value;
            let sum = digest(&SHA256, &raw[..68]);
            raw[68..].copy_from_slice(&sum.as_ref()[..8]);
        }
        let Outcome::Refused(error) = scene.look(files) else {
            panic!("{name} was opened")
        };
        assert!(
            error
                .problem()
                .contains(&format!("has format {name}, not 1 with 1")),
            "{error}"
        );
    }
    let anchor = TestAnchor::at(50, scene.newest().position);
    let older = Grant {
        key_version: 0,
        ..anchor.grant(false)
    };
    let store = MemoryStore::new(scene.newest().files.clone());
    let error = open_grant(&store, &anchor, older).err().unwrap();
    assert!(
        error
            .problem()
            .contains("does not authenticate under this volume's key"),
        "{error}"
    );
    // The record's own version lies in what the root is computed over.
    let mut files = scene.newest().files.clone();
    for (_, raw) in files
        .iter_mut()
        .filter(|(path, _)| path.contains("journal"))
    {
        raw[5] = 0;
    }
    scene.refuses(files, &["the newest records are missing"]);
}

#[test]
fn test_attack_23_a_dropped_tail_of_the_journal_is_refused_at_any_length() {
    let scene = Scene::get();
    let (last, newest) = (scene.steps.len() - 1, scene.newest());
    let (path, record) = appended(&scene.steps[last - 1].files, &newest.files);
    for length in 0..record.end {
        let mut files = newest.files.clone();
        files.get_mut(&path).unwrap().truncate(length);
        scene.refuses(files, &["missing"]);
    }
}

/// A volume that was opened from a snapshot: store, anchor.
fn with_snapshot() -> (Files, std::sync::Arc<TestAnchor>) {
    let (store, anchor) = (MemoryStore::new(Files::new()), TestAnchor::virgin());
    let volume = open(&store, &anchor, true).unwrap();
    for number in 0..40 {
        make(&volume, &format!("file {number}"), &pattern(number, 1500));
        volume.sync(None).unwrap();
    }
    volume.close().unwrap();
    (store.snapshot(), anchor)
}

#[test]
fn test_attack_26_a_snapshot_changed_cut_gone_or_older_is_noticed_and_superblocks_do_not_matter() {
    let (files, anchor) = with_snapshot();
    let path = files
        .keys()
        .find(|path| path.contains("snapshot"))
        .unwrap()
        .clone();
    let refusal = |files: Files| open(&MemoryStore::new(files), &anchor, false).err();
    let length = files[&path].len();
    // Each byte of a volume with a snapshot is flipped in tamper.rs.
    for at in (0..length).step_by(11) {
        let mut changed = files.clone();
        changed.get_mut(&path).unwrap()[at] ^= 1 << (at % 8);
        let error = refusal(changed).expect("a flipped byte of the snapshot was not noticed");
        assert!(
            error.problem().contains("it does not authenticate"),
            "{error}"
        );
    }
    let mut gone = files.clone();
    gone.remove(&path);
    assert!(refusal(gone).unwrap().problem().contains("is missing"));
    let mut short = files.clone();
    short.get_mut(&path).unwrap().truncate(length - 1);
    assert!(refusal(short).unwrap().problem().contains("ends too early"));
    for hints in [vec![], vec![0; 76], vec![0xff; 4000]] {
        let mut changed = files.clone();
        for name in ["superblock-0", "superblock-1"] {
            changed.insert(name.to_owned(), hints.clone());
        }
        assert!(refusal(changed).is_none(), "a hint raised a false alarm");
    }
}

#[test]
fn test_attack_27_a_deleted_files_chunks_under_a_new_file_of_its_name_are_noticed() {
    let (store, anchor) = (MemoryStore::new(Files::new()), TestAnchor::virgin());
    let volume = open_roomy(&store, &anchor);
    make(&volume, "model", &pattern(1, CHUNK));
    volume.sync(None).unwrap();
    let old = store.snapshot();
    volume.remove_file(1, b"model").unwrap();
    volume.sync(None).unwrap();
    make(&volume, "model", &pattern(2, CHUNK));
    volume.close().unwrap();
    let mut files = store.snapshot();
    let stale = old
        .iter()
        .find(|(path, _)| path.starts_with("data/"))
        .unwrap()
        .1;
    for (_, raw) in files
        .iter_mut()
        .filter(|(path, _)| path.starts_with("data/"))
    {
        raw[..CHUNK].copy_from_slice(&stale[..CHUNK]);
    }
    let reader = open(&MemoryStore::new(files), &anchor, false).unwrap();
    let findings = reader.check().unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].path, "/model");
    assert!(findings[0].what.contains("do not authenticate"));
}

#[test]
fn test_attack_28_absurd_lengths_and_counts_are_refused_without_absurd_memory() {
    let scene = Scene::get();
    let newest = &scene.newest().files;
    let journal = newest.keys().find(|path| path.contains("journal")).unwrap();
    for length in [u32::MAX, 1 << 31, (4 << 20) + 1] {
        let mut files = newest.clone();
        files.get_mut(journal).unwrap()[8..12].copy_from_slice(&length.to_be_bytes());
        scene.refuses(files, &["missing or changed"]);
    }
    let mut many = newest.clone();
    for number in 0..5000 {
        many.insert(
            format!("metadata/journal-00000001-{:08x}", number + 9),
            Vec::new(),
        );
    }
    let Outcome::Refused(error @ VolumeError::Integrity { .. }) = scene.look(many) else {
        panic!("5000 journal files were read")
    };
    assert!(error.problem().contains("the limit is 4096"), "{error}");
    let mut padded = newest.clone();
    padded.insert(
        "metadata/journal-00000001-00000009".to_owned(),
        vec![0x53; 20 << 20],
    );
    padded.insert(
        "metadata/journal-ffffffff-ffffffff".to_owned(),
        b"STFJ\0\x01\0\0".repeat(99),
    );
    padded.insert(
        "metadata/snapshot-ffffffffffffffff".to_owned(),
        vec![9; 100],
    );
    padded.insert("data/ffffffff/ffffffff".to_owned(), vec![9; 100]);
    assert!(
        matches!(scene.look(padded), Outcome::Exact),
        "planted objects are not looked at"
    );
}

#[test]
fn test_attack_33_and_36_the_protection_of_a_file_cannot_be_changed_without_the_key() {
    // The protection is a sealed field of each inode, and one for all of a volume: `authenticated.rs` has the rest.
    // The host can at most change the bytes of the record in which a file or a directory was made.
    Scene::get().undo("new");
}

#[test]
fn test_attack_35_hard_links_and_holes_cannot_be_faked() {
    let scene = Scene::get();
    scene.undo("linked");
    scene.undo("unlinked");
    // Zeros in place of a chunk are no hole, and bytes in place of a hole are not read.
    let (store, anchor) = (MemoryStore::new(Files::new()), TestAnchor::virgin());
    let volume = open_roomy(&store, &anchor);
    let ino = make(&volume, "sparse", &pattern(1, CHUNK));
    volume
        .write(ino, 3 * CHUNK as u64, &pattern(2, CHUNK))
        .unwrap();
    volume.close().unwrap();
    let path = store
        .snapshot()
        .into_keys()
        .find(|path| path.starts_with("data/"))
        .unwrap();
    let reader = open(&store, &anchor, false).unwrap();
    let expected = content(&reader, "sparse");
    assert!(expected[CHUNK..3 * CHUNK].iter().all(|byte| *byte == 0));
    let mut files = store.snapshot();
    let chunk = files[&path][..CHUNK].to_vec();
    files.get_mut(&path).unwrap().extend(chunk.repeat(4));
    let reader = open(&MemoryStore::new(files.clone()), &anchor, false).unwrap();
    assert!(content(&reader, "sparse") == expected, "a hole was filled");
    files.get_mut(&path).unwrap()[..CHUNK].fill(0);
    let findings = open(&MemoryStore::new(files), &anchor, false)
        .unwrap()
        .check()
        .unwrap();
    assert!(
        findings[0].what.contains("chunk 0: its bytes"),
        "{findings:?}"
    );
}
