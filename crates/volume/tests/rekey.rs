//! Re-keying: what was sealed under the older key is sealed anew, at any interruption nothing is lost, and at the end the
//! older key opens nothing.
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
    Environment, Freshness, Grant, NodeKind, Protection, ROOT_INO, SetAttr, Store, Volume,
    VolumeError, XattrMode,
};
use support::history::{CHUNK, content, make, pattern};
use support::model::view;
use support::{
    Files, MemoryStore, TestAnchor, TestEnvironment, open, open_grant, open_with, options,
};

fn both(anchor: &TestAnchor, writable: bool, since: u32) -> Grant {
    anchor.rekeyed(writable, since)
}

/// The newer key alone.
fn newest(anchor: &TestAnchor, writable: bool, since: u32) -> Grant {
    Grant {
        older_key: None,
        kept_since: 0,
        ..both(anchor, writable, since)
    }
}

/// A volume of two epochs with files of every form, the first epoch of the next key, and what the files hold.
fn filled() -> (Arc<MemoryStore>, Arc<TestAnchor>, u32) {
    let (store, anchor) = (MemoryStore::new(Files::new()), TestAnchor::virgin());
    for epoch in 0..2_u8 {
        let volume = open(&store, &anchor, true).unwrap();
        for number in 0..6_u8 {
            let name = format!("chunks {epoch} {number}");
            make(&volume, &name, &pattern(number + epoch, 3 * CHUNK + 700));
            make(
                &volume,
                &format!("packed {epoch} {number}"),
                &pattern(number, 2500),
            );
        }
        let inline = make(&volume, &format!("inline {epoch}"), b"a few bytes");
        volume
            .xattr_set(inline, b"user.x", b"value", XattrMode::Set)
            .unwrap();
        volume
            .link(inline, ROOT_INO, format!("hard {epoch}").as_bytes())
            .unwrap();
        let sparse = make(&volume, &format!("sparse {epoch}"), &pattern(9, CHUNK));
        let longer = SetAttr {
            size: Some(40_000),
            ..SetAttr::default()
        };
        volume.set_attr(sparse, &longer).unwrap();
        let target = NodeKind::Symlink(b"inline 0");
        let link = format!("link {epoch}");
        volume
            .make_node(ROOT_INO, link.as_bytes(), target, 0o777, 0, 0)
            .unwrap();
        volume.close().unwrap();
    }
    let since = anchor.state.lock().unwrap().0 + 1;
    (store, anchor, since)
}

/// Epochs of all objects in the store.
fn epochs(store: &MemoryStore) -> Vec<u32> {
    let number = |text: &str| u32::from_str_radix(text, 16).unwrap();
    let of = |path: &String| {
        let parts: Vec<&str> = path.split(['/', '-']).collect();
        match parts[..] {
            ["data", epoch, _] | ["metadata", "journal", epoch, _] => Some(number(epoch)),
            _ => None,
        }
    };
    store.snapshot().keys().filter_map(of).collect()
}

fn rekey(store: &Arc<MemoryStore>, anchor: &Arc<TestAnchor>, since: u32) {
    let volume = open_grant(store, anchor, both(anchor, true, since)).unwrap();
    assert!(volume.rekey(&mut |_| true).unwrap().complete);
    volume.close().unwrap();
}

#[test]
fn test_rekey_seals_everything_anew_and_changes_nothing_that_a_program_sees() {
    let (store, anchor, since) = filled();
    let before = open(&store, &anchor, false).unwrap();
    let expected = view(&before).unwrap();
    let attr = |volume: &Volume| volume.lookup(ROOT_INO, b"chunks 0 1").unwrap();
    let volume = open_grant(&store, &anchor, both(&anchor, true, since)).unwrap();
    let done = volume.rekey(&mut |_| true).unwrap();
    assert!(done.complete);
    assert_eq!(
        done.moved_bytes,
        12 * (3 * CHUNK as u64 + 700) + 12 * 2500 + 2 * CHUNK as u64
    );
    volume.close().unwrap();
    let reader = open_grant(&store, &anchor, newest(&anchor, false, since)).unwrap();
    assert!(view(&reader).unwrap() == expected);
    assert_eq!(attr(&reader), attr(&before));
    assert_eq!(reader.check().unwrap(), []);
    assert!(epochs(&store).iter().all(|epoch| *epoch >= since));
    let writer = open_grant(&store, &anchor, newest(&anchor, true, since)).unwrap();
    make(&writer, "later", b"life goes on");
    let again = writer.rekey(&mut |_| true).unwrap();
    assert_eq!(
        (again.moved_bytes, again.complete),
        (0, true),
        "nothing is left to do"
    );
    writer.close().unwrap();
}

#[test]
fn test_after_a_rekey_the_older_key_opens_nothing_of_the_new_state_and_the_older_state_is_refused()
{
    let (store, anchor, since) = filled();
    let (old_files, old_position) = (store.snapshot(), anchor.position());
    rekey(&store, &anchor, since);
    let writer = open_grant(&store, &anchor, newest(&anchor, true, since)).unwrap();
    make(&writer, "secret of the new key", &pattern(7, 9000));
    writer.close().unwrap();
    // Whoever has the older key and the new store.
    for version in [0, 1, 2] {
        let stolen = Grant {
            key_version: version,
            ..anchor.grant(false)
        };
        let error = open_grant(&store, &anchor, stolen.clone()).err().unwrap();
        let words = "it does not authenticate under this volume's key";
        assert!(error.problem().contains(words), "{error}");
        let held: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
        let clock: Arc<dyn Environment> = Arc::new(TestEnvironment::default());
        assert!(
            Volume::salvage(&held, &clock, &stolen).is_err(),
            "nothing authentic is left"
        );
    }
    // Whoever puts the older store back, with or without its key at hand.
    let old = MemoryStore::new(old_files);
    for grant in [
        newest(&anchor, false, since),
        both(&anchor, false, since),
        anchor.grant(false),
    ] {
        let error = open_grant(&old, &anchor, grant).err().unwrap();
        assert!(matches!(error, VolumeError::Rollback { .. }), "{error}");
    }
    // Even an anchor at the older state gives nothing once the older key is forgotten.
    let error = open_grant(
        &old,
        &anchor,
        newest(&TestAnchor::at(9, old_position), false, since),
    );
    let problem = error.err().unwrap().problem();
    assert!(
        problem.contains("under a key that the volume no longer has"),
        "{problem}"
    );
}

#[test]
fn test_an_unfinished_rekey_needs_both_keys_and_the_next_run_does_only_the_rest() {
    let (store, anchor, since) = filled();
    let expected = view(&open(&store, &anchor, false).unwrap()).unwrap();
    let (mut moved, mut refused) = (Vec::new(), 0);
    loop {
        let volume = open_grant(&store, &anchor, both(&anchor, true, since)).unwrap();
        let limit = 4 * CHUNK as u64;
        let done = volume.rekey(&mut |bytes| bytes < limit).unwrap();
        drop(volume); // killed
        moved.push(done.moved_bytes);
        let reader = open_grant(&store, &anchor, both(&anchor, false, since)).unwrap();
        assert!(view(&reader).unwrap() == expected);
        assert_eq!(reader.check().unwrap(), []);
        if done.complete {
            break;
        }
        let alone = open_grant(&store, &anchor, newest(&anchor, false, since));
        match alone.and_then(|volume| view(&volume)) {
            Ok(seen) => assert!(seen == expected), // stopped after the last file
            Err(error) => {
                let words = "under a key that the volume no longer has: key version 2 began";
                assert!(error.problem().contains(words), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 4, "{refused} of {moved:?}");
    assert!(moved.len() > 5, "{moved:?}");
    let whole = 12 * (3 * CHUNK as u64 + 700) + 12 * 2500 + 2 * CHUNK as u64;
    assert_eq!(moved.iter().sum::<u64>(), whole, "no byte was moved twice");
}

#[test]
fn test_rekey_runs_beside_writers_and_readers() {
    let (store, anchor, since) = filled();
    let volume = open_grant(&store, &anchor, both(&anchor, true, since)).unwrap();
    let ended = AtomicBool::new(false);
    let kept = content(&volume, "chunks 1 3");
    let ino = volume.lookup(ROOT_INO, b"chunks 0 2").unwrap().ino;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..50_u8 {
                let at = u64::from(round) * 100;
                volume.write(ino, at, &pattern(round, 5000)).unwrap();
                make(&volume, &format!("new {round}"), &pattern(round, 3000));
                volume.sync(None).unwrap();
            }
            ended.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                assert!(content(&volume, "chunks 1 3") == kept);
            }
        });
        scope.spawn(|| while !volume.rekey(&mut |_| true).unwrap().complete {});
    });
    assert_eq!(
        content(&volume, "chunks 0 2")[4900..9900],
        pattern(49, 5000)
    );
    let expected = view(&volume).unwrap();
    volume.close().unwrap();
    let reader = open_grant(&store, &anchor, newest(&anchor, false, since)).unwrap();
    assert!(view(&reader).unwrap() == expected);
    assert_eq!(reader.check().unwrap(), []);
}

#[test]
fn test_rekey_of_a_damaged_volume_names_the_file_and_keeps_the_older_key_in_use() {
    let (store, anchor, since) = filled();
    let path = store
        .snapshot()
        .into_keys()
        .find(|path| path.starts_with("data/"))
        .unwrap();
    store.files.lock().unwrap().get_mut(&path).unwrap()[CHUNK] ^= 1;
    let volume = open_grant(&store, &anchor, both(&anchor, true, since)).unwrap();
    let error = volume.rekey(&mut |_| true).unwrap_err();
    assert!(matches!(error, VolumeError::Integrity { .. }), "{error}");
    assert!(error.problem().starts_with("/chunks 0 "), "{error}");
    volume.close().unwrap();
    let reader = open_grant(&store, &anchor, both(&anchor, false, since)).unwrap();
    assert_eq!(reader.check().unwrap().len(), 1);
}

#[test]
fn test_records_beyond_the_anchor_that_only_the_older_key_vouches_for_are_not_kept() {
    let (store, anchor, _) = filled();
    let (place, since) = (anchor.position(), 10);
    for epoch in [since - 4, since] {
        // Whoever has the older key writes beyond the anchor, in the name of an epoch of its choice.
        let forged = MemoryStore::new(store.snapshot());
        let attacker = open(&forged, &TestAnchor::at(epoch - 1, place), true).unwrap();
        make(&attacker, "forged", b"by whoever has the older key");
        attacker.close().unwrap();
        let copy = MemoryStore::new(forged.snapshot());
        let at = TestAnchor::at(since, place);
        let volume = open_grant(&copy, &at, both(&at, true, since)).unwrap();
        assert!(
            !view(&volume).unwrap().contains_key("forged"),
            "epoch {epoch}"
        );
        // As long as that key is the newest, such a record is what an honest crash leaves.
        let control = open(&forged, &TestAnchor::at(since, place), true).unwrap();
        assert!(
            view(&control).unwrap().contains_key("forged"),
            "epoch {epoch}"
        );
    }
}

#[test]
fn test_a_record_of_a_later_epoch_under_the_older_key_is_refused_although_the_root_leads_to_it() {
    let (store, anchor, since) = filled();
    let writer = open(&store, &anchor, true).unwrap(); // epoch `since`, but with the older key alone
    make(&writer, "downgraded", b"x");
    writer.close().unwrap();
    let error = open_grant(&store, &anchor, both(&anchor, false, since))
        .err()
        .unwrap();
    assert!(
        error
            .problem()
            .contains("it does not authenticate under this volume's key"),
        "{error}"
    );
}

#[test]
fn test_a_grant_from_before_its_key_is_refused() {
    let (store, anchor, since) = filled();
    let early = both(&anchor, true, since + 5);
    assert!(matches!(
        open_grant(&store, &anchor, early),
        Err(VolumeError::Invalid(_))
    ));
}

#[test]
fn test_rekey_with_async_freshness_ends_anchored() {
    let (store, anchor, since) = filled();
    let grant = both(&anchor, true, since);
    let volume = open_with(&store, &anchor, grant, options(Freshness::Async)).unwrap();
    make(&volume, "more", &pattern(1, 9000));
    assert!(volume.rekey(&mut |_| true).unwrap().complete);
    assert_eq!(
        (volume.status().seq, volume.status().root),
        anchor.position()
    );
    drop(volume);
    let reader = open_grant(&store, &anchor, newest(&anchor, false, since)).unwrap();
    assert_eq!(content(&reader, "more"), pattern(1, 9000));
}

#[test]
fn test_rekey_of_an_authenticated_volume_seals_its_digests_anew() {
    let plain = Files::from([("plain/a".to_owned(), pattern(1, 9000))]);
    let (store, anchor) = (MemoryStore::new(plain), TestAnchor::virgin());
    let as_plain = |grant: Grant| Grant {
        protection: Protection::Authenticated,
        ..grant
    };
    let volume = open_grant(&store, &anchor, as_plain(anchor.grant(true))).unwrap();
    make(&volume, "a", &pattern(1, 9000));
    volume.close().unwrap();
    let since = anchor.state.lock().unwrap().0 + 1;
    let volume = open_grant(&store, &anchor, as_plain(both(&anchor, true, since))).unwrap();
    assert!(volume.rekey(&mut |_| true).unwrap().complete);
    volume.close().unwrap();
    let grant = as_plain(newest(&anchor, false, since));
    let reader = open_grant(&store, &anchor, grant).unwrap();
    assert_eq!(content(&reader, "a"), pattern(1, 9000));
    assert_eq!(reader.check().unwrap(), []);
}
