//! Mounts and the mount namespace of a thread.
#![allow(missing_docs)] // documented in _core.pyi

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use pyo3::prelude::*;
use volume_fuse::Mount;

use crate::convert::{exception, of_mount};
use crate::values::MountStats;
use crate::volume::PyVolume;

#[pyclass(frozen, name = "Mount", module = "securetf._core")]
pub struct PyMount {
    path: String,
    mount: Mutex<Option<Mount>>,
}

impl PyMount {
    pub(crate) fn new(mount: Mount) -> Self {
        Self {
            path: mount.path().to_string_lossy().into_owned(),
            mount: Mutex::new(Some(mount)),
        }
    }

    fn with<T>(&self, action: impl FnOnce(&mut Mount) -> T) -> Option<T> {
        self.mount.lock().ok()?.as_mut().map(action)
    }
}

#[pymethods]
impl PyMount {
    #[getter]
    fn path(&self) -> &str {
        &self.path
    }

    fn unmount(&self, py: Python<'_>) -> PyResult<()> {
        let outcome = py.detach(|| self.with(Mount::unmount));
        outcome
            .unwrap_or(Ok(()))
            .map_err(|error| of_mount(py, &error))
    }

    fn follow(&self, py: Python<'_>, volume: &PyVolume) -> PyResult<()> {
        let volume = volume.shared()?;
        let outcome = py.detach(|| self.with(|mount| mount.follow(volume)));
        let gone = || {
            exception(
                py,
                "UsageError",
                "the volume is not mounted any more",
                "mount it again",
            )
        };
        outcome
            .ok_or_else(gone)?
            .map_err(|error| of_mount(py, &error))
    }

    fn stats(&self, py: Python<'_>) -> MountStats {
        py.detach(|| self.with(|mount| mount.stats()))
            .unwrap_or_default()
            .into()
    }

    fn __repr__(&self) -> String {
        format!("Mount({:?})", self.path)
    }
}

impl Drop for PyMount {
    fn drop(&mut self) {
        let mount = self.mount.lock().ok().and_then(|mut mount| mount.take());
        Python::try_attach(|py| py.detach(|| drop(mount)));
    }
}

#[pyfunction]
pub fn enter_mount_namespace(py: Python<'_>) -> PyResult<()> {
    volume_fuse::enter().map_err(|error| of_mount(py, &error))
}

#[pyfunction]
#[pyo3(signature = (path, *, size_bytes, mode))]
pub fn mount_tmpfs(py: Python<'_>, path: PathBuf, size_bytes: u64, mode: u32) -> PyResult<()> {
    volume_fuse::mount_tmpfs(&path, size_bytes, mode).map_err(|error| of_mount(py, &error))
}

#[pyfunction]
pub fn cover_file(py: Python<'_>, source: PathBuf, path: PathBuf) -> PyResult<()> {
    volume_fuse::cover_file(&source, &path).map_err(|error| of_mount(py, &error))
}

#[pyfunction]
pub fn bind_mount(py: Python<'_>, source: PathBuf, path: PathBuf) -> PyResult<()> {
    volume_fuse::bind(&source, &path).map_err(|error| of_mount(py, &error))
}

#[pyfunction]
pub fn unmount(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    py.detach(|| volume_fuse::unmount(Path::new(&path)))
        .map_err(|error| of_mount(py, &error))
}
