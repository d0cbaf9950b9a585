//! The network shield.
#![allow(missing_docs)] // documented in _core.pyi

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use confine::Spawn;
use netshield::policy::Policy;
use netshield::relay::{
    Identity, NetError, NetworkKey, OutsideListener, Statement, TunnelListener,
};
use netshield::shield::{Choice, Grant, Shield, ShieldError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::convert::exception;
use crate::network_values::PyDenial;

const DEFECT: &str = "report it: a defect in securetf";

#[pyclass(frozen, name = "NetworkKey", module = "securetf._core")]
pub struct PyNetworkKey(NetworkKey);

#[pymethods]
impl PyNetworkKey {
    #[staticmethod]
    fn generate(py: Python<'_>) -> PyResult<Self> {
        let made = py.detach(NetworkKey::generate);
        made.map(Self).map_err(|error| of_net(py, &error))
    }

    #[getter]
    fn spki<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let der = self.0.spki_der().map_err(|error| of_net(py, &error))?;
        Ok(PyBytes::new(py, &der))
    }
}

#[pyclass(frozen, name = "NetworkListener", module = "securetf._core")]
pub struct PyNetworkListener {
    address: SocketAddr,
    listener: Mutex<Option<TunnelListener>>,
}

#[pymethods]
impl PyNetworkListener {
    #[staticmethod]
    fn bind(py: Python<'_>, address: &str) -> PyResult<Self> {
        let bound = socket_address(py, address)
            .and_then(|wanted| TunnelListener::bind(wanted).map_err(|error| of_net(py, &error)))?;
        Ok(Self {
            address: bound.address().map_err(|error| of_net(py, &error))?,
            listener: Mutex::new(Some(bound)),
        })
    }

    #[getter]
    fn address(&self) -> String {
        self.address.to_string()
    }
}

impl PyNetworkListener {
    /// The socket; it can be taken once.
    fn take(&self) -> Option<TunnelListener> {
        self.listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// None once it is lowered. Calls share it; the last one that runs ends it.
#[pyclass(frozen, name = "NetworkShield", module = "securetf._core")]
pub struct PyNetworkShield {
    shield: Mutex<Option<Arc<Shield>>>,
    interceptor: &'static str,
    hosts: String,
    resolv_conf: &'static str,
    fallback: Option<String>,
}

impl PyNetworkShield {
    fn raised(&self, py: Python<'_>) -> PyResult<Arc<Shield>> {
        let shield = self.shield.lock().unwrap_or_else(PoisonError::into_inner);
        shield.clone().ok_or_else(|| {
            exception(
                py,
                "NetworkShieldError",
                "the network shield was lowered",
                DEFECT,
            )
        })
    }
}

#[pymethods]
impl PyNetworkShield {
    #[staticmethod]
    #[pyo3(signature = (policy, key, chain, trust_root, *, tunnel, outside, interceptor))]
    #[expect(clippy::too_many_arguments, reason = "Python gives them by name")]
    fn raise_shield(
        py: Python<'_>,
        policy: &str,
        key: Option<Py<PyNetworkKey>>,
        chain: Vec<Vec<u8>>,
        trust_root: Vec<u8>,
        tunnel: Option<Py<PyNetworkListener>>,
        outside: Vec<(String, Py<PyNetworkListener>)>,
        interceptor: &str,
    ) -> PyResult<Self> {
        let policy: Policy = netshield::policy::parse(policy)
            .map_err(|error| exception(py, "NetworkShieldError", &error, DEFECT))?;
        let choice = match interceptor {
            "auto" => Choice::Auto,
            "namespace" => Choice::Namespace,
            _ => Choice::Seccomp,
        };
        let tunnel = tunnel.and_then(|one| one.get().take());
        let outside = outside.into_iter().filter_map(|(name, one)| {
            let listener = one.get().take()?;
            Some(OutsideListener { name, listener })
        });
        let grant = key.zip(tunnel).map(|(key, tunnel)| Grant {
            identity: Identity {
                key: key.get().0.clone(),
                chain,
            },
            trust_root,
            tunnel,
            outside: outside.collect(),
        });
        // Its threads see the machine's files, not the program's: they resolve the names of `external`.
        let raised = py.detach(|| {
            thread::scope(|scope| {
                let raiser = scope.spawn(|| {
                    volume_fuse::leave_for_main();
                    Shield::raise(&policy, grant, choice)
                });
                raiser
                    .join()
                    .map_err(|_| "the thread that raises the shield ended")
            })
        });
        let shield = raised
            .map_err(|text| exception(py, "NetworkShieldError", text, DEFECT))?
            .map_err(|error| of_shield(py, &error))?;
        Ok(Self {
            interceptor: shield.interceptor(),
            hosts: shield.hosts().to_owned(),
            resolv_conf: shield.resolv_conf(),
            fallback: shield.fallback().map(str::to_owned),
            shield: Mutex::new(Some(Arc::new(shield))),
        })
    }

    #[getter]
    fn interceptor(&self) -> &'static str {
        self.interceptor
    }

    #[getter]
    fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    #[getter]
    fn hosts(&self) -> &str {
        &self.hosts
    }

    #[getter]
    fn resolv_conf(&self) -> &'static str {
        self.resolv_conf
    }

    #[pyo3(signature = (argv, environment, directory, uid))]
    fn spawn(
        &self,
        py: Python<'_>,
        argv: Vec<Vec<u8>>,
        environment: HashMap<Vec<u8>, Vec<u8>>,
        directory: &str,
        uid: Option<u32>,
    ) -> PyResult<i32> {
        let shield = self.raised(py)?;
        let argv: Vec<OsString> = argv.into_iter().map(OsString::from_vec).collect();
        let env: Vec<(OsString, OsString)> = environment
            .into_iter()
            .map(|(name, value)| (OsString::from_vec(name), OsString::from_vec(value)))
            .collect();
        let started = py.detach(|| {
            shield.spawn(&Spawn {
                argv: &argv,
                env: &env,
                cwd: OsStr::new(directory),
                uid,
                gid: None,
                netns: None,
                extra: None,
            })
        });
        started
            .map(|pid| pid.as_raw_nonzero().get())
            .map_err(|error| exception(py, error.kind(), error.problem(), error.fix()))
    }

    fn set_endpoints(&self, py: Python<'_>, endpoints: Vec<(String, u16, String)>) -> PyResult<()> {
        let read = |(workload, instance, text): (String, u16, String)| {
            socket_address(py, &text).map(|address| (workload, instance, address))
        };
        let endpoints = endpoints.into_iter().map(read).collect::<PyResult<_>>()?;
        self.raised(py)?.set_endpoints(endpoints);
        Ok(())
    }

    #[pyo3(signature = (chain, key))]
    fn install(
        &self,
        py: Python<'_>,
        chain: Vec<Vec<u8>>,
        key: Option<Py<PyNetworkKey>>,
    ) -> PyResult<()> {
        let shield = self.raised(py)?;
        let key = key.map(|one| one.get().0.clone());
        py.detach(|| shield.install(chain, key))
            .map_err(|error| of_shield(py, &error))
    }

    fn set_statement(
        &self,
        py: Python<'_>,
        public: &str,
        claims: &str,
        key: &[u8],
    ) -> PyResult<()> {
        let statement = Statement::new(public, claims, key).map_err(|error| of_net(py, &error))?;
        self.raised(py)?.set_statement(statement);
        Ok(())
    }

    fn revoke(&self, py: Python<'_>, reason: &str) -> PyResult<()> {
        let shield = self.raised(py)?;
        py.detach(|| shield.revoke(reason));
        Ok(())
    }

    /// The refusals, and how many more there were.
    fn denials(&self, py: Python<'_>) -> PyResult<(Vec<PyDenial>, u64)> {
        let (kept, dropped) = self.raised(py)?.denials();
        Ok((kept.into_iter().map(PyDenial::from).collect(), dropped))
    }

    fn stats(&self, py: Python<'_>) -> PyResult<HashMap<&'static str, u64>> {
        let Some(stats) = self.raised(py)?.stats() else {
            return Ok(HashMap::new());
        };
        Ok(HashMap::from([
            ("outbound", stats.outbound),
            ("inbound", stats.inbound),
            ("outside", stats.outside),
            ("statements", stats.statements),
            ("cut", stats.cut),
            ("unreachable", stats.unreachable),
            ("resumed", stats.resumed),
            ("resume_failures", stats.resume_failures),
            ("sent_bytes", stats.sent_bytes),
            ("received_bytes", stats.received_bytes),
        ]))
    }

    fn lower(&self, py: Python<'_>) {
        let taken = self
            .shield
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        py.detach(|| drop(taken));
    }
}

impl Drop for PyNetworkShield {
    fn drop(&mut self) {
        let taken = self
            .shield
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        Python::try_attach(|py| py.detach(|| drop(taken)));
    }
}

fn socket_address(py: Python<'_>, text: &str) -> PyResult<SocketAddr> {
    text.parse().map_err(|_| {
        let problem = format!("{text:?} is not IP:PORT");
        exception(py, "UsageError", &problem, "write it as 10.0.0.5:15443")
    })
}

fn of_shield(py: Python<'_>, error: &ShieldError) -> PyErr {
    exception(py, "NetworkShieldError", &error.problem, &error.fix)
}

fn of_net(py: Python<'_>, error: &NetError) -> PyErr {
    let (kind, fix) = match error {
        NetError::Listen(cause) if cause.kind() == ErrorKind::AddrInUse => (
            "PortInUseError",
            "end the other process, or use another port in `--tunnel` or `--outside`; 0 takes a free one",
        ),
        NetError::Listen(_) => (
            "EnvironmentUnfitError",
            "use an address of this machine in `--tunnel` and `--outside`",
        ),
        _ => ("NetworkShieldError", DEFECT),
    };
    exception(py, kind, &error.to_string(), fix)
}
