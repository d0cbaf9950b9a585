//! The FUSE server of a volume: shows an open [`volume::Volume`] as a directory in one mount namespace.
//!
//! `device` speaks mount(2), `server` and `service` answer the kernel through the `fuser` crate, `namespace` moves
//! threads. Linux only.
#![forbid(unsafe_code)]

mod convert;
mod device;
mod error;
mod generations;
mod listing;
mod mount;
mod namespace;
mod opens;
mod prefetch;
mod removed;
mod server;
mod service;
mod sparse;
mod stats;

pub use error::MountError;
pub use mount::{Mount, Options};
pub use namespace::{bind, cover_file, enter, leave_for_main, mount_tmpfs, unmount};
pub use stats::Stats;
