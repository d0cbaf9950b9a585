//! Values of history and maintenance, as in `_core.pyi`.
#![allow(missing_docs)] // documented in _core.pyi

use pyo3::prelude::*;
use volume_pack::Difference;

use crate::convert::of_volume;
use crate::volume::{PyVolume, observing};

#[pyclass(frozen, get_all, module = "securetf._core")]
pub struct Commit {
    seq: u64,
    root: [u8; 32],
    epoch: u32,
    time_ns: Option<i64>,
    inodes: u64,
    names: u64,
    journal_bytes: u64,
    mount: bool,
    snapshot: bool,
}

impl From<volume::Commit> for Commit {
    fn from(commit: volume::Commit) -> Self {
        let volume::Commit {
            seq,
            root,
            epoch,
            time,
            inodes,
            names,
            journal_bytes,
            mount,
            snapshot,
        } = commit;
        Self {
            seq,
            root,
            epoch,
            time_ns: time,
            inodes,
            names,
            journal_bytes,
            mount,
            snapshot,
        }
    }
}

#[pymethods]
impl Commit {
    fn __repr__(&self) -> String {
        format!("Commit(seq={}, epoch={})", self.seq, self.epoch)
    }
}

#[pyclass(frozen, get_all, module = "securetf._core")]
pub struct Compacted {
    segments: u64,
    moved_bytes: u64,
    dead_before: u64,
    dead_after: u64,
}

impl From<volume::Compacted> for Compacted {
    fn from(done: volume::Compacted) -> Self {
        let volume::Compacted {
            segments,
            moved_bytes,
            dead_before,
            dead_after,
        } = done;
        Self {
            segments,
            moved_bytes,
            dead_before,
            dead_after,
        }
    }
}

#[pymethods]
impl Compacted {
    fn __repr__(&self) -> String {
        format!(
            "Compacted(segments={}, dead_after={})",
            self.segments, self.dead_after
        )
    }
}

#[pyclass(frozen, get_all, module = "securetf._core")]
pub struct Change {
    path: String,
    kind: &'static str,
}

impl From<volume_pack::Change> for Change {
    fn from(change: volume_pack::Change) -> Self {
        Self {
            path: String::from_utf8_lossy(&change.path).into_owned(),
            kind: match change.difference {
                Difference::Added => "added",
                Difference::Removed => "removed",
                Difference::Content => "content",
                Difference::Attributes => "attributes",
                Difference::Unreadable => "unreadable",
            },
        }
    }
}

#[pymethods]
impl Change {
    fn __repr__(&self) -> String {
        format!("Change(path={:?}, kind={:?})", self.path, self.kind)
    }
}

#[pyfunction]
#[pyo3(signature = (volume, progress = None))]
pub fn rekey(
    py: Python<'_>,
    volume: &PyVolume,
    progress: Option<Py<PyAny>>,
) -> PyResult<(u64, bool)> {
    let volume = volume.shared()?;
    let (raised, outcome) = observing(py, progress.as_ref(), |observe| {
        volume.rekey(&mut |moved| observe(0, moved))
    });
    raised?;
    let done = outcome.map_err(|error| of_volume(py, &error))?;
    Ok((done.moved_bytes, done.complete))
}
