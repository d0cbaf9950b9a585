//! Each call to the store fails once, in each way that storage has: nothing acknowledged is lost, nothing torn is
//! visible, and no failure of the store passes for an attack.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use securetf_volume::{Anchor, Freshness, Store, StoreError, Volume, VolumeError};
use support::model::{self, Model, Op, View};
use support::program::random_op;
use support::{Files, MemoryStore, Rng, TestAnchor, TestEnvironment, open, options};

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Io,
    NoSpace,
    /// A part of a write arrives, then the disk fails.
    ShortIo,
    /// A part of a write arrives, then the disk is full.
    ShortNoSpace,
    /// All is done, and yet the answer is an error.
    DoneButIo,
}

const FAULTS: [Fault; 5] = [
    Fault::Io,
    Fault::NoSpace,
    Fault::ShortIo,
    Fault::ShortNoSpace,
    Fault::DoneButIo,
];

/// A store that fails at one call, or from it on.
struct Faulty {
    inner: Arc<MemoryStore>,
    calls: AtomicUsize,
    fails: std::ops::Range<usize>,
    fault: Fault,
}

impl Faulty {
    /// Does one call; `part` does what arrives of it when it is cut short.
    fn call<T>(
        &self,
        whole: impl FnOnce() -> Result<T, StoreError>,
        part: impl FnOnce(),
    ) -> Result<T, StoreError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        if !self.fails.contains(&number) {
            return whole();
        }
        match self.fault {
            Fault::ShortIo | Fault::ShortNoSpace => part(),
            Fault::DoneButIo => drop(whole()),
            Fault::Io | Fault::NoSpace => {}
        }
        Err(match self.fault {
            Fault::NoSpace | Fault::ShortNoSpace => StoreError::NoSpace,
            _ => StoreError::Io("input/output error".to_owned()),
        })
    }
}

impl Store for Faulty {
    fn read_at(&self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize, StoreError> {
        self.call(|| self.inner.read_at(path, offset, buf), || ())
    }
    fn size(&self, path: &str) -> Result<u64, StoreError> {
        self.call(|| self.inner.size(path), || ())
    }
    fn write_at(&self, path: &str, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        let part = || drop(self.inner.write_at(path, offset, &data[..data.len() / 2]));
        self.call(|| self.inner.write_at(path, offset, data), part)
    }
    fn sync(&self, path: &str) -> Result<(), StoreError> {
        self.call(|| self.inner.sync(path), || ())
    }
    fn sync_dir(&self, dir: &str) -> Result<(), StoreError> {
        self.call(|| self.inner.sync_dir(dir), || ())
    }
    fn remove(&self, path: &str) -> Result<(), StoreError> {
        self.call(|| self.inner.remove(path), || ())
    }
    fn list(&self, dir: &str) -> Result<Vec<String>, StoreError> {
        self.call(|| self.inner.list(dir), || ())
    }
    fn replace(&self, path: &str, data: &[u8]) -> Result<(), StoreError> {
        self.call(|| self.inner.replace(path, data), || ())
    }
    fn lock_exclusive(&self) -> Result<(), StoreError> {
        self.inner.lock_exclusive()
    }
}

/// The views that may be there after the program has ended: since the last acknowledged one.
type Legal = Vec<View>;

/// What the program must be told when the store fails: never that somebody changed the volume.
fn assert_no_alarm(error: &VolumeError, context: &str) {
    let kind = error.kind();
    assert!(
        ["VolumeIoError", "NoSpaceError"].contains(&kind),
        "{context}: {kind}: {error}"
    );
}

fn open_on(store: Arc<Faulty>, anchor: &Arc<TestAnchor>) -> Result<Arc<Volume>, VolumeError> {
    Volume::open_with(
        store,
        Some(Arc::clone(anchor) as Arc<dyn Anchor>),
        Arc::new(TestEnvironment::default()),
        anchor.grant(true),
        options(Freshness::Group),
    )
}

/// Runs a program until the store makes a call of it fail; a `sync` that fails is tried once more.
fn run(store: Arc<Faulty>, anchor: &Arc<TestAnchor>, seed: u64, context: &str) -> Legal {
    let (mut rng, mut expected) = (Rng(seed), Model::default());
    let mut legal = vec![expected.view()];
    for _ in 0..2 {
        let volume = match open_on(Arc::clone(&store), anchor) {
            Ok(volume) => volume,
            Err(error) => {
                assert_no_alarm(&error, context);
                return legal;
            }
        };
        for _ in 0..25 {
            let op = random_op(&mut rng);
            let outcome = expected.apply(&op);
            legal.push(expected.view());
            let mut found = model::apply(&volume, &op);
            if found != outcome && matches!(op, Op::Sync) {
                assert_no_alarm(&found.unwrap_err(), context);
                found = volume.sync(None);
            }
            if found != outcome {
                assert_no_alarm(&found.unwrap_err(), context);
                return legal;
            }
            if matches!(op, Op::Sync) {
                legal = vec![expected.view()];
            }
        }
        if let Err(error) = volume.close() {
            assert_no_alarm(&error, context);
            return legal;
        }
        legal = vec![expected.view()];
    }
    legal
}

/// Returns whether the fault was reached.
fn check(seed: u64, fault: Fault, fails: std::ops::Range<usize>) -> bool {
    let context = format!("seed {seed}, {fault:?} at the calls {fails:?}");
    let first = fails.start;
    let (inner, anchor) = (MemoryStore::new(Files::new()), TestAnchor::virgin());
    let store = Arc::new(Faulty {
        inner: Arc::clone(&inner),
        calls: AtomicUsize::new(0),
        fails,
        fault,
    });
    let legal = run(Arc::clone(&store), &anchor, seed, &context);
    let healthy = MemoryStore::new(inner.snapshot());
    if anchor.position().0 > 0 {
        let reader = open(&healthy, &anchor, false)
            .unwrap_or_else(|error| panic!("{context}: false alarm: {error}"));
        assert_eq!(reader.check().unwrap(), [], "{context}");
    }
    let volume = open(&healthy, &anchor, true)
        .unwrap_or_else(|error| panic!("{context}: false alarm: {error}"));
    let seen = model::view(&volume).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(legal.contains(&seen), "{context}: lost or torn");
    assert_eq!(volume.check().unwrap(), [], "{context}");
    store.calls.load(Ordering::SeqCst) > first
}

#[test]
fn test_a_store_that_fails_in_any_way_at_any_call_loses_nothing_and_raises_no_alarm() {
    let mut faults = 0;
    for seed in 0..3 {
        for fault in FAULTS {
            for first in 0.. {
                let once = check(seed, fault, first..first + 1);
                let for_ever = check(seed, fault, first..usize::MAX);
                faults += usize::from(once) + usize::from(for_ever);
                if !once {
                    break;
                }
            }
        }
    }
    println!("{faults} faults injected");
    assert!(faults > 1000, "{faults} faults");
}
