//! TLS between a CAS and its clients.
#![allow(missing_docs)] // documented in _core.pyi

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use securetf_tls::{self as protocol, Server, Session};

#[pyclass(frozen, name = "TlsServer", module = "securetf._core")]
pub struct PyTlsServer(Server);

#[pymethods]
impl PyTlsServer {
    #[new]
    fn new(certificate: &[u8], key: &[u8], protocol: &[u8]) -> PyResult<Self> {
        Server::new(certificate, key, protocol)
            .map(Self)
            .map_err(of_tls)
    }

    fn accept(&self) -> PyResult<PyTlsSession> {
        self.0.accept().map(PyTlsSession::of).map_err(of_tls)
    }
}

#[pyclass(frozen, name = "TlsSession", module = "securetf._core")]
pub struct PyTlsSession(Mutex<Session>);

impl PyTlsSession {
    fn of(session: Session) -> Self {
        Self(Mutex::new(session))
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PyTlsSession {
    #[staticmethod]
    fn connect() -> PyResult<Self> {
        protocol::connect().map(Self::of).map_err(of_tls)
    }

    #[getter]
    fn is_handshaking(&self) -> bool {
        self.lock().is_handshaking()
    }

    #[getter]
    fn has_ended(&self) -> bool {
        self.lock().has_ended()
    }

    /// A handshake computes for a while; a record does not, and is not worth another wait for the GIL.
    fn feed(&self, py: Python<'_>, arrived: &[u8]) -> PyResult<()> {
        let fed = if self.is_handshaking() {
            py.detach(|| self.lock().feed(arrived))
        } else {
            self.lock().feed(arrived)
        };
        fed.map_err(of_tls)
    }

    fn read<'py>(&self, py: Python<'py>, limit: usize) -> Bound<'py, PyBytes> {
        let plain = self.lock().read(limit);
        PyBytes::new(py, &plain)
    }

    fn write(&self, plain: &[u8]) -> PyResult<usize> {
        self.lock().write(plain).map_err(of_tls)
    }

    fn close(&self) {
        self.lock().close();
    }

    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let out = self.lock().take().map_err(of_tls)?;
        Ok(PyBytes::new(py, &out))
    }

    fn exporter<'py>(&self, py: Python<'py>, label: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let made = self.lock().exporter(label).map_err(of_tls)?;
        Ok(PyBytes::new(py, &made))
    }

    fn peer_certificate<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let session = self.lock();
        session.peer_certificate().map(|der| PyBytes::new(py, der))
    }
}

/// `securetf.tls` makes the errors of its callers from it.
fn of_tls(error: protocol::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}
