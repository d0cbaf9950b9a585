//! Extended attributes.

use crate::error::VolumeError;
use crate::types::{Ino, NAME_MAX, XATTR_TOTAL_MAX, XATTR_VALUE_MAX, XattrMode};
use crate::volume::{Result, Volume};

impl Volume {
    /// Value of an attribute.
    ///
    /// # Errors
    /// `NotFound`, `NoData`.
    pub fn xattr_get(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        let meta = node.meta.lock();
        meta.xattrs.get(name).cloned().ok_or(VolumeError::NoData)
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// `Exists` (`Create`), `NoData` (`Replace`), `AttributesFull`, `NameTooLong`, `NotFound`, `ReadOnly`.
    pub fn xattr_set(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.require_writable()?;
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(VolumeError::NameTooLong);
        }
        let tree = self.tree.read();
        let node = tree.node(ino)?;
        let mut meta = node.meta.lock();
        match (mode, meta.xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(VolumeError::Exists),
            (XattrMode::Replace, false) => return Err(VolumeError::NoData),
            _ => {}
        }
        let others = meta
            .xattrs
            .iter()
            .filter(|(other, _)| other.as_slice() != name);
        let total: usize = others.map(|(other, value)| other.len() + value.len()).sum();
        if value.len() > XATTR_VALUE_MAX || total + name.len() + value.len() > XATTR_TOTAL_MAX {
            return Err(VolumeError::AttributesFull);
        }
        meta.xattrs.insert(name.to_vec(), value.to_vec());
        meta.ctime = self.now();
        self.mark(ino);
        Ok(())
    }

    /// Names of all attributes.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn xattr_list(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let node = self.node(ino)?;
        let meta = node.meta.lock();
        Ok(meta.xattrs.keys().cloned().collect())
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// `NotFound`, `NoData`, `ReadOnly`.
    pub fn xattr_remove(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.require_writable()?;
        let tree = self.tree.read();
        let node = tree.node(ino)?;
        let mut meta = node.meta.lock();
        meta.xattrs.remove(name).ok_or(VolumeError::NoData)?;
        meta.ctime = self.now();
        self.mark(ino);
        Ok(())
    }
}
