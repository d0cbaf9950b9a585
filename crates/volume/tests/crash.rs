//! An honest crash at any point opens clean and keeps everything that was acknowledged.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use securetf_volume::{Freshness, Grant, NodeKind, Position, ROOT_INO, VolumeError};
use support::history::{make, pattern};
use support::model::{self, Model, Op, View};
use support::program::random_op;
use support::{
    Event, Files, MemoryStore, Mood, Rng, TestAnchor, open, open_as, open_grant, write_into,
};

/// What the disk has kept of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Everything.
    Nothing,
    /// Nothing.
    Unsynced,
    /// Some of it, and of some writes only a part.
    Torn,
}

/// A recorded program: all events, and the views that commits could have seen, by number.
struct Recording {
    events: Vec<Event>,
    views: Vec<View>,
}

fn record(seed: u64, steps: usize, freshness: Freshness) -> Recording {
    let mut rng = Rng(seed);
    let events = Arc::new(Mutex::new(Vec::new()));
    let store = Arc::new(MemoryStore {
        events: Some(Arc::clone(&events)),
        ..MemoryStore::default()
    });
    let anchor = TestAnchor::recording(0, (0, [0; 32]), Some(Arc::clone(&events)));
    let mut volume = open_as(&store, &anchor, freshness).unwrap();
    let mut expected = Model::default();
    let mut views = vec![expected.view()];
    events.lock().unwrap().push(Event::Acknowledged(0));
    for step in 0..steps {
        let op = random_op(&mut rng);
        let outcome = expected.apply(&op);
        views.push(expected.view());
        if matches!(op, Op::Sync) && freshness == Freshness::Async {
            volume.fsync(None).unwrap();
        } else {
            assert_eq!(model::apply(&volume, &op), outcome);
        }
        if matches!(op, Op::Sync) {
            events
                .lock()
                .unwrap()
                .push(Event::Acknowledged(views.len() - 1));
        }
        if freshness == Freshness::Async && step % 7 == 0 {
            volume.sync(None).unwrap(); // as the thread that follows with the anchor, now and then
        }
        if step == steps / 2 {
            volume.close().unwrap();
            events
                .lock()
                .unwrap()
                .push(Event::Acknowledged(views.len() - 1));
            volume = open_as(&store, &anchor, freshness).unwrap();
        }
    }
    volume.close().unwrap();
    let events = events.lock().unwrap().clone();
    Recording { events, views }
}

/// Whether the names of `path` and of its directories were synced after they were made.
fn is_name_durable(past: &[Event], path: &str) -> bool {
    let mut name = path;
    while let Some(dir) = Some(name.rsplit_once('/').map_or("", |(dir, _)| dir)) {
        let inside = format!("{name}/");
        let removed = |event: &Event| matches!(event, Event::Remove(gone) if gone == name);
        let since = past.iter().rposition(removed).map_or(0, |at| at + 1);
        let made = past[since..].iter().position(|event| {
            matches!(event, Event::Write { path, .. } if path == name || path.starts_with(&inside))
        });
        let synced = past
            .iter()
            .rposition(|event| matches!(event, Event::SyncDir(of) if of == dir));
        if made.is_some_and(|made| synced.is_none_or(|synced| synced < made + since)) {
            return false;
        }
        if dir.is_empty() {
            break;
        }
        name = dir;
    }
    true
}

/// The disk after a crash before event `point`.
fn disk(events: &[Event], point: usize, loss: Loss, rng: &mut Rng) -> Files {
    let past = &events[..point];
    let mut synced: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, event) in past.iter().enumerate() {
        if let Event::Sync(path) = event {
            synced.insert(path, at);
        }
    }
    let mut files = Files::new();
    for (at, event) in past.iter().enumerate() {
        match event {
            Event::Write { path, offset, data } => {
                let durable = synced.get(path.as_str()).is_some_and(|sync| at < *sync);
                let keep = match loss {
                    _ if durable => data.len(),
                    Loss::Nothing => data.len(),
                    Loss::Unsynced => continue,
                    Loss::Torn => [0, data.len(), rng.below(data.len() as u64 + 1) as usize]
                        [rng.below(3) as usize],
                };
                write_into(&mut files, path, *offset, &data[..keep]);
            }
            // A removal that the disk forgot brings the file back: so in half of the torn cases.
            Event::Remove(path) if loss != Loss::Torn || rng.below(2) == 0 => {
                files.remove(path);
            }
            Event::Replace { path, data } => {
                files.insert(path.clone(), data.clone());
            }
            _ => {}
        }
    }
    if loss == Loss::Unsynced {
        files.retain(|path, _| path.contains("superblock") || is_name_durable(past, path));
    }
    files
}

fn anchored(events: &[Event]) -> (u32, Position) {
    let last = |event: &Event| match event {
        Event::Advance { epoch, to } => Some((*epoch, *to)),
        _ => None,
    };
    events
        .iter()
        .rev()
        .find_map(last)
        .unwrap_or((0, (0, [0; 32])))
}

fn check_point(recording: &Recording, point: usize, loss: Loss, seed: u64) {
    let mut rng = Rng(seed ^ point as u64);
    let context = format!("seed {seed}, point {point}, {loss:?}");
    let past = &recording.events[..point];
    let (epoch, position) = anchored(past);
    let acknowledged = past.iter().rev().find_map(|event| match event {
        Event::Acknowledged(version) => Some(*version),
        _ => None,
    });
    let files = disk(&recording.events, point, loss, &mut rng);
    // The epoch of an open that crashed before its first advance was given out as well.
    let anchor = TestAnchor::at(epoch + 1, position);
    let store = MemoryStore::new(files);
    if position.0 > 0 {
        let reader =
            open(&store, &anchor, false).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!(reader.check().unwrap(), [], "{context}");
    }
    let volume = open(&store, &anchor, true).unwrap_or_else(|error| panic!("{context}: {error}"));
    let seen = model::view(&volume).unwrap_or_else(|error| panic!("{context}: {error}"));
    let legal = &recording.views[acknowledged.unwrap_or(0)..];
    assert!(
        legal.contains(&seen),
        "{context}: not a state since version {acknowledged:?}"
    );
    // And life goes on.
    let mut expected = Model::default();
    drop(expected.apply(&Op::MakeDir("later".to_owned())));
    model::apply(&volume, &Op::MakeDir("later".to_owned())).unwrap();
    volume.close().unwrap();
    let reader = open(&store, &anchor, false).unwrap();
    assert!(
        model::view(&reader).unwrap().contains_key("later"),
        "{context}"
    );
    assert_eq!(
        open(
            &store,
            &TestAnchor::at(99, (position.0 + 1, [9; 32])),
            false
        )
        .err()
        .map(|e| e.kind()),
        Some("VolumeRollbackError")
    );
}

#[test]
fn test_a_crash_at_any_point_opens_clean_when_the_disk_kept_or_lost_what_was_not_synced() {
    let mut points = 0;
    let modes = [Freshness::Group, Freshness::Async];
    for (seed, freshness) in (0..6).flat_map(|seed| modes.map(|one| (seed, one))) {
        let recording = record(seed, 70, freshness);
        for point in 0..=recording.events.len() {
            for loss in [Loss::Nothing, Loss::Unsynced, Loss::Torn] {
                check_point(&recording, point, loss, seed);
                points += 1;
            }
        }
    }
    assert!(points > 1000, "{points} crash points");
}

#[test]
fn test_a_sync_that_the_disk_lied_about_is_an_alarm_when_the_anchored_record_is_gone() {
    let recording = record(3, 40, Freshness::Group);
    let (epoch, position) = anchored(&recording.events);
    let mut files = disk(
        &recording.events,
        recording.events.len(),
        Loss::Nothing,
        &mut Rng(0),
    );
    let journal = files
        .keys()
        .filter(|path| path.contains("journal"))
        .max()
        .unwrap()
        .clone();
    let file = files.get_mut(&journal).unwrap();
    file.truncate(file.len() - 1);
    let error = open(
        &MemoryStore::new(files),
        &TestAnchor::at(epoch, position),
        true,
    )
    .err()
    .unwrap();
    assert!(
        matches!(error, VolumeError::Rollback { anchored, .. } if anchored == position.0),
        "{error:?}"
    );
}

#[test]
fn test_a_commit_of_several_records_is_kept_only_whole() {
    let (store, anchor) = (MemoryStore::new(Files::new()), TestAnchor::virgin());
    let volume = open(&store, &anchor, true).unwrap();
    let anchored = anchor.position();
    anchor.set(Mood::Silent);
    for number in 0..12_000 {
        let name = format!("{number:0>200}");
        let ino = volume
            .make_node(ROOT_INO, name.as_bytes(), NodeKind::File, 0o644, 0, 0)
            .unwrap()
            .ino;
        volume.write(ino, 0, &[1; 100]).unwrap();
    }
    assert!(volume.sync(None).is_err());
    let whole = store.snapshot();
    let journal = whole.keys().find(|path| path.contains("journal")).unwrap();
    let mut cut = whole.clone();
    let file = cut.get_mut(journal).unwrap();
    assert!(file.len() > 3 << 20, "two records");
    file.truncate(file.len() - 100);
    for (files, expected) in [(whole.clone(), 12_000), (cut, 0)] {
        let next = open(&MemoryStore::new(files), &TestAnchor::at(5, anchored), true).unwrap();
        assert_eq!(model::view(&next).unwrap().len(), expected);
        assert_eq!(next.status().files, expected as u64 + 1);
    }
}

/// Re-keying a volume of two epochs, as events; the first epoch of the next key, and what a program sees throughout.
fn record_rekeying() -> (Vec<Event>, u32, View) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let store = Arc::new(MemoryStore {
        events: Some(Arc::clone(&events)),
        ..MemoryStore::default()
    });
    let anchor = TestAnchor::recording(0, (0, [0; 32]), Some(Arc::clone(&events)));
    for epoch in 0..2_u8 {
        let volume = open(&store, &anchor, true).unwrap();
        for number in 0..4_u8 {
            let size = [9000, 2500, 40, 70_000][usize::from(number)];
            make(
                &volume,
                &format!("{epoch} {number}"),
                &pattern(number, size),
            );
        }
        volume.close().unwrap();
    }
    let since = anchor.state.lock().unwrap().0 + 1;
    let begun = events.lock().unwrap().len();
    let volume = open_grant(&store, &anchor, anchor.rekeyed(true, since)).unwrap();
    let expected = model::view(&volume).unwrap();
    let mut files = 0;
    let done = volume.rekey(&mut |_| {
        files += 1;
        files != 4 // a commit in the middle
    });
    assert!(!done.unwrap().complete);
    assert!(volume.rekey(&mut |_| true).unwrap().complete);
    volume.close().unwrap();
    let mut all = events.lock().unwrap().clone();
    let marked = all.split_off(begun);
    all.push(Event::Acknowledged(0)); // where the re-keying begins
    all.extend(marked);
    (all, since, expected)
}

#[test]
fn test_a_crash_at_any_point_of_a_rekeying_loses_nothing_and_the_next_run_ends_it() {
    let (events, since, expected) = record_rekeying();
    let begun = events
        .iter()
        .position(|event| matches!(event, Event::Acknowledged(_)));
    let mut points = 0;
    for point in begun.unwrap()..=events.len() {
        for loss in [Loss::Nothing, Loss::Unsynced, Loss::Torn] {
            let context = format!("point {point}, {loss:?}");
            let store = MemoryStore::new(disk(&events, point, loss, &mut Rng(point as u64)));
            let (epoch, position) = anchored(&events[..point]);
            let anchor = TestAnchor::at(epoch.max(since - 1) + 1, position);
            let reader = open_grant(&store, &anchor, anchor.rekeyed(false, since)).unwrap();
            assert!(model::view(&reader).unwrap() == expected, "{context}");
            let volume = open_grant(&store, &anchor, anchor.rekeyed(true, since)).unwrap();
            assert!(volume.rekey(&mut |_| true).unwrap().complete, "{context}");
            volume.close().unwrap();
            let alone = Grant {
                older_key: None,
                kept_since: 0,
                ..anchor.rekeyed(false, since)
            };
            let reader = open_grant(&store, &anchor, alone).unwrap();
            assert!(model::view(&reader).unwrap() == expected, "{context}");
            assert_eq!(reader.check().unwrap(), [], "{context}");
            points += 1;
        }
    }
    assert!(points > 60, "{points} crash points");
}
