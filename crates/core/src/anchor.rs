//! A Python callable as the anchor of a volume. Called from native threads, which take the GIL for the call.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use volume::{Anchor, AnchorError, Position};

/// anchor(epoch, seq, root, `new_seq`, `new_root`) → for how many seconds older states are leased (None: none are), or
/// an exception of `securetf.errors`.
pub(crate) struct PyAnchor {
    callable: Py<PyAny>,
    leased_s: AtomicU32,
}

impl PyAnchor {
    pub(crate) fn new(callable: Py<PyAny>) -> Self {
        let leased_s = AtomicU32::new(0);
        Self { callable, leased_s }
    }
}

impl Anchor for PyAnchor {
    fn advance(&self, epoch: u32, from: Position, to: Position) -> Result<(), AnchorError> {
        let outcome = Python::try_attach(|py| {
            let arguments = (
                epoch,
                from.0,
                PyBytes::new(py, &from.1),
                to.0,
                PyBytes::new(py, &to.1),
            );
            let answer = self.callable.call1(py, arguments);
            answer
                .and_then(|seconds| seconds.extract::<Option<u32>>(py))
                .map(|seconds| {
                    self.leased_s.store(seconds.unwrap_or(0), Ordering::Relaxed);
                })
                .map_err(|error| reason(py, &error))
        });
        outcome.unwrap_or_else(|| {
            Err(AnchorError::Unreachable(
                "the interpreter is ending".to_owned(),
            ))
        })
    }

    fn leased(&self) -> Duration {
        Duration::from_secs(self.leased_s.load(Ordering::Relaxed).into())
    }
}

/// The text of an error of ours; of any other only its type, since its text may hold what must not be shown.
fn reason(py: Python<'_>, error: &PyErr) -> AnchorError {
    let value = error.value(py);
    let is = |class: &str| {
        py.import("securetf.errors")
            .and_then(|module| module.getattr(class))
            .and_then(|class| value.is_instance(&class))
            .unwrap_or(false)
    };
    let text = if is("SecuretfError") {
        value.str().map(|text| text.to_string())
    } else {
        value.get_type().name().map(|name| name.to_string())
    };
    let text = text.unwrap_or_default();
    if is("FencedError") {
        AnchorError::Fenced
    } else if is("ConflictError") {
        AnchorError::Conflict
    } else if is("CasUnreachableError") {
        AnchorError::Unreachable(text)
    } else {
        AnchorError::Refused(text)
    }
}
