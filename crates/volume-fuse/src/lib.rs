//! The FUSE server of a volume: shows an open [`volume::Volume`] as a directory in one mount namespace.
//!
//! `device` speaks mount(2), `session` agrees with the kernel and starts the threads of a transport: `classic` is reads and
//! writes of `/dev/fuse`, `queues` is `io_uring`. Both bring `request`s to `server` and `service`, which answer by `reply`.
//! `kernel` holds what no safe interface has; `namespace` moves threads. Linux only.

mod abi;
mod alarm;
mod classic;
mod convert;
mod crew;
mod device;
mod error;
mod generations;
mod init;
mod kernel;
mod listing;
mod message;
mod mount;
mod namespace;
mod notify;
mod opens;
mod prefetch;
mod queues;
mod removed;
mod reply;
mod request;
mod server;
mod service;
mod session;
mod sparse;
mod stats;

pub use error::MountError;
pub use mount::{Mount, Options};
pub use namespace::{bind, cover_file, enter, leave_for_main, mount_tmpfs, unmount};
pub use stats::{Stats, Transport};
