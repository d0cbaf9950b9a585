//! Tar streams in and out of a volume, trees in memory, and the contents of one file in parts.
#![allow(missing_docs)] // documented in _core.pyi

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use volume_pack::{PackError, Tally};

use crate::convert::of_pack;
use crate::values::PackStats;
use crate::volume::{PyVolume, observing};

type Outcome = (PyResult<()>, Result<Tally, PackError>);

fn stats(py: Python<'_>, (raised, outcome): Outcome) -> PyResult<PackStats> {
    raised?;
    Ok(outcome.map_err(|error| of_pack(py, &error))?.into())
}

#[pyfunction]
#[pyo3(signature = (volume, source, progress = None))]
pub fn pack_tar(
    py: Python<'_>,
    volume: &PyVolume,
    source: Option<PathBuf>,
    progress: Option<Py<PyAny>>,
) -> PyResult<PackStats> {
    let volume = volume.shared()?;
    let outcome = observing(py, progress.as_ref(), |observe| {
        volume_pack::pack_tar(&volume, source.as_deref(), observe)
    });
    stats(py, outcome)
}

#[pyfunction]
#[pyo3(signature = (volume, target, progress = None))]
pub fn unpack_tar(
    py: Python<'_>,
    volume: &PyVolume,
    target: Option<PathBuf>,
    progress: Option<Py<PyAny>>,
) -> PyResult<PackStats> {
    let volume = volume.shared()?;
    let outcome = observing(py, progress.as_ref(), |observe| {
        volume_pack::unpack_tar(&volume, target.as_deref(), observe)
    });
    stats(py, outcome)
}

#[pyfunction]
pub fn read_part<'py>(
    py: Python<'py>,
    volume: &PyVolume,
    path: &str,
    offset: u64,
    size: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let volume = volume.shared()?;
    let part = py.detach(|| volume_pack::read_file(&volume, path.as_bytes(), offset, size));
    Ok(PyBytes::new(
        py,
        &part.map_err(|error| of_pack(py, &error))?,
    ))
}

#[pyfunction]
pub fn memory_needed(py: Python<'_>, volume: &PyVolume) -> PyResult<u64> {
    let volume = volume.shared()?;
    py.detach(|| volume_pack::memory_needed(&volume))
        .map_err(|error| of_pack(py, &error))
}

#[pyfunction]
pub fn lay_out(py: Python<'_>, volume: &PyVolume, target: PathBuf) -> PyResult<PackStats> {
    let volume = volume.shared()?;
    let outcome = observing(py, None, |observe| {
        volume_pack::lay_out(&volume, &target, observe)
    });
    stats(py, outcome)
}

#[pyfunction]
pub fn take_back(py: Python<'_>, volume: &PyVolume, source: PathBuf) -> PyResult<PackStats> {
    let volume = volume.shared()?;
    let outcome = observing(py, None, |observe| {
        volume_pack::take_back(&volume, &source, observe)
    });
    stats(py, outcome)
}
