//! Skeleton of the interface; bodies follow.
#![allow(missing_docs, clippy::missing_errors_doc, clippy::todo, clippy::too_many_arguments, unused_variables)]
use std::sync::Arc;

use crate::api::{Anchor, Environment, Freshness, Grant, Options, Store};
use crate::error::VolumeError;
use crate::types::{
    Attr, DirEntry, Finding, Ino, NodeKind, RenameFlags, SetAttr, StatFs, Status, XattrMode,
};

type Result<T> = std::result::Result<T, VolumeError>;

/// An open volume. All calls take `&self` and are thread-safe.
pub struct Volume {}

impl Volume {
    /// `securetf_volume_store::open_directory(path, anchor, grant, freshness)` gives store and environment.
    pub fn open(
        store: Arc<dyn Store>,
        anchor: Option<Arc<dyn Anchor>>,
        environment: Arc<dyn Environment>,
        grant: Grant,
        freshness: Freshness,
    ) -> Result<Arc<Self>> {
        Self::open_with(store, anchor, environment, grant, Options::new(freshness))
    }
    pub fn open_with(
        store: Arc<dyn Store>,
        anchor: Option<Arc<dyn Anchor>>,
        environment: Arc<dyn Environment>,
        grant: Grant,
        options: Options,
    ) -> Result<Arc<Self>> {
        todo!()
    }
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        todo!()
    }
    pub fn attr(&self, ino: Ino) -> Result<Attr> {
        todo!()
    }
    pub fn set_attr(&self, ino: Ino, change: &SetAttr) -> Result<Attr> {
        todo!()
    }
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        todo!()
    }
    pub fn make_node(&self, parent: Ino, name: &[u8], kind: NodeKind<'_>, mode: u32, uid: u32, gid: u32) -> Result<Attr> {
        todo!()
    }
    pub fn remove_file(&self, parent: Ino, name: &[u8]) -> Result<()> {
        todo!()
    }
    pub fn remove_dir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        todo!()
    }
    pub fn rename(&self, from_parent: Ino, from: &[u8], to_parent: Ino, to: &[u8], flags: RenameFlags) -> Result<()> {
        todo!()
    }
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        todo!()
    }
    pub fn open_file(&self, ino: Ino) -> Result<()> {
        todo!()
    }
    pub fn release(&self, ino: Ino) {
        todo!()
    }
    pub fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        todo!()
    }
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        todo!()
    }
    pub fn read_dir(&self, ino: Ino, cookie: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        todo!()
    }
    pub fn xattr_get(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        todo!()
    }
    pub fn xattr_set(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        todo!()
    }
    pub fn xattr_list(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        todo!()
    }
    pub fn xattr_remove(&self, ino: Ino, name: &[u8]) -> Result<()> {
        todo!()
    }
    pub fn statfs(&self) -> Result<StatFs> {
        todo!()
    }
    /// Waits until everything done before this call is committed and anchored; concurrent callers share commits.
    pub fn sync(&self, ino: Option<Ino>) -> Result<()> {
        todo!()
    }
    /// Final commit and anchor; the volume is read-only afterwards.
    pub fn close(&self) -> Result<()> {
        todo!()
    }
    pub fn status(&self) -> Status {
        todo!()
    }
    pub fn check(&self) -> Result<Vec<Finding>> {
        todo!()
    }
}
