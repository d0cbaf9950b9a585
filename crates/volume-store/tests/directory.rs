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
    Anchor, AnchorError, Freshness, Grant, NodeKind, Position, Protection, ROOT_INO, Volume,
    VolumeError, VolumeKey,
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
            key_since: 0,
            older_key: None,
            kept_since: 0,
            epoch,
            seq,
            root,
            writable,
            chunk_size: 65536,
            protection: Protection::Encrypted,
        }
    }
}

fn open(dir: &Path, anchor: &Arc<LocalAnchor>, writable: bool) -> Result<Arc<Volume>, VolumeError> {
    open_grant(dir, anchor, anchor.grant(writable))
}

fn open_grant(
    dir: &Path,
    anchor: &Arc<LocalAnchor>,
    grant: Grant,
) -> Result<Arc<Volume>, VolumeError> {
    let writable = grant.writable;
    let freshness = if writable {
        Freshness::Group
    } else {
        Freshness::Pinned
    };
    open_directory(
        dir,
        Some(Arc::clone(anchor) as Arc<dyn Anchor>),
        grant,
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
        matches!(&error, VolumeError::Io(text) if text.contains("metadata/journal-00000001-00000000 is not a regular")),
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

/// What the host puts in the place of a plain file; each must be refused at once, by name.
const PLANTED: [(&str, &str, &str); 6] = [
    ("ln -s ../outside", "file", "not a regular file"),
    ("ln -s /etc/passwd", "file", "not a regular file"),
    ("ln -s ../../outside-dir", "dir", "not a regular file"),
    ("mkfifo", "file", "not a regular file"),
    ("mkdir", "file", "not a regular file"),
    ("cp ../outside", "dir", "not a regular file"),
];

#[test]
fn test_links_pipes_and_directories_in_the_place_of_plain_files_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (root, anchor) = (dir.path().join("v"), Arc::new(LocalAnchor::default()));
    let bytes = [7; 1000];
    std::fs::create_dir_all(root.join("plain/dir")).unwrap();
    std::fs::create_dir(dir.path().join("outside-dir")).unwrap();
    for path in [
        "v/plain/file",
        "v/plain/dir/file",
        "v/outside",
        "outside-dir/file",
    ] {
        std::fs::write(dir.path().join(path), bytes).unwrap();
    }
    let granted = |writable| Grant {
        protection: Protection::Authenticated,
        ..anchor.grant(writable)
    };
    let volume = open_grant(&root, &anchor, granted(true)).unwrap();
    let inner = volume.make_node(ROOT_INO, b"dir", NodeKind::Dir, 0o755, 0, 0);
    for parent in [ROOT_INO, inner.unwrap().ino] {
        let made = volume.make_node(parent, b"file", NodeKind::File, 0o644, 0, 0);
        volume.write(made.unwrap().ino, 0, &bytes).unwrap();
    }
    volume.close().unwrap();
    for (command, name, words) in PLANTED {
        let (place, kept) = (root.join("plain").join(name), root.join("kept"));
        std::fs::rename(&place, &kept).unwrap();
        let script = format!("cd {} && {command} {name}", root.join("plain").display());
        let done = std::process::Command::new("sh")
            .args(["-c", &script])
            .status();
        assert!(done.unwrap().success(), "{command}");
        let volume = open_grant(&root, &anchor, granted(false)).unwrap();
        let mut parent = ROOT_INO;
        if name == "dir" {
            parent = volume.lookup(ROOT_INO, b"dir").unwrap().ino;
        }
        let file = volume.lookup(parent, b"file").unwrap().ino;
        let started = std::time::Instant::now();
        let error = volume.read(file, 0, &mut [0; 1000]).unwrap_err();
        assert!(
            started.elapsed().as_secs() < 5,
            "{command}: the open waited"
        );
        assert!(
            matches!(&error, VolumeError::Integrity { problem, .. } if problem.contains(words)),
            "{command}: {error:?}"
        );
        drop(volume);
        let _ = std::fs::remove_dir(&place).or_else(|_| std::fs::remove_file(&place));
        std::fs::rename(&kept, &place).unwrap();
    }
    let volume = open_grant(&root, &anchor, granted(false)).unwrap();
    assert_eq!(volume.check().unwrap(), []);
}
