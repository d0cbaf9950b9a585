//! The store: reads by ranges through the cache; writes into a directory of this machine, uploaded when they are to be
//! durable.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;
use volume::{Store, StoreError, VolumeError};
use volume_store::Directory;

use crate::Config;
use crate::cache::{BLOCK, Cache};
use crate::client::Client;

/// Blocks that are fetched ahead of a reader, and most fetches of that kind at once.
const AHEAD: u64 = 4;
const AHEAD_MAX: usize = 4;

type Result<T> = std::result::Result<T, StoreError>;

/// A volume's objects in a bucket.
pub struct Bucket {
    reading: Arc<Reading>,
    writing: Option<Writing>,
}

struct Reading {
    client: Client,
    cache: Cache,
    ahead: AtomicUsize,
}

/// Objects of this open: the engine writes no others.
struct Writing {
    staged: Directory,
    _directory: TempDir,
    objects: Mutex<Objects>,
}

#[derive(Default)]
struct Objects {
    all: HashSet<String>,
    /// Those that the bucket does not have in their newest form.
    changed: HashSet<String>,
}

impl Bucket {
    /// Opens the bucket, for reading only or for writing too.
    ///
    /// # Errors
    /// `Io` if the configuration is unfit or this machine's directory cannot be used; the bucket is not asked yet.
    pub fn open(config: &Config, writable: bool) -> Result<Self> {
        let reading = Reading {
            client: Client::new(config)?,
            cache: Cache::new(&config.directory, config.cache_bytes)?,
            ahead: AtomicUsize::new(0),
        };
        let writing = if writable {
            Some(Writing::new(config)?)
        } else {
            None
        };
        Ok(Self {
            reading: Arc::new(reading),
            writing,
        })
    }

    /// Checks before a new volume is made that nothing of others lies where its objects will be.
    ///
    /// # Errors
    /// `Format` naming what lies there; `Io`.
    pub fn check_is_free(&self) -> std::result::Result<(), VolumeError> {
        let own = ["superblock-0", "superblock-1", "metadata", "data"];
        let names = self.reading.client.list("")?;
        let Some(other) = names.iter().find(|name| !own.contains(&name.as_str())) else {
            return Ok(());
        };
        let shown: String = other
            .chars()
            .take(64)
            .flat_map(char::escape_default)
            .collect();
        Err(VolumeError::Format {
            problem: format!(
                "{} holds something else, such as {shown}",
                self.reading.client.what("the place", "")
            ),
            fix: "name a prefix that holds nothing: s3://BUCKET/PREFIX".to_owned(),
        })
    }

    fn writing(&self) -> Result<&Writing> {
        let message = "the bucket was opened for reading";
        self.writing
            .as_ref()
            .ok_or_else(|| StoreError::Io(message.to_owned()))
    }

    /// The directory with the newest form of an object of this open.
    fn staged(&self, path: &str) -> Option<&Directory> {
        let writing = self.writing.as_ref()?;
        let staged = writing.objects().all.contains(path);
        staged.then_some(&writing.staged)
    }
}

impl Reading {
    /// Reads through the cache, and fetches ahead of one who reads on from what is in it.
    fn read_at(self: &Arc<Self>, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            let (number, within) = (at / BLOCK, usize::try_from(at % BLOCK).unwrap_or(0));
            if number > 0 && within == 0 && self.cache.has(path, number - 1) {
                self.fetch_ahead(path, number + 1);
            }
            let (count, length) = self.cache.read(path, number, within, rest, || {
                self.client.read(path, number * BLOCK, BLOCK)
            })?;
            done += count;
            if length as u64 != BLOCK && within + count >= length {
                break;
            }
        }
        Ok(done)
    }

    fn fetch_ahead(self: &Arc<Self>, path: &str, from: u64) {
        for number in from..from + AHEAD {
            if self.cache.has(path, number) {
                continue;
            }
            if self.ahead.fetch_add(1, Ordering::SeqCst) >= AHEAD_MAX {
                self.ahead.fetch_sub(1, Ordering::SeqCst);
                return;
            }
            let (reading, path) = (Arc::clone(self), path.to_owned());
            let thread = std::thread::Builder::new().name("bucket-ahead".to_owned());
            let started = thread.spawn(move || {
                let fetch = || reading.client.read(&path, number * BLOCK, BLOCK);
                // Whoever needs the block learns of a failure.
                let _ = reading.cache.read(&path, number, 0, &mut [], fetch);
                reading.ahead.fetch_sub(1, Ordering::SeqCst);
            });
            if started.is_err() {
                self.ahead.fetch_sub(1, Ordering::SeqCst);
                return;
            }
        }
    }
}

impl Writing {
    fn new(config: &Config) -> Result<Self> {
        let failed = |error: std::io::Error| {
            let directory = config.directory.display();
            StoreError::Io(format!("make a directory in {directory}: {error}"))
        };
        let directory = tempfile::Builder::new()
            .prefix("securetf-upload-")
            .tempdir_in(&config.directory)
            .map_err(failed)?;
        Ok(Self {
            staged: Directory::open(directory.path(), true)?,
            _directory: directory,
            objects: Mutex::default(),
        })
    }

    fn objects(&self) -> std::sync::MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn whole(&self, path: &str) -> Result<Vec<u8>> {
        let size = self.staged.size(path)?;
        let mut data = vec![0; usize::try_from(size).unwrap_or(0)];
        let got = self.staged.read_at(path, 0, &mut data)?;
        data.truncate(got);
        Ok(data)
    }
}

impl Store for Bucket {
    fn read_at(&self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if let Some(staged) = self.staged(path) {
            return staged.read_at(path, offset, buf);
        }
        if path.contains('/') {
            return self.reading.read_at(path, offset, buf);
        }
        // Superblocks change, and are asked for once.
        let data = self.reading.client.read(path, offset, buf.len() as u64)?;
        buf.iter_mut().zip(&data).for_each(|(to, from)| *to = *from);
        Ok(data.len().min(buf.len()))
    }

    fn size(&self, path: &str) -> Result<u64> {
        match self.staged(path) {
            Some(staged) => staged.size(path),
            None => self.reading.client.size(path),
        }
    }

    fn write_at(&self, path: &str, offset: u64, data: &[u8]) -> Result<()> {
        let writing = self.writing()?;
        writing.staged.write_at(path, offset, data)?;
        let mut objects = writing.objects();
        objects.all.insert(path.to_owned());
        objects.changed.insert(path.to_owned());
        Ok(())
    }

    fn sync(&self, path: &str) -> Result<()> {
        let writing = self.writing()?;
        if !writing.objects().all.contains(path) {
            return Err(StoreError::NotFound);
        }
        if !writing.objects().changed.remove(path) {
            return Ok(());
        }
        let uploaded = writing
            .whole(path)
            .and_then(|data| self.reading.client.put(path, &data));
        if uploaded.is_err() {
            writing.objects().changed.insert(path.to_owned());
        }
        uploaded
    }

    /// A bucket has no directories.
    fn sync_dir(&self, _dir: &str) -> Result<()> {
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<()> {
        let writing = self.writing()?;
        let staged = {
            let mut objects = writing.objects();
            objects.changed.remove(path);
            objects.all.remove(path)
        };
        if staged {
            writing.staged.remove(path)?;
        }
        self.reading.cache.forget(path);
        self.reading.client.remove(path)
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.reading.client.list(dir)
    }

    fn replace(&self, path: &str, data: &[u8]) -> Result<()> {
        self.writing()?;
        self.reading.client.put(path, data)
    }

    /// A bucket has no locks: two writers have two epochs, write to different objects, and the anchor takes one of them.
    fn lock_exclusive(&self) -> Result<()> {
        self.writing().map(drop)
    }
}
