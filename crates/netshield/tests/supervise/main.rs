//! Interceptor S from the program's side: unmodified programs (Python) and attacks, under a raised supervisor.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod attack;
mod connect;
mod listen;
mod support;
