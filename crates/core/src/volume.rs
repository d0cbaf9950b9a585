//! Volumes.
#![allow(missing_docs)] // documented in _core.pyi

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use volume::{Freshness, Grant, Volume};
use volume_fuse::{Mount, Options};
use volume_pack::{PackError, Tally};

use crate::anchor::PyAnchor;
use crate::care::{Change, Commit, Compacted};
use crate::convert::{exactly, exception, of_mount, of_pack, of_volume};
use crate::grant::{freshness_named, protection_named, volume_key};
use crate::mount::PyMount;
use crate::place::{Named, Place};
use crate::values::{Entry, Finding, PackStats, VolumeStatus};

#[pyclass(frozen, name = "Volume", module = "securetf._core")]
pub struct PyVolume {
    volume: Option<Arc<Volume>>,
    writable: bool,
    /// Where other states are read, and by which grant; of a volume that is followed.
    followed: Option<(Place, Grant)>,
}

impl PyVolume {
    pub(crate) fn shared(&self) -> PyResult<Arc<Volume>> {
        self.volume().cloned()
    }

    fn volume(&self) -> PyResult<&Arc<Volume>> {
        self.volume
            .as_ref()
            .ok_or_else(|| pyo3::exceptions::PyRuntimeError::new_err("volume is being dropped"))
    }
}

type Work = fn(&Volume, &std::path::Path, volume_pack::Progress<'_>) -> Result<Tally, PackError>;

impl PyVolume {
    /// Runs `work` without the GIL; takes it a few times per second for the observer and for Ctrl-C.
    fn observed(
        &self,
        py: Python<'_>,
        work: Work,
        path: &std::path::Path,
        progress: Option<&Py<PyAny>>,
    ) -> PyResult<PackStats> {
        let volume = self.volume()?;
        let (raised, outcome) = observing(py, progress, |observe| work(volume, path, observe));
        raised?;
        Ok(outcome.map_err(|error| of_pack(py, &error))?.into())
    }
}

/// Runs `work` without the GIL; what the observer or a signal raised goes before what the work says.
pub(crate) fn observing<T: Send>(
    py: Python<'_>,
    progress: Option<&Py<PyAny>>,
    work: impl FnOnce(volume_pack::Progress<'_>) -> T + Send,
) -> (PyResult<()>, T) {
    let mut raised = None;
    let outcome = py.detach(|| {
        work(&mut |files, bytes| {
            let called = Python::attach(|py| {
                py.check_signals()?;
                progress.map_or(Ok(()), |progress| {
                    progress.call1(py, (files, bytes)).map(drop)
                })
            });
            let go_on = called.is_ok();
            raised = raised.take().or(called.err());
            go_on
        })
    });
    (raised.map_or(Ok(()), Err), outcome)
}

#[pymethods]
impl PyVolume {
    #[staticmethod]
    #[pyo3(signature = (directory, *, volume_id, key, key_version, key_since, older_key, kept_since, epoch, seq, root, writable, freshness, chunk_size, protection, anchor))]
    #[allow(clippy::too_many_arguments)] // the fields of a grant, by keyword
    fn open(
        py: Python<'_>,
        directory: Named,
        volume_id: &[u8],
        key: &[u8],
        key_version: u32,
        key_since: u32,
        older_key: Option<&[u8]>,
        kept_since: u32,
        epoch: u32,
        seq: u64,
        root: &[u8],
        writable: bool,
        freshness: &str,
        chunk_size: u32,
        protection: &str,
        anchor: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let grant = Grant {
            volume_id: exactly(py, "volume_id", volume_id)?,
            key: volume_key(py, key)?,
            key_version,
            key_since,
            older_key: older_key.map(|key| volume_key(py, key)).transpose()?,
            kept_since,
            epoch,
            seq,
            root: exactly(py, "root", root)?,
            writable,
            chunk_size,
            protection: protection_named(py, protection)?,
        };
        let place = Place::from(directory);
        let followed = (freshness == "follow").then(|| (place.clone(), grant.clone()));
        let freshness = freshness_named(py, freshness)?;
        let anchor =
            anchor.map(|callable| Arc::new(PyAnchor::new(callable)) as Arc<dyn volume::Anchor>);
        let opened = py.detach(|| place.open(anchor, grant, freshness));
        let volume = opened.map_err(|error| of_volume(py, &error))?;
        Ok(Self {
            volume: Some(volume),
            writable,
            followed,
        })
    }

    fn at(&self, py: Python<'_>, epoch: u32, seq: u64, root: &[u8]) -> PyResult<Self> {
        let Some((place, grant)) = &self.followed else {
            return Err(exception(
                py,
                "UsageError",
                "this volume was opened at one state",
                "open it with freshness \"follow\"",
            ));
        };
        let mut grant = grant.clone();
        (grant.epoch, grant.seq, grant.root) = (epoch, seq, exactly(py, "root", root)?);
        let opened = py.detach(|| place.open(None, grant.clone(), Freshness::Pinned));
        Ok(Self {
            volume: Some(opened.map_err(|error| of_volume(py, &error))?),
            writable: false,
            followed: Some((place.clone(), grant)),
        })
    }

    #[getter]
    fn freshness(&self) -> PyResult<&'static str> {
        Ok(match self.volume()?.freshness() {
            Freshness::Pinned => "pinned",
            Freshness::Group => "group",
            Freshness::Strict => "strict",
            Freshness::Async => "async",
        })
    }

    #[getter]
    fn protection(&self) -> PyResult<String> {
        Ok(self.volume()?.protection().to_string())
    }

    #[pyo3(signature = (source, progress = None, *, update = false))]
    fn pack(
        &self,
        py: Python<'_>,
        source: PathBuf,
        progress: Option<Py<PyAny>>,
        update: bool,
    ) -> PyResult<PackStats> {
        let work = if update {
            volume_pack::update
        } else {
            volume_pack::pack
        };
        self.observed(py, work, &source, progress.as_ref())
    }

    #[pyo3(signature = (target, progress = None))]
    fn unpack(
        &self,
        py: Python<'_>,
        target: PathBuf,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<PackStats> {
        self.observed(py, volume_pack::unpack, &target, progress.as_ref())
    }

    fn ls(&self, py: Python<'_>, path: &str) -> PyResult<Vec<Entry>> {
        let volume = self.volume()?;
        let found = py.detach(|| volume_pack::list(volume, path.as_bytes()));
        Ok(found
            .map_err(|error| of_pack(py, &error))?
            .into_iter()
            .map(Entry::from)
            .collect())
    }

    fn cat<'py>(&self, py: Python<'py>, path: &str) -> PyResult<Bound<'py, PyBytes>> {
        let volume = self.volume()?;
        let contents = py.detach(|| volume_pack::read_file(volume, path.as_bytes(), 0, usize::MAX));
        Ok(PyBytes::new(
            py,
            &contents.map_err(|error| of_pack(py, &error))?,
        ))
    }

    fn check(&self, py: Python<'_>) -> PyResult<Vec<Finding>> {
        let volume = self.volume()?;
        let findings = py
            .detach(|| volume.check())
            .map_err(|error| of_volume(py, &error))?;
        Ok(findings.into_iter().map(Finding::from).collect())
    }

    #[staticmethod]
    #[pyo3(signature = (directory, *, volume_id, key, key_version, key_since, older_key, seq, root, chunk_size, protection))]
    #[allow(clippy::too_many_arguments)] // the fields of a grant, by keyword
    fn salvage(
        py: Python<'_>,
        directory: PathBuf,
        volume_id: &[u8],
        key: &[u8],
        key_version: u32,
        key_since: u32,
        older_key: Option<&[u8]>,
        seq: u64,
        root: &[u8],
        chunk_size: u32,
        protection: &str,
    ) -> PyResult<(Self, Option<String>)> {
        let grant = Grant {
            volume_id: exactly(py, "volume_id", volume_id)?,
            key: volume_key(py, key)?,
            key_version,
            key_since,
            older_key: older_key.map(|key| volume_key(py, key)).transpose()?,
            kept_since: 0,
            epoch: 0,
            seq,
            root: exactly(py, "root", root)?,
            writable: false,
            chunk_size,
            protection: protection_named(py, protection)?,
        };
        let salvaged = py
            .detach(|| volume_store::salvage_directory(&directory, &grant))
            .map_err(|error| of_volume(py, &error))?;
        let lost = salvaged.lost.map(|error| error.problem());
        let volume = Self {
            volume: Some(salvaged.volume),
            writable: false,
            followed: None,
        };
        Ok((volume, lost))
    }

    #[pyo3(signature = (target, progress = None))]
    fn salvage_into(
        &self,
        py: Python<'_>,
        target: &Self,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(PackStats, Vec<Finding>)> {
        let (from, to) = (self.volume()?, target.volume()?);
        let (raised, outcome) = observing(py, progress.as_ref(), |observe| {
            volume_pack::salvage(from, to, observe)
        });
        raised?;
        let (tally, lost) = outcome.map_err(|error| of_pack(py, &error))?;
        Ok((tally.into(), lost.into_iter().map(Finding::from).collect()))
    }

    fn log(&self, py: Python<'_>) -> PyResult<Vec<Commit>> {
        let volume = self.volume()?;
        let commits = py
            .detach(|| volume.history())
            .map_err(|error| of_volume(py, &error))?;
        Ok(commits.into_iter().map(Commit::from).collect())
    }

    fn diff(&self, py: Python<'_>, newer: &Self) -> PyResult<Vec<Change>> {
        let (old, new) = (self.volume()?, newer.volume()?);
        let changes = py
            .detach(|| volume_pack::diff(old, new))
            .map_err(|error| of_pack(py, &error))?;
        Ok(changes.into_iter().map(Change::from).collect())
    }

    #[pyo3(signature = (progress = None))]
    fn compact(&self, py: Python<'_>, progress: Option<Py<PyAny>>) -> PyResult<Compacted> {
        let volume = self.volume()?;
        let (raised, outcome) = observing(py, progress.as_ref(), |observe| {
            volume.compact(&mut |moved| observe(0, moved))
        });
        raised?;
        Ok(outcome.map_err(|error| of_volume(py, &error))?.into())
    }

    fn stored_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        let volume = self.volume()?;
        py.detach(|| volume.stored_bytes())
            .map_err(|error| of_volume(py, &error))
    }

    fn sync(&self, py: Python<'_>) -> PyResult<()> {
        let volume = self.volume()?;
        py.detach(|| volume.sync(None))
            .map_err(|error| of_volume(py, &error))
    }

    fn status(&self, py: Python<'_>) -> PyResult<VolumeStatus> {
        let volume = self.volume()?;
        Ok(py.detach(|| volume.status()).into())
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let volume = self.volume()?;
        py.detach(|| volume.close())
            .map_err(|error| of_volume(py, &error))
    }

    #[pyo3(signature = (mountpoint, *, threads = 4, writeback = false, read_ahead_kib = 2048))]
    fn mount(
        &self,
        py: Python<'_>,
        mountpoint: PathBuf,
        threads: usize,
        writeback: bool,
        read_ahead_kib: u32,
    ) -> PyResult<PyMount> {
        let volume = Arc::clone(self.volume()?);
        let options = Options {
            writable: self.writable,
            following: self.followed.is_some(),
            threads,
            writeback,
            read_ahead_kib,
        };
        let mount = py.detach(|| Mount::start(volume, &mountpoint, options));
        Ok(PyMount::new(mount.map_err(|error| of_mount(py, &error))?))
    }

    fn __repr__(&self) -> String {
        format!(
            "Volume(writable={})",
            if self.writable { "True" } else { "False" }
        )
    }
}

impl Drop for PyVolume {
    fn drop(&mut self) {
        // The last reference ends the volume's threads, which may be waiting for the GIL to reach the anchor.
        let volume = self.volume.take();
        Python::try_attach(|py| py.detach(|| drop(volume)));
    }
}
