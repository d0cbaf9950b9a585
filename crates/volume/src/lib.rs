//! Volume format v1 and its engine: no I/O, no unsafe.
#![forbid(unsafe_code)]
