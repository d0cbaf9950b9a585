//! Errors of Rust as the classes of `securetf.errors`, each with problem and fix.

use pyo3::prelude::*;
use volume::VolumeError;
use volume_fuse::MountError;
use volume_pack::PackError;

/// Makes `securetf.errors.<kind>(problem, fix)`.
pub(crate) fn exception(py: Python<'_>, kind: &str, problem: &str, fix: &str) -> PyErr {
    let made = py
        .import("securetf.errors")
        .and_then(|module| module.getattr(kind))
        .and_then(|class| class.call1((problem, fix)));
    match made {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

pub(crate) fn of_volume(py: Python<'_>, error: &VolumeError) -> PyErr {
    exception(py, error.kind(), &error.problem(), &error.fix())
}

pub(crate) fn of_mount(py: Python<'_>, error: &MountError) -> PyErr {
    exception(py, error.kind(), error.problem(), error.fix())
}

pub(crate) fn of_pack(py: Python<'_>, error: &PackError) -> PyErr {
    exception(py, error.kind(), &error.problem(), &error.fix())
}

/// A byte string of exactly `N` bytes.
pub(crate) fn exactly<const N: usize>(
    py: Python<'_>,
    name: &str,
    bytes: &[u8],
) -> PyResult<[u8; N]> {
    bytes.try_into().map_err(|_| {
        let problem = format!("{name} has {} bytes, expected {N}", bytes.len());
        exception(
            py,
            "UsageError",
            &problem,
            "pass the values of the grant unchanged",
        )
    })
}
