//! `securetf._core`: the one module that binds Rust to Python. It converts types and errors and decides nothing.
//! Whatever can block runs without the GIL. Typed in `src/securetf/_core.pyi`.
#![allow(clippy::needless_pass_by_value)] // arguments arrive from Python by value

mod anchor;
mod care;
mod convert;
mod grant;
mod mount;
mod network;
mod network_values;
mod place;
mod streams;
mod tls;
mod values;
mod volume;

use pyo3::prelude::*;

/// The native module of securetf.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<volume::PyVolume>()?;
    module.add_class::<mount::PyMount>()?;
    module.add_class::<values::PackStats>()?;
    module.add_class::<values::Entry>()?;
    module.add_class::<values::Finding>()?;
    module.add_class::<values::VolumeStatus>()?;
    module.add_class::<values::MountStats>()?;
    module.add_class::<care::Commit>()?;
    module.add_class::<care::Compacted>()?;
    module.add_class::<care::Change>()?;
    module.add_function(wrap_pyfunction!(care::rekey, module)?)?;
    module.add_class::<network::PyNetworkKey>()?;
    module.add_class::<network::PyNetworkListener>()?;
    module.add_class::<network::PyNetworkShield>()?;
    module.add_class::<network_values::PyDenial>()?;
    module.add_class::<tls::PyTlsServer>()?;
    module.add_class::<tls::PyTlsSession>()?;
    module.add_function(wrap_pyfunction!(streams::pack_tar, module)?)?;
    module.add_function(wrap_pyfunction!(streams::unpack_tar, module)?)?;
    module.add_function(wrap_pyfunction!(streams::read_part, module)?)?;
    module.add_function(wrap_pyfunction!(streams::memory_needed, module)?)?;
    module.add_function(wrap_pyfunction!(streams::lay_out, module)?)?;
    module.add_function(wrap_pyfunction!(streams::take_back, module)?)?;
    module.add_function(wrap_pyfunction!(mount::enter_mount_namespace, module)?)?;
    module.add_function(wrap_pyfunction!(mount::mount_tmpfs, module)?)?;
    module.add_function(wrap_pyfunction!(mount::cover_file, module)?)?;
    module.add_function(wrap_pyfunction!(mount::bind_mount, module)?)?;
    module.add_function(wrap_pyfunction!(mount::unmount, module)?)?;
    Ok(())
}
