//! A directory as a store. Every path is resolved beneath the opened directory without following a link, and only
//! regular files are read: what the host plants (links, `..`, FIFOs) is an error.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{self, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::{self, Errno};
use volume::{Store, StoreError};

/// Most names in a directory that is listed: who has the storage can invent more without end.
const NAMES_MAX: usize = 1 << 20;
/// Descriptors kept open.
const CACHE_MAX: usize = 64;

/// A local directory.
#[derive(Debug)]
pub struct Directory {
    root: OwnedFd,
    writable: bool,
    open: Mutex<HashMap<String, Arc<OwnedFd>>>,
}

type Result<T> = std::result::Result<T, StoreError>;

impl Directory {
    /// Opens the directory; makes it (mode 0700) when it is to be written and missing.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn open(path: &Path, writable: bool) -> Result<Self> {
        if writable && !path.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|error| {
                    StoreError::Io(format!("make directory {}: {error}", path.display()))
                })?;
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = fs::open(path, flags, Mode::empty()).map_err(|error| {
            StoreError::Io(format!("open directory {}: {error}", path.display()))
        })?;
        Ok(Self {
            root,
            writable,
            open: Mutex::default(),
        })
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<OwnedFd>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens `path` beneath the root.
    fn open_at(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mode = if flags.contains(OFlags::CREATE) {
            Mode::RUSR | Mode::WUSR
        } else {
            Mode::empty()
        };
        let path = if path.is_empty() { "." } else { path };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match fs::openat2(&self.root, path, flags, mode, resolve) {
            Err(Errno::NOSYS | Errno::PERM) => self.open_stepwise(path, flags, mode),
            other => other,
        }
    }

    /// The same where `openat2` does not exist (before Linux 5.6, or filtered).
    fn open_stepwise(&self, path: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let (dirs, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut at = self.root.try_clone().map_err(|_| Errno::MFILE)?;
        let step = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for part in dirs.split('/').filter(|part| !part.is_empty()) {
            at = fs::openat(&at, part, step, Mode::empty())?;
        }
        fs::openat(&at, name, flags, mode)
    }

    /// A descriptor of a regular file, from the cache when possible.
    fn file(&self, path: &str, create: bool) -> Result<Arc<OwnedFd>> {
        if let Some(file) = self.cache().get(path) {
            return Ok(Arc::clone(file));
        }
        let access = if self.writable {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        };
        let flags = if create {
            access | OFlags::CREATE
        } else {
            access
        };
        let opened = match self.open_at(path, flags) {
            Err(Errno::NOENT) if create => {
                self.make_parents(path)?;
                self.open_at(path, flags)
            }
            other => other,
        };
        let file = opened.map_err(|error| failed("open", path, error))?;
        let stat = fs::fstat(&file).map_err(|error| failed("stat", path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(StoreError::NotRegular(path.to_owned()));
        }
        let file = Arc::new(file);
        let mut cache = self.cache();
        if cache.len() >= CACHE_MAX {
            cache.clear();
        }
        cache.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn make_parents(&self, path: &str) -> Result<()> {
        for (at, _) in path.match_indices('/') {
            let dir = path.get(..at).unwrap_or_default();
            let (parent, name) = dir.rsplit_once('/').unwrap_or(("", dir));
            let parent = self.directory(parent)?;
            match fs::mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed("make", dir, error)),
            }
        }
        Ok(())
    }

    fn directory(&self, dir: &str) -> Result<OwnedFd> {
        self.open_at(dir, OFlags::DIRECTORY | OFlags::RDONLY)
            .map_err(|error| failed("open", dir, error))
    }

    /// The directory of an object and its name in it.
    fn parent<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.directory(dir)?, name))
    }

    /// The names in a directory; more than `max` of them are an error.
    fn list_within(&self, dir: &str, max: usize) -> Result<Vec<String>> {
        let opened = match self.directory(dir) {
            Err(StoreError::NotFound) => return Ok(Vec::new()),
            other => other?,
        };
        let entries = Dir::new(opened).map_err(|error| failed("list", dir, error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", dir, error))?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                if names.len() == max {
                    return Err(StoreError::Io(format!("list {dir}: more than {max} names")));
                }
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn replace_in(dir: impl AsFd, name: &str, data: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.new");
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(
            &dir,
            &temporary,
            flags | OFlags::NONBLOCK,
            Mode::RUSR | Mode::WUSR,
        )?;
        write_all(&file, 0, data)?;
        fs::fsync(&file)?;
        fs::renameat(&dir, &temporary, &dir, name)?;
        fs::fsync(&dir)
    }
}

impl Store for Directory {
    fn read_at(&self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let file = self.file(path, false)?;
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match io::pread(&file, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("read", path, error)),
            }
        }
        Ok(done)
    }

    fn size(&self, path: &str) -> Result<u64> {
        let stat =
            fs::fstat(self.file(path, false)?).map_err(|error| failed("stat", path, error))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    fn write_at(&self, path: &str, offset: u64, data: &[u8]) -> Result<()> {
        let file = self.file(path, true)?;
        write_all(&file, offset, data).map_err(|error| failed("write", path, error))
    }

    fn sync(&self, path: &str) -> Result<()> {
        fs::fdatasync(self.file(path, false)?).map_err(|error| failed("sync", path, error))
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        fs::fsync(self.directory(dir)?).map_err(|error| failed("sync", dir, error))
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.cache().remove(path);
        let (dir, name) = self.parent(path)?;
        fs::unlinkat(&dir, name, AtFlags::empty()).map_err(|error| failed("remove", path, error))
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.list_within(dir, NAMES_MAX)
    }

    fn replace(&self, path: &str, data: &[u8]) -> Result<()> {
        if let Some((dir, _)) = path.rsplit_once('/') {
            self.make_parents(&format!("{dir}/"))?;
        }
        let (dir, name) = self.parent(path)?;
        self.cache().remove(path);
        Self::replace_in(&dir, name, data).map_err(|error| failed("replace", path, error))
    }

    fn lock_exclusive(&self) -> Result<()> {
        match fs::flock(&self.root, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(StoreError::Locked),
            Err(error) => Err(failed("lock", "the volume directory", error)),
        }
    }
}

fn write_all(file: impl AsFd, offset: u64, data: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
        match io::pwrite(&file, rest, offset + done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn failed(what: &str, path: &str, error: Errno) -> StoreError {
    match error {
        Errno::NOENT => StoreError::NotFound,
        Errno::NOSPC | Errno::DQUOT => StoreError::NoSpace,
        // A link, a file for a directory, a way out of the store, a socket, a device without a driver.
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV | Errno::NXIO | Errno::ISDIR | Errno::NODEV => {
            StoreError::NotRegular(path.to_owned())
        }
        error => StoreError::Io(format!("{what} {path}: {error}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn directory_with_more_names_than_are_looked_at_is_an_error_and_with_as_many_it_is_a_list() {
        let path = std::env::temp_dir().join(format!("securetf-names-{}", std::process::id()));
        std::fs::create_dir_all(path.join("metadata")).unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(path.join("metadata").join(name), b"").unwrap();
        }
        let store = Directory::open(&path, false).unwrap();
        assert_eq!(store.list_within("metadata", 3).unwrap().len(), 3);
        let error = store.list_within("metadata", 2).unwrap_err();
        assert_eq!(error.to_string(), "list metadata: more than 2 names");
        std::fs::remove_dir_all(&path).unwrap();
    }
}
