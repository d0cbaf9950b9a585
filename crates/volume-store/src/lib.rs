//! Where the ciphertext of volumes lies: a local directory.
#![forbid(unsafe_code)]
