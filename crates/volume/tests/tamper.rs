//! Whatever the host changes offline is noticed, or changes nothing: never is anything else served.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use securetf_volume::VolumeError;
use support::history::{CHUNK, Seen, history, is_alarm, look, newest, slots};
use support::model::view;
use support::{Files, MemoryStore, TestAnchor, open};

#[test]
fn test_each_flipped_byte_is_noticed_or_harmless() {
    let (files, state) = newest();
    let mut noticed = 0;
    for (path, content) in files.iter().filter(|(path, _)| !path.starts_with("data/")) {
        for at in 0..content.len() {
            let mut changed = files.clone();
            changed.get_mut(path).unwrap()[at] ^= 1 << (at % 8);
            match look(changed, state) {
                Seen::Harmless => {
                    assert!(
                        path.contains("superblock"),
                        "{path} at {at}: a flipped byte went unnoticed"
                    );
                }
                Seen::Refused(error) => {
                    noticed += 1;
                    let alarm = matches!(
                        error,
                        VolumeError::Rollback { .. } | VolumeError::Integrity { .. }
                    );
                    assert!(
                        alarm && path.contains("metadata/"),
                        "{path} at {at}: {error:?}"
                    );
                    assert!([74, 117].contains(&error.errno()));
                }
                Seen::Damaged(names) => panic!("{path} at {at}: {names:?}"),
            }
        }
    }
    noticed += flip_content(&files, state);
    assert!(noticed > 2 * 3 * CHUNK, "{noticed}");
}

/// Flips each byte of the segments under an open volume; returns how many were noticed.
fn flip_content(files: &Files, state: usize) -> usize {
    let (_, position, expected) = &history().states[state];
    let store = MemoryStore::new(files.clone());
    let volume = open(&store, &TestAnchor::at(20, *position), false).unwrap();
    let mut noticed = 0;
    for (path, content) in files.iter().filter(|(path, _)| path.starts_with("data/")) {
        for at in 0..content.len() {
            let flip = || store.files.lock().unwrap().get_mut(path).unwrap()[at] ^= 1 << (at % 8);
            flip();
            let findings = volume.check().unwrap();
            noticed += findings.len();
            for finding in &findings {
                assert!(
                    ["/chunks", "/dir/twin"].contains(&finding.path.as_str()),
                    "{finding:?}"
                );
                assert!(finding.what.contains("do not authenticate"), "{finding:?}");
            }
            if findings.is_empty() && at % 64 == 0 {
                assert!(view(&volume).unwrap() == *expected, "{path} at {at}");
            }
            flip();
        }
    }
    noticed
}

#[test]
fn test_chunks_swapped_copied_zeroed_or_cut_are_noticed_and_the_file_is_named() {
    let (files, state) = newest();
    let places = slots(&files);
    let (mut swaps, mut zeroed, mut cuts) = (0, 0, 0);
    for (a_path, a) in &places {
        for (b_path, b) in &places {
            let mut changed = files.clone();
            let (from, to) = (
                files[b_path][*b..b + CHUNK].to_vec(),
                files[a_path][*a..a + CHUNK].to_vec(),
            );
            changed.get_mut(a_path).unwrap()[*a..a + CHUNK].copy_from_slice(&from);
            changed.get_mut(b_path).unwrap()[*b..b + CHUNK].copy_from_slice(&to);
            swaps += usize::from(matches!(look(changed, state), Seen::Damaged(_)));
        }
        let mut changed = files.clone();
        changed.get_mut(a_path).unwrap()[*a..a + CHUNK].fill(0);
        zeroed += usize::from(matches!(look(changed, state), Seen::Damaged(_)));
        let mut changed = files.clone();
        changed.get_mut(a_path).unwrap().truncate(*a);
        cuts += usize::from(matches!(look(changed, state), Seen::Damaged(_)));
    }
    // Six live full chunks; some slots are dead, and only those may change.
    assert!(
        swaps >= 6 * 5 && zeroed == 6 && cuts >= 6,
        "{swaps} {zeroed} {cuts}"
    );
}

#[test]
fn test_bytes_added_to_segments_change_nothing() {
    let (files, state) = newest();
    for path in files.keys().filter(|path| path.starts_with("data/")) {
        let mut changed = files.clone();
        let valid = files[path][..CHUNK.min(files[path].len())].to_vec();
        changed.get_mut(path).unwrap().extend(valid);
        changed.get_mut(path).unwrap().extend([0; CHUNK]);
        assert_eq!(look(changed, state), Seen::Harmless);
    }
}

#[test]
fn test_objects_deleted_emptied_or_swapped_are_noticed() {
    let (files, state) = newest();
    for path in files.keys().filter(|path| !path.contains("superblock")) {
        let mut gone = files.clone();
        gone.remove(path);
        let mut empty = files.clone();
        empty.get_mut(path).unwrap().clear();
        for changed in [gone, empty] {
            let seen = look(changed, state);
            assert!(
                is_alarm(&seen) || matches!(seen, Seen::Damaged(_)),
                "{path}: {seen:?}"
            );
        }
        for other in files
            .keys()
            .filter(|other| *other > path && other[..4] == path[..4])
        {
            let mut swapped = files.clone();
            swapped.insert(path.clone(), files[other].clone());
            swapped.insert(other.clone(), files[path].clone());
            // Journal files are found by what is in them, so their names do not matter.
            let seen = look(swapped, state);
            assert_eq!(
                seen == Seen::Harmless,
                path.contains("journal"),
                "{path} {other}: {seen:?}"
            );
        }
    }
}
