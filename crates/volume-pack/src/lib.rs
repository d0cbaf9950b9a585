//! Between a plain directory tree and a volume, without a mount: pack, unpack, list, read.
#![forbid(unsafe_code)]

mod error;
mod pack;
mod progress;
mod unpack;
mod view;

pub use error::PackError;
pub use pack::pack;
pub use progress::{Progress, Tally};
pub use unpack::unpack;
pub use view::{Entry, list, read_file, resolve};
