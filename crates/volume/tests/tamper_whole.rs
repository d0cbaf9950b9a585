//! Whole volumes, objects and records that the host exchanges, drops, mixes or replays are noticed.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use securetf_volume::{
    Anchor, Freshness, Grant, NodeKind, ROOT_INO, Store, StoreError, Volume, VolumeError, VolumeKey,
};
use support::history::{Seen, history, is_alarm, look, newest};
use support::{Files, MemoryStore, TestAnchor, TestEnvironment, open, open_grant, options};

#[test]
fn test_an_older_volume_is_refused_with_both_sequences() {
    for (state, (_, position, _)) in history().states.iter().enumerate() {
        for (older, (files, old_position, _)) in history().states.iter().enumerate().take(state) {
            let seen = look(files.clone(), state);
            let Seen::Refused(error) = seen else {
                panic!("{older} for {state}: {seen:?}")
            };
            let VolumeError::Rollback {
                anchored, found, ..
            } = error
            else {
                panic!("{older} for {state}: {error}")
            };
            assert_eq!((anchored, found), (position.0, old_position.0));
            assert!(
                error.problem().contains(&anchored.to_string()) && error.fix().contains("restore")
            );
            assert_eq!((error.errno(), error.kind()), (117, "VolumeRollbackError"));
        }
    }
}

#[test]
fn test_old_and_new_objects_mixed_are_noticed() {
    let (files, state) = newest();
    for (old, _, _) in &history().states[..state] {
        for (path, content) in old.iter().filter(|(path, _)| !path.contains("superblock")) {
            let mut mixed = files.clone();
            if mixed.insert(path.clone(), content.clone()).as_ref() == Some(content) {
                continue;
            }
            let seen = look(mixed, state);
            let unreferenced = !files.contains_key(path) && seen == Seen::Harmless;
            let only_appended = files.get(path).is_some_and(|now| now.starts_with(content));
            assert!(
                unreferenced
                    || is_alarm(&seen)
                    || matches!(seen, Seen::Damaged(_))
                    || only_appended,
                "{path}"
            );
        }
        // New metadata over old data and the other way round.
        let part = |from: &Files, dir: &str| -> Files {
            from.iter()
                .filter(|(path, _)| path.starts_with(dir))
                .map(|(p, c)| (p.clone(), c.clone()))
                .collect()
        };
        let mut new_metadata = part(old, "data/");
        new_metadata.extend(part(&files, "metadata/"));
        assert!(matches!(look(new_metadata, state), Seen::Damaged(_)));
        let mut new_data = part(&files, "data/");
        new_data.extend(part(old, "metadata/"));
        assert!(is_alarm(&look(new_data, state)));
    }
}

#[test]
fn test_journal_records_dropped_doubled_or_reordered_are_noticed_or_harmless() {
    let (files, state) = newest();
    for (path, content) in files.iter().filter(|(path, _)| path.contains("journal")) {
        let starts: Vec<usize> = (0..content.len())
            .filter(|at| content[*at..].starts_with(b"STFJ"))
            .collect();
        let records: Vec<&[u8]> = starts
            .iter()
            .zip(starts.iter().skip(1).copied().chain([content.len()]))
            .map(|(from, to)| &content[*from..to])
            .collect();
        for at in 0..records.len() {
            let mut dropped = records.clone();
            dropped.remove(at);
            let mut changed = files.clone();
            changed.insert(path.clone(), dropped.concat());
            assert!(
                is_alarm(&look(changed, state)),
                "{path}: record {at} dropped"
            );
            let mut doubled = records.clone();
            doubled.insert(at, records[at]);
            let mut changed = files.clone();
            changed.insert(path.clone(), doubled.concat());
            assert_eq!(
                look(changed, state),
                Seen::Harmless,
                "records are found by their place in the chain"
            );
        }
        let mut reversed = records.clone();
        reversed.reverse();
        let mut changed = files.clone();
        changed.insert(path.clone(), reversed.concat());
        assert_eq!(look(changed, state), Seen::Harmless);
    }
}

#[test]
fn test_superblocks_gone_or_garbage_are_harmless_and_another_version_is_named() {
    let (files, state) = newest();
    let mut none = files.clone();
    none.retain(|path, _| !path.contains("superblock"));
    assert_eq!(look(none, state), Seen::Harmless);
    let mut garbage = files.clone();
    for path in ["superblock-0", "superblock-1"] {
        garbage.insert(path.to_owned(), vec![0xff; 5000]);
    }
    assert_eq!(look(garbage, state), Seen::Harmless);
    let mut newer = files.clone();
    let mut superblock = files["superblock-1"].clone();
    superblock[9] = 2;
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &superblock[..68]);
    superblock[68..].copy_from_slice(&sum.as_ref()[..8]);
    newer.insert("superblock-1".to_owned(), superblock);
    let Seen::Refused(error) = look(newer, state) else {
        panic!("version 2 was opened")
    };
    assert!(error.problem().contains("format version 2"), "{error}");
    assert_eq!(error.kind(), "VolumeFormatError");
}

#[test]
fn test_another_volumes_objects_or_grant_are_refused() {
    let (files, state) = newest();
    let (_, position, _) = history().states[state];
    let anchor = TestAnchor::at(20, position);
    let grant = anchor.grant(false);
    let other_id = Grant {
        volume_id: [9; 16],
        ..grant.clone()
    };
    let error = open_grant(&MemoryStore::new(files.clone()), &anchor, other_id.clone())
        .err()
        .unwrap();
    assert!(
        error.problem().contains("the directory holds volume"),
        "{error}"
    );
    let mut bare = files.clone();
    bare.retain(|path, _| !path.contains("superblock"));
    let bare = MemoryStore::new(bare);
    let other_key = Grant {
        key: VolumeKey::new([1; 32]),
        ..grant.clone()
    };
    let other_version = Grant {
        key_version: 2,
        ..grant.clone()
    };
    for wrong in [other_id, other_key, other_version] {
        let error = open_grant(&bare, &anchor, wrong).err().unwrap();
        assert!(
            matches!(&error, VolumeError::Integrity { what, .. } if what.contains("journal record")),
            "{error}"
        );
    }
    let other_size = Grant {
        chunk_size: 8192,
        ..grant
    };
    let error = open_grant(&bare, &anchor, other_size).err().unwrap();
    assert!(
        error
            .problem()
            .contains("chunks of 4096 bytes, the grant says 8192"),
        "{error}"
    );
}

#[test]
fn test_a_fork_replayed_after_a_crash_is_refused_once_the_other_branch_was_anchored() {
    let (files, position, _) = &history().states[1];
    let branch = |name: &[u8]| {
        let (store, anchor) = (
            MemoryStore::new(files.clone()),
            TestAnchor::at(20, *position),
        );
        let volume = open(&store, &anchor, true).unwrap();
        volume
            .make_node(ROOT_INO, name, NodeKind::Dir, 0o755, 0, 0)
            .unwrap();
        volume.close().unwrap();
        (store.snapshot(), anchor.position())
    };
    let ((_, anchored), (other, _)) = (branch(b"true"), branch(b"forged"));
    let error = open(
        &MemoryStore::new(other),
        &TestAnchor::at(22, anchored),
        true,
    )
    .err()
    .unwrap();
    assert!(
        matches!(&error, VolumeError::Rollback { detail, .. } if detail.contains("another branch")),
        "{error}"
    );
}

/// Changes the first byte of journal files from the second read on, or returns too little.
struct Shifty {
    inner: Arc<MemoryStore>,
    reads: AtomicUsize,
    short: bool,
}

impl Store for Shifty {
    fn read_at(&self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize, StoreError> {
        let got = self.inner.read_at(path, offset, buf)?;
        let again = path.contains("journal") && self.reads.fetch_add(1, Ordering::SeqCst) >= 3;
        if again && self.short {
            return Ok(got / 2);
        }
        if again && let Some(byte) = buf.last_mut() {
            *byte ^= 1;
        }
        Ok(got)
    }
    fn size(&self, path: &str) -> Result<u64, StoreError> {
        self.inner.size(path)
    }
    fn write_at(&self, path: &str, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        self.inner.write_at(path, offset, data)
    }
    fn sync(&self, path: &str) -> Result<(), StoreError> {
        self.inner.sync(path)
    }
    fn sync_dir(&self, dir: &str) -> Result<(), StoreError> {
        self.inner.sync_dir(dir)
    }
    fn remove(&self, path: &str) -> Result<(), StoreError> {
        self.inner.remove(path)
    }
    fn list(&self, dir: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list(dir)
    }
    fn replace(&self, path: &str, data: &[u8]) -> Result<(), StoreError> {
        self.inner.replace(path, data)
    }
    fn lock_exclusive(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[test]
fn test_bytes_changed_between_two_reads_or_short_reads_are_noticed() {
    let (files, state) = newest();
    let anchor = TestAnchor::at(20, history().states[state].1);
    for short in [false, true] {
        let inner = MemoryStore::new(files.clone());
        let store = Arc::new(Shifty {
            inner,
            reads: AtomicUsize::new(0),
            short,
        });
        let grant = anchor.grant(false);
        let (pinned, anchor) = (
            options(Freshness::Pinned),
            Arc::clone(&anchor) as Arc<dyn Anchor>,
        );
        let opened = Volume::open_with(
            store,
            Some(anchor),
            Arc::new(TestEnvironment::default()),
            grant,
            pinned,
        );
        let error = opened.err().unwrap();
        assert!(
            error.problem().contains("changed between two reads"),
            "{error}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn test_garbage_in_any_object_never_panics_and_never_changes_what_is_served(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        garbage in prop::collection::vec(any::<u8>(), 1..300),
    ) {
        let (mut files, state) = newest();
        let path = which.get(&files.keys().cloned().collect::<Vec<_>>()).clone();
        let content = files.get_mut(&path).unwrap();
        let at = at.index(content.len());
        let end = (at + garbage.len()).min(content.len());
        content[at..end].copy_from_slice(&garbage[..end - at]);
        look(files, state);
    }
}
