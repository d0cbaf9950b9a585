//! The parts of a grant, out of Python's values.

use pyo3::prelude::*;
use volume::{Freshness, Protection, VolumeKey};
use zeroize::Zeroize;

use crate::convert::{exactly, exception};

/// Copies the key out of Python's memory; the copy on this stack is wiped, the one in the grant wipes itself.
pub fn volume_key(py: Python<'_>, bytes: &[u8]) -> PyResult<VolumeKey> {
    let mut raw: [u8; 32] = exactly(py, "key", bytes)?;
    let key = VolumeKey::new(raw);
    raw.zeroize();
    Ok(key)
}

pub fn freshness_named(py: Python<'_>, name: &str) -> PyResult<Freshness> {
    match name {
        "pinned" | "follow" => Ok(Freshness::Pinned),
        "group" => Ok(Freshness::Group),
        "strict" => Ok(Freshness::Strict),
        "async" => Ok(Freshness::Async),
        _ => {
            let problem = format!("freshness {name:?} is not known");
            Err(exception(
                py,
                "UsageError",
                &problem,
                "use \"pinned\", \"follow\", \"group\", \"strict\" or \"async\"",
            ))
        }
    }
}

pub fn protection_named(py: Python<'_>, name: &str) -> PyResult<Protection> {
    match name {
        "encrypted" => Ok(Protection::Encrypted),
        "authenticated" => Ok(Protection::Authenticated),
        _ => Err(exception(
            py,
            "UsageError",
            &format!("protection {name:?} is not known"),
            "use \"encrypted\" or \"authenticated\"",
        )),
    }
}
