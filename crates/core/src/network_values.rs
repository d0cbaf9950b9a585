//! The network shield's values that Python receives; fields as in `_core.pyi`.
#![allow(missing_docs)] // documented in _core.pyi

use netshield::event::Denial;
use pyo3::prelude::*;

#[pyclass(frozen, get_all, name = "Denial", module = "securetf._core")]
pub struct PyDenial {
    time_s: u64,
    direction: &'static str,
    process: String,
    destination: String,
    reason: String,
}

impl From<Denial> for PyDenial {
    fn from(denial: Denial) -> Self {
        let Denial {
            time_s,
            direction,
            process,
            destination,
            reason,
        } = denial;
        Self {
            time_s,
            direction,
            process,
            destination,
            reason,
        }
    }
}

#[pymethods]
impl PyDenial {
    fn __repr__(&self) -> String {
        format!("Denial({} {})", self.direction, self.destination)
    }
}
