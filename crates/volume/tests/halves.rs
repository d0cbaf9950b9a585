//! A large write is sealed by two threads, and is one write all the same.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use securetf_volume::{Anchor, Freshness, Ino, Store, StoreError, Volume, VolumeError};
use support::history::{make, pattern};
use support::{MemoryStore, TestAnchor, TestEnvironment, open, options};

/// Half of a write that two threads seal, in bytes.
const HALF: usize = 256 << 10;
/// Until a test fails that would else wait for ever.
const LONG: Duration = Duration::from_secs(60);
const HELPER: &str = "volume-seal";

/// A store in which writes of data wait for one another.
struct Meeting {
    inner: Arc<MemoryStore>,
    /// Threads that have begun to write, and those whose write fails.
    seen: Mutex<(BTreeSet<&'static str>, Option<&'static str>)>,
    changed: Condvar,
    /// Who waits for whom to have begun.
    waits: &'static [(&'static str, &'static str)],
}

fn me() -> &'static str {
    match std::thread::current().name() {
        Some(HELPER) => HELPER,
        Some("another") => "another",
        _ => "writer",
    }
}

impl Meeting {
    fn meet(&self) -> Result<(), StoreError> {
        let mut seen = self.seen.lock().unwrap();
        seen.0.insert(me());
        self.changed.notify_all();
        for (_, other) in self.waits.iter().filter(|(who, _)| *who == me()) {
            let absent = |seen: &mut (BTreeSet<&str>, Option<&str>)| !seen.0.contains(other);
            let (now, waited) = self.changed.wait_timeout_while(seen, LONG, absent).unwrap();
            if waited.timed_out() {
                return Err(StoreError::Io(format!(
                    "{} waited in vain for {other}",
                    me()
                )));
            }
            seen = now;
        }
        match seen.1 == Some(me()) {
            true => Err(StoreError::NoSpace),
            false => Ok(()),
        }
    }

    fn fail(&self, who: Option<&'static str>) {
        let mut seen = self.seen.lock().unwrap();
        *seen = (BTreeSet::new(), who);
    }
}

impl Store for Meeting {
    fn read_at(&self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize, StoreError> {
        self.inner.read_at(path, offset, buf)
    }
    fn size(&self, path: &str) -> Result<u64, StoreError> {
        self.inner.size(path)
    }
    fn write_at(&self, path: &str, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        if path.starts_with("data/") && data.len() == HALF {
            self.meet()?;
        }
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
        self.inner.lock_exclusive()
    }
}

struct Scene {
    store: Arc<Meeting>,
    anchor: Arc<TestAnchor>,
    volume: Arc<Volume>,
}

fn scene(waits: &'static [(&'static str, &'static str)]) -> Scene {
    let store = Arc::new(Meeting {
        inner: MemoryStore::new(Default::default()),
        seen: Mutex::default(),
        changed: Condvar::new(),
        waits,
    });
    let anchor = TestAnchor::virgin();
    let mut options = options(Freshness::Group);
    options.sealers = 2;
    let volume = Volume::open_with(
        Arc::clone(&store) as Arc<dyn Store>,
        Some(Arc::clone(&anchor) as Arc<dyn Anchor>),
        Arc::new(TestEnvironment::default()),
        anchor.grant(true),
        options,
    );
    let volume = volume.unwrap();
    Scene {
        store,
        anchor,
        volume,
    }
}

impl Scene {
    fn read(&self, ino: Ino, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length + 1];
        let count = self.volume.read(ino, 0, &mut bytes).unwrap();
        bytes.truncate(count);
        bytes
    }

    /// Closes the volume and returns what a reader then finds.
    fn read_again(self, ino: Ino, length: usize) -> Vec<u8> {
        self.volume.close().unwrap();
        let volume = open(&self.store.inner, &self.anchor, false).unwrap();
        assert!(volume.check().unwrap().is_empty());
        Self { volume, ..self }.read(ino, length)
    }
}

/// Both wait for the other: neither half is done before the other has begun.
const AT_ONCE: &[(&str, &str)] = &[("writer", HELPER), (HELPER, "writer")];

#[test]
fn test_halves_of_a_large_write_are_sealed_at_once_and_lie_in_segments_of_their_own() {
    let scene = scene(AT_ONCE);
    let ino = make(&scene.volume, "file", b"");
    let content = pattern(3, 2 * HALF + 5000); // and a piece of a chunk, which waits in memory
    assert_eq!(scene.volume.write(ino, 0, &content), Ok(content.len()));
    assert!(scene.read(ino, content.len()) == content);
    let segments =
        |(path, bytes): (&String, &Vec<u8>)| path.starts_with("data/").then_some(bytes.len());
    let stored = scene.store.inner.snapshot();
    let mut lengths: Vec<_> = stored.iter().filter_map(segments).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [HALF, HALF + 4096]); // of an odd number of chunks the second half has one more
    assert!(scene.read_again(ino, content.len()) == content);
}

#[test]
fn test_a_large_write_of_which_one_half_fails_changes_nothing_and_can_be_made_again() {
    for who in ["writer", HELPER] {
        let scene = scene(AT_ONCE);
        let before = pattern(5, 9000);
        let ino = make(&scene.volume, "file", b"");
        scene.volume.write(ino, 0, &before[..4000]).unwrap();
        scene.volume.write(ino, 4000, &before[4000..]).unwrap();
        let pieces = scene.volume.status().dirty_bytes;
        scene.store.fail(Some(who));
        let content = pattern(6, 2 * HALF);
        let refused = scene.volume.write(ino, 0, &content);
        assert_eq!(refused, Err(VolumeError::NoSpace), "{who}");
        assert!(scene.read(ino, 9000) == before, "{who}");
        assert_eq!(scene.volume.status().dirty_bytes, pieces, "{who}");
        assert_eq!(scene.volume.status().dead_bytes, 2 * HALF as u64, "{who}");
        scene.store.fail(None);
        assert_eq!(scene.volume.write(ino, 0, &content), Ok(content.len()));
        assert_eq!(scene.volume.status().dead_bytes, 0, "{who}: slots are used");
        assert!(scene.read_again(ino, content.len()) == content, "{who}");
    }
}

#[test]
fn test_a_large_write_when_the_other_thread_is_busy_is_sealed_by_who_makes_it() {
    // The half of `another`, with the helper, ends when `writer` has begun; that one's whole write waits for nobody.
    let scene = scene(&[("another", HELPER), (HELPER, "writer"), ("writer", HELPER)]);
    let (first, second) = (pattern(1, 2 * HALF), pattern(2, 2 * HALF));
    let files = [make(&scene.volume, "a", b""), make(&scene.volume, "b", b"")];
    std::thread::scope(|scope| {
        let another = std::thread::Builder::new().name("another".to_owned());
        let another = another
            .spawn_scoped(scope, || scene.volume.write(files[0], 0, &first))
            .unwrap();
        let seen = scene.store.seen.lock().unwrap();
        let begun = scene
            .store
            .changed
            .wait_timeout_while(seen, LONG, |seen| !seen.0.contains(HELPER));
        assert!(
            !begun.unwrap().1.timed_out(),
            "the helper has nothing to do"
        );
        assert_eq!(scene.volume.write(files[1], 0, &second), Ok(second.len()));
        assert_eq!(another.join().unwrap(), Ok(first.len()));
    });
    assert!(scene.read(files[0], first.len()) == first);
    assert!(scene.read_again(files[1], second.len()) == second);
}
