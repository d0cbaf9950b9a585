//! What the server tells the kernel unasked, by `/dev/fuse`.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use crate::reply::{Body, message_header};

const INVAL_INODE: i32 = 2;
const STORE: i32 = 4;

/// Sends notices of one mount.
pub(crate) struct Notifier(Arc<File>);

impl Notifier {
    pub(crate) fn new(device: Arc<File>) -> Self {
        Self(device)
    }

    /// Gives the kernel the first bytes of a file (`fuse_notify_store_out`).
    ///
    /// # Errors
    /// The kernel's: ENOENT for an inode that it does not have.
    pub(crate) fn store(&self, ino: u64, content: &[u8]) -> io::Result<()> {
        let mut notice = [0; 24];
        let mut body = Body::new(&mut notice);
        body.u64(ino)?;
        body.u64(0)?;
        body.size(u32::try_from(content.len()).map_err(io::Error::other)?)?;
        self.send(STORE, &notice, content)
    }

    /// Has the kernel write its changed pages of a file, and forget all of them (`fuse_notify_inval_inode_out`).
    ///
    /// # Errors
    /// The kernel's: ENOENT for an inode that it does not have.
    pub(crate) fn invalidate(&self, ino: u64) -> io::Result<()> {
        let mut notice = [0; 24];
        Body::new(&mut notice).u64(ino)?;
        self.send(INVAL_INODE, &notice, &[])
    }

    fn send(&self, code: i32, notice: &[u8], content: &[u8]) -> io::Result<()> {
        let header = message_header(0, code, notice.len() + content.len());
        let parts = [&header, notice, content].map(IoSlice::new);
        (&*self.0).write_vectored(&parts).map(|_| ())
    }
}
