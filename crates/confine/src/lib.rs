//! Starts the unmodified program confined: static seccomp filter, no privileges, dies with its launcher.
//!
//! `unsafe` stands only where a system call needs it, each time with the reason why it holds.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

mod bpf;
mod child;
mod error;
pub mod filter;
mod landlock;
mod spawn;
mod supervised;

pub use error::ConfineError;
pub use spawn::{Extra, Spawn, spawn};
pub use supervised::Supervised;
