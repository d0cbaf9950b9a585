//! The network shield: every TCP connection of the unmodified program crosses mutually authenticated TLS 1.3
//! between two shields; what the policy does not name is refused. `docs/formats/tunnel-v1.md` is the wire format.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod denials;
pub mod event;
pub mod names;
pub mod namespace;
pub mod policy;
pub mod relay;
pub mod shield;
mod socket;
pub mod supervise;
