//! Between a plain directory tree and a volume, without a mount: pack, unpack, list, read.
#![forbid(unsafe_code)]

mod attributes;
mod contents;
mod diff;
mod error;
mod memory;
mod pack;
mod plan;
mod progress;
mod resume;
mod salvage;
mod tar;
mod tree;
mod unpack;
mod update;
mod view;

pub use diff::{Change, Difference, diff};
pub use error::PackError;
pub use memory::{lay_out, memory_needed, take_back};
pub use pack::{pack, update};
pub use progress::{Progress, Tally};
pub use salvage::salvage;
pub use tar::{pack_tar, unpack_tar};
pub use unpack::unpack;
pub use view::{Entry, list, read_file, resolve};
