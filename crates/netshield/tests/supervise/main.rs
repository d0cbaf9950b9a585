//! Interceptor S from the program's side: unmodified programs (Python) and attacks, under a raised supervisor.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod attack;
mod connect;
mod launcher;
mod listen;
mod measure;
#[path = "../support/mod.rs"]
mod scene;
mod support;
mod ways;
