//! A volume in a real directory.
#![allow(
    missing_docs,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing
)]

use std::path::Path;
use std::sync::{Arc, Mutex};

use securetf_volume_store::open_directory;
use volume::{
    Anchor, AnchorError, Freshness, Grant, NodeKind, Position, ROOT_INO, Volume, VolumeError,
    VolumeKey,
};

/// A CAS of one volume.
#[derive(Default)]
struct LocalAnchor(Mutex<(u32, Position)>);

impl Anchor for LocalAnchor {
    fn advance(&self, epoch: u32, from: Position, to: Position) -> Result<(), AnchorError> {
        let mut state = self.0.lock().unwrap();
        if epoch != state.0 {
            return Err(AnchorError::Fenced);
        }
        if from != state.1 {
            return Err(AnchorError::Conflict);
        }
        state.1 = to;
        Ok(())
    }
}

impl LocalAnchor {
    fn grant(&self, writable: bool) -> Grant {
        let mut state = self.0.lock().unwrap();
        state.0 += u32::from(writable);
        let (epoch, (seq, root)) = *state;
        let key = VolumeKey::new([7; 32]);
        Grant {
            volume_id: [1; 16],
            key,
            key_version: 1,
            epoch,
            seq,
            root,
            writable,
            chunk_size: 65536,
        }
    }
}

fn open(dir: &Path, anchor: &Arc<LocalAnchor>, writable: bool) -> Result<Arc<Volume>, VolumeError> {
    let freshness = if writable {
        Freshness::Group
    } else {
        Freshness::Pinned
    };
    open_directory(
        dir,
        Some(Arc::clone(anchor) as Arc<dyn Anchor>),
        anchor.grant(writable),
        freshness,
    )
}

#[test]
fn test_a_file_is_read_back_when_the_volume_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let anchor = Arc::new(LocalAnchor::default());
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    {
        let volume = open(dir.path(), &anchor, true).unwrap();
        let sub = volume
            .make_node(ROOT_INO, b"sub", NodeKind::Dir, 0o755, 0, 0)
            .unwrap();
        let file = volume
            .make_node(sub.ino, b"data", NodeKind::File, 0o644, 1, 2)
            .unwrap();
        assert_eq!(volume.write(file.ino, 0, &content).unwrap(), content.len());
        volume.close().unwrap();
    }
    for writable in [false, true] {
        let volume = open(dir.path(), &anchor, writable).unwrap();
        let sub = volume.lookup(ROOT_INO, b"sub").unwrap();
        let file = volume.lookup(sub.ino, b"data").unwrap();
        assert_eq!(
            (file.size, file.uid, file.gid),
            (content.len() as u64, 1, 2)
        );
        let mut back = vec![0; content.len() + 10];
        assert_eq!(volume.read(file.ino, 0, &mut back).unwrap(), content.len());
        assert!(back[..content.len()] == content[..]);
        assert_eq!(volume.check().unwrap(), []);
    }
}

#[test]
fn test_a_second_writer_is_told_that_the_directory_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    let anchor = Arc::new(LocalAnchor::default());
    let _first = open(dir.path(), &anchor, true).unwrap();
    assert_eq!(
        open(dir.path(), &anchor, true).err(),
        Some(VolumeError::Busy)
    );
}

#[test]
fn test_planted_links_and_pipes_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let anchor = Arc::new(LocalAnchor::default());
    open(dir.path(), &anchor, true).unwrap().close().unwrap();
    let journal = dir.path().join("metadata/journal-00000001-00000000");
    let moved = dir.path().join("moved");
    std::fs::rename(&journal, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &journal).unwrap();
    let error = open(dir.path(), &anchor, false).err().unwrap();
    assert!(
        matches!(&error, VolumeError::Io(text) if text.contains("open metadata/journal")),
        "{error:?}"
    );
    std::fs::remove_file(&journal).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&journal)
            .status()
            .unwrap()
            .success()
    );
    let error = open(dir.path(), &anchor, false).err().unwrap();
    assert!(
        matches!(&error, VolumeError::Io(text) if text.contains("not a regular file")),
        "{error:?}"
    );
}
