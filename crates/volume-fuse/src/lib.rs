//! The FUSE server of a volume.
#![forbid(unsafe_code)]
