//! What the kernel offers that no safe interface has: the only unsafe code of this crate.
#![allow(unsafe_code)]

pub(crate) mod clone;
pub(crate) mod entry;
