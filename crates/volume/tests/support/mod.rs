//! What the tests share: a store in memory that records, an anchor, a clock, and a model of a file system.
#![allow(
    dead_code,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing
)]

pub mod history;
pub mod model;
pub mod program;
pub mod scene;
pub mod view;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use securetf_volume::{
    Anchor, AnchorError, Environment, Freshness, Grant, Options, Position, Protection, Store,
    StoreError, Volume, VolumeError, VolumeKey,
};

pub const KEY: [u8; 32] = [0x42; 32];
/// The next version of the key.
pub const NEW_KEY: [u8; 32] = [0x17; 32];
pub const VOLUME_ID: [u8; 16] = *b"the-test-volume!";

#[derive(Clone, Debug)]
pub enum Event {
    Write {
        path: String,
        offset: u64,
        data: Vec<u8>,
    },
    Sync(String),
    SyncDir(String),
    Remove(String),
    Replace {
        path: String,
        data: Vec<u8>,
    },
    Advance {
        epoch: u32,
        to: Position,
    },
    /// The program was told that version `0` of its state is safe.
    Acknowledged(usize),
}

pub type Files = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
pub struct MemoryStore {
    pub files: Mutex<Files>,
    pub events: Option<Arc<Mutex<Vec<Event>>>>,
    /// Bytes until the disk is full.
    pub room: Option<AtomicI64>,
    /// The store fails from this call on.
    pub fail_after: Option<AtomicI64>,
}

impl MemoryStore {
    pub fn new(files: Files) -> Arc<Self> {
        Arc::new(Self {
            files: Mutex::new(files),
            ..Self::default()
        })
    }

    pub fn snapshot(&self) -> Files {
        self.files.lock().unwrap().clone()
    }

    fn record(&self, event: Event) {
        if let Some(events) = &self.events {
            events.lock().unwrap().push(event);
        }
    }

    fn step(&self, bytes: usize) -> Result<(), StoreError> {
        if let Some(left) = &self.fail_after
            && left.fetch_sub(1, Ordering::SeqCst) <= 0
        {
            return Err(StoreError::Io("input/output error".to_owned()));
        }
        if let Some(room) = &self.room
            && room.fetch_sub(bytes as i64, Ordering::SeqCst) < bytes as i64
        {
            room.fetch_add(bytes as i64, Ordering::SeqCst);
            return Err(StoreError::NoSpace);
        }
        Ok(())
    }
}

pub fn write_into(files: &mut Files, path: &str, offset: u64, data: &[u8]) {
    let file = files.entry(path.to_owned()).or_default();
    let end = offset as usize + data.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset as usize..end].copy_from_slice(data);
}

impl Store for MemoryStore {
    fn read_at(&self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize, StoreError> {
        let files = self.files.lock().unwrap();
        let file = files.get(path).ok_or(StoreError::NotFound)?;
        let rest = file.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn size(&self, path: &str) -> Result<u64, StoreError> {
        let files = self.files.lock().unwrap();
        files
            .get(path)
            .map(|file| file.len() as u64)
            .ok_or(StoreError::NotFound)
    }

    fn write_at(&self, path: &str, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        let held = self.size(path).unwrap_or(0) as usize;
        self.step((offset as usize + data.len()).saturating_sub(held))?;
        self.record(Event::Write {
            path: path.to_owned(),
            offset,
            data: data.to_vec(),
        });
        write_into(&mut self.files.lock().unwrap(), path, offset, data);
        Ok(())
    }

    fn sync(&self, path: &str) -> Result<(), StoreError> {
        self.step(0)?;
        if !self.files.lock().unwrap().contains_key(path) {
            return Err(StoreError::NotFound);
        }
        self.record(Event::Sync(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> Result<(), StoreError> {
        self.step(0)?;
        self.record(Event::SyncDir(dir.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<(), StoreError> {
        self.record(Event::Remove(path.to_owned()));
        self.files
            .lock()
            .unwrap()
            .remove(path)
            .map(|_| ())
            .ok_or(StoreError::NotFound)
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, StoreError> {
        let prefix = format!("{dir}/");
        let files = self.files.lock().unwrap();
        let names = files.keys().filter_map(|path| path.strip_prefix(&prefix));
        let mut names: Vec<String> = names
            .map(|rest| rest.split('/').next().unwrap().to_owned())
            .collect();
        names.dedup();
        Ok(names)
    }

    fn replace(&self, path: &str, data: &[u8]) -> Result<(), StoreError> {
        self.step(data.len())?;
        self.record(Event::Replace {
            path: path.to_owned(),
            data: data.to_vec(),
        });
        self.files
            .lock()
            .unwrap()
            .insert(path.to_owned(), data.to_vec());
        Ok(())
    }

    fn lock_exclusive(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// How the anchor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Does not answer and does nothing.
    Silent,
    /// Advances, but the answer is lost.
    AnswerLost,
    Refusing,
    /// Advances after some milliseconds, as over a network.
    Slow,
}

/// A CAS of one volume.
pub struct TestAnchor {
    pub state: Mutex<(u32, Position)>,
    pub leased: Mutex<Duration>,
    pub mood: Mutex<Mood>,
    pub events: Option<Arc<Mutex<Vec<Event>>>>,
}

impl TestAnchor {
    pub fn at(epoch: u32, position: Position) -> Arc<Self> {
        Self::recording(epoch, position, None)
    }

    pub fn virgin() -> Arc<Self> {
        Self::at(0, (0, [0; 32]))
    }

    pub fn recording(
        epoch: u32,
        position: Position,
        events: Option<Arc<Mutex<Vec<Event>>>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new((epoch, position)),
            leased: Mutex::default(),
            mood: Mutex::new(Mood::Well),
            events,
        })
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub fn position(&self) -> Position {
        self.state.lock().unwrap().1
    }

    pub fn grant(&self, writable: bool) -> Grant {
        let mut state = self.state.lock().unwrap();
        state.0 += u32::from(writable);
        let (epoch, (seq, root)) = *state;
        Grant {
            volume_id: VOLUME_ID,
            key: VolumeKey::new(KEY),
            key_version: 1,
            key_since: 0,
            older_key: None,
            kept_since: 0,
            epoch,
            seq,
            root,
            writable,
            chunk_size: 4096,
            protection: Protection::Encrypted,
        }
    }

    /// While the volume is re-keyed: both keys, the newer from epoch `since` on.
    pub fn rekeyed(&self, writable: bool, since: u32) -> Grant {
        Grant {
            key: VolumeKey::new(NEW_KEY),
            key_version: 2,
            key_since: since,
            older_key: Some(VolumeKey::new(KEY)),
            ..self.grant(writable)
        }
    }
}

impl Anchor for TestAnchor {
    fn leased(&self) -> Duration {
        *self.leased.lock().unwrap()
    }

    fn advance(&self, epoch: u32, from: Position, to: Position) -> Result<(), AnchorError> {
        let mood = *self.mood.lock().unwrap();
        if mood == Mood::Silent {
            return Err(AnchorError::Unreachable("no route".to_owned()));
        }
        if mood == Mood::Refusing {
            return Err(AnchorError::Refused("the session was withdrawn".to_owned()));
        }
        if mood == Mood::Slow {
            std::thread::sleep(Duration::from_millis(3));
        }
        let mut state = self.state.lock().unwrap();
        if epoch != state.0 {
            return Err(AnchorError::Fenced);
        }
        if from != state.1 || to.0 <= from.0 {
            return Err(AnchorError::Conflict);
        }
        state.1 = to;
        if let Some(events) = &self.events {
            events.lock().unwrap().push(Event::Advance { epoch, to });
        }
        match mood {
            Mood::AnswerLost => Err(AnchorError::Unreachable("the answer was lost".to_owned())),
            _ => Ok(()),
        }
    }
}

/// A clock that ticks with each look and numbers for random bytes.
#[derive(Default)]
pub struct TestEnvironment {
    ticks: AtomicI64,
    drawn: AtomicU64,
}

impl Environment for TestEnvironment {
    fn now(&self) -> i64 {
        1_800_000_000_000_000_000 + self.ticks.fetch_add(1000, Ordering::SeqCst)
    }

    fn random(&self, out: &mut [u8]) {
        let number = self.drawn.fetch_add(1, Ordering::SeqCst) + 1;
        for (place, byte) in out.iter_mut().zip(number.to_be_bytes().iter().cycle()) {
            *place = *byte;
        }
    }
}

/// No background thread, small limits.
pub fn options(freshness: Freshness) -> Options {
    let mut options = Options::new(freshness);
    options.commit_interval = None;
    options.anchor_deadline = Duration::ZERO;
    (options.dirty_limit, options.sealers) = (64 << 10, 1); // writes are in the program's order
    options.snapshot_after = 8 << 10;
    options
}

pub fn open(
    store: &Arc<MemoryStore>,
    anchor: &Arc<TestAnchor>,
    writable: bool,
) -> Result<Arc<Volume>, VolumeError> {
    open_grant(store, anchor, anchor.grant(writable))
}

pub fn open_grant(
    store: &Arc<MemoryStore>,
    anchor: &Arc<TestAnchor>,
    grant: Grant,
) -> Result<Arc<Volume>, VolumeError> {
    let freshness = if grant.writable {
        Freshness::Group
    } else {
        Freshness::Pinned
    };
    open_with(store, anchor, grant, options(freshness))
}

pub fn open_with(
    store: &Arc<MemoryStore>,
    anchor: &Arc<TestAnchor>,
    grant: Grant,
    options: Options,
) -> Result<Arc<Volume>, VolumeError> {
    let (store, anchor): (Arc<dyn Store>, Arc<dyn Anchor>) = (store.clone(), anchor.clone());
    let clock = Arc::new(TestEnvironment::default());
    Volume::open_with(store, Some(anchor), clock, grant, options)
}

pub fn open_as(
    store: &Arc<MemoryStore>,
    anchor: &Arc<TestAnchor>,
    freshness: Freshness,
) -> Result<Arc<Volume>, VolumeError> {
    open_with(store, anchor, anchor.grant(true), options(freshness))
}

pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Without snapshots.
pub fn open_roomy(store: &Arc<MemoryStore>, anchor: &Arc<TestAnchor>) -> Arc<Volume> {
    let mut options = options(Freshness::Group);
    options.snapshot_after = 16 << 20;
    open_with(store, anchor, anchor.grant(true), options).unwrap()
}
