//! The values that Python receives; fields as in `_core.pyi`.
#![allow(missing_docs)] // documented in _core.pyi

use pyo3::prelude::*;

#[pyclass(frozen, get_all, module = "securetf._core")]
pub struct PackStats {
    files: u64,
    directories: u64,
    symlinks: u64,
    hard_links: u64,
    specials: u64,
    bytes: u64,
    kept: u64,
}

impl From<volume_pack::Tally> for PackStats {
    fn from(tally: volume_pack::Tally) -> Self {
        let volume_pack::Tally {
            files,
            directories,
            symlinks,
            hard_links,
            specials,
            bytes,
            kept,
        } = tally;
        Self {
            files,
            directories,
            symlinks,
            hard_links,
            specials,
            bytes,
            kept,
        }
    }
}

#[pymethods]
impl PackStats {
    fn __repr__(&self) -> String {
        format!(
            "PackStats(files={}, directories={}, bytes={})",
            self.files, self.directories, self.bytes
        )
    }
}

#[pyclass(frozen, get_all, module = "securetf._core")]
pub struct Entry {
    name: String,
    kind: &'static str,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime_ns: i64,
    target: Option<String>,
}

impl From<volume_pack::Entry> for Entry {
    fn from(entry: volume_pack::Entry) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            name: text(entry.name),
            kind: match entry.attr.kind {
                volume::FileType::File => "file",
                volume::FileType::Dir => "directory",
                volume::FileType::Symlink => "symlink",
                volume::FileType::Fifo => "fifo",
                volume::FileType::Socket => "socket",
                volume::FileType::CharDevice => "character device",
                volume::FileType::BlockDevice => "block device",
            },
            mode: entry.attr.mode,
            uid: entry.attr.uid,
            gid: entry.attr.gid,
            size: entry.attr.size,
            mtime_ns: entry.attr.mtime,
            target: entry.target.map(text),
        }
    }
}

#[pymethods]
impl Entry {
    fn __repr__(&self) -> String {
        format!(
            "Entry(name={:?}, kind={:?}, size={})",
            self.name, self.kind, self.size
        )
    }
}

#[pyclass(frozen, get_all, module = "securetf._core")]
pub struct Finding {
    path: String,
    what: String,
}

impl From<volume::Finding> for Finding {
    fn from(finding: volume::Finding) -> Self {
        Self {
            path: finding.path,
            what: finding.what,
        }
    }
}

#[pymethods]
impl Finding {
    fn __repr__(&self) -> String {
        format!("Finding(path={:?}, what={:?})", self.path, self.what)
    }
}

#[pyclass(frozen, get_all, module = "securetf._core")]
pub struct VolumeStatus {
    epoch: u32,
    seq: u64,
    root: [u8; 32],
    files: u64,
    bytes: u64,
    dead_bytes: u64,
    dirty_bytes: u64,
}

impl From<volume::Status> for VolumeStatus {
    fn from(status: volume::Status) -> Self {
        let volume::Status {
            epoch,
            seq,
            root,
            files,
            bytes,
            dead_bytes,
            dirty_bytes,
        } = status;
        Self {
            epoch,
            seq,
            root,
            files,
            bytes,
            dead_bytes,
            dirty_bytes,
        }
    }
}

#[pymethods]
impl VolumeStatus {
    fn __repr__(&self) -> String {
        format!(
            "VolumeStatus(epoch={}, seq={}, files={})",
            self.epoch, self.seq, self.files
        )
    }
}

#[pyclass(frozen, get_all, module = "securetf._core")]
pub struct MountStats {
    reads: u64,
    bytes_read: u64,
    writes: u64,
    bytes_written: u64,
    integrity_errors: u64,
    last_integrity_error: String,
    stale_errors: u64,
    read_ahead_refused: String,
    transport: &'static str,
}

impl From<volume_fuse::Stats> for MountStats {
    fn from(stats: volume_fuse::Stats) -> Self {
        Self {
            reads: stats.reads,
            bytes_read: stats.bytes_read,
            writes: stats.writes,
            bytes_written: stats.bytes_written,
            integrity_errors: stats.integrity_errors,
            last_integrity_error: stats.last_integrity_error,
            stale_errors: stats.stale_errors,
            read_ahead_refused: stats.read_ahead_refused,
            transport: stats.transport.name(),
        }
    }
}

#[pymethods]
impl MountStats {
    fn __repr__(&self) -> String {
        format!(
            "MountStats(reads={}, writes={}, integrity_errors={})",
            self.reads, self.writes, self.integrity_errors
        )
    }
}
