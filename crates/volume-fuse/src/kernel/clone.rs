//! A further descriptor of a FUSE connection: its reader has a queue of answers of its own.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

nix::ioctl_read!(clone_connection, 229, 0, u32); // FUSE_DEV_IOC_CLONE

/// A new descriptor of the connection of `device`.
///
/// # Errors
/// The kernel's.
pub(crate) fn clone(device: &File) -> io::Result<File> {
    let another = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")?;
    let mut number = device.as_raw_fd().cast_unsigned();
    // SAFETY: FUSE_DEV_IOC_CLONE reads one u32, the number of an open descriptor, which `number` is.
    unsafe { clone_connection(another.as_raw_fd(), &raw mut number) }?;
    Ok(another)
}
