//! The one module that binds Rust to Python.
use pyo3::prelude::*;

/// The native module of securetf.
#[pymodule]
fn _core(_module: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
