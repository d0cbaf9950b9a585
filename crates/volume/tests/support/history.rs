//! A volume at several times, and what a program sees after the host has changed it.

use std::sync::OnceLock;

use securetf_volume::{Ino, NodeKind, ROOT_INO, Volume, VolumeError, XattrMode};

use super::model::{View, read_all, view};
use super::{Files, MemoryStore, TestAnchor, open};

pub const CHUNK: usize = 4096;

/// A volume at three times: sequence by sequence, what the store held and what a program saw.
pub struct History {
    pub states: Vec<(Files, securetf_volume::Position, View)>,
}

pub fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| seed.wrapping_mul(31) ^ (at / 16) as u8 ^ (at as u8).wrapping_mul(7))
        .collect()
}

pub fn history() -> &'static History {
    static HISTORY: OnceLock<History> = OnceLock::new();
    HISTORY.get_or_init(|| {
        let (store, anchor) = (MemoryStore::new(Files::new()), TestAnchor::virgin());
        let mut volume = open(&store, &anchor, true).unwrap();
        let mut states = Vec::new();
        let dir = volume
            .make_node(ROOT_INO, b"dir", NodeKind::Dir, 0o750, 1, 2)
            .unwrap()
            .ino;
        let file = |volume: &Volume, parent, name: &[u8], content: &[u8]| {
            let ino = volume
                .make_node(parent, name, NodeKind::File, 0o600, 0, 0)
                .unwrap()
                .ino;
            volume.write(ino, 0, content).unwrap();
            ino
        };
        let chunks = file(&volume, ROOT_INO, b"chunks", &pattern(1, 3 * CHUNK + 700));
        file(&volume, dir, b"twin", &pattern(2, 3 * CHUNK + 700));
        file(&volume, dir, b"packed", &pattern(3, 2500));
        let inline = file(&volume, ROOT_INO, b"inline", b"a few bytes");
        volume
            .make_node(dir, b"link", NodeKind::Symlink(b"../inline"), 0o777, 0, 0)
            .unwrap();
        volume
            .xattr_set(inline, b"user.x", b"value", XattrMode::Set)
            .unwrap();
        let mut keep = |volume: &Volume| {
            volume.sync(None).unwrap();
            states.push((store.snapshot(), anchor.position(), view(volume).unwrap()));
        };
        keep(&volume);
        volume
            .write(chunks, CHUNK as u64, &pattern(9, CHUNK))
            .unwrap();
        volume.remove_file(dir, b"packed").unwrap();
        keep(&volume);
        volume.close().unwrap();
        volume = open(&store, &anchor, true).unwrap();
        volume.write(chunks, 0, &pattern(10, CHUNK)).unwrap();
        volume
            .write(chunks, CHUNK as u64, &pattern(11, CHUNK))
            .unwrap();
        keep(&volume);
        volume.write(chunks, 0, &pattern(12, CHUNK)).unwrap();
        keep(&volume);
        History { states }
    })
}

/// How a change of the store shows.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// Opening fails.
    Refused(VolumeError),
    /// `check` names files.
    Damaged(Vec<String>),
    /// A program sees exactly what was written.
    Harmless,
}

pub fn look(files: Files, state: usize) -> Seen {
    let (_, position, expected) = &history().states[state];
    let anchor = TestAnchor::at(20, *position);
    let volume = match open(&MemoryStore::new(files), &anchor, false) {
        Ok(volume) => volume,
        Err(error) => return Seen::Refused(error),
    };
    let findings = volume.check().unwrap();
    if !findings.is_empty() {
        assert!(view(&volume).is_err(), "a damaged file is not served");
        return Seen::Damaged(findings.into_iter().map(|finding| finding.path).collect());
    }
    assert!(
        view(&volume).unwrap() == *expected,
        "something else was served silently"
    );
    Seen::Harmless
}

pub fn newest() -> (Files, usize) {
    let state = history().states.len() - 1;
    (history().states[state].0.clone(), state)
}

pub fn is_alarm(seen: &Seen) -> bool {
    matches!(
        seen,
        Seen::Refused(VolumeError::Rollback { .. } | VolumeError::Integrity { .. })
    )
}

/// The segment of full chunks of an epoch, and where `content` of chunk `index` of which file lies is unknown to the
/// host: it tries all slots.
pub fn slots(files: &Files) -> Vec<(String, usize)> {
    let segments = files.iter().filter(|(path, _)| path.starts_with("data/"));
    segments
        .flat_map(|(path, content)| {
            (0..content.len() / CHUNK).map(move |slot| (path.clone(), slot * CHUNK))
        })
        .collect()
}

/// Makes a file with this content.
pub fn make(volume: &Volume, name: &str, content: &[u8]) -> Ino {
    let ino = volume
        .make_node(ROOT_INO, name.as_bytes(), NodeKind::File, 0o644, 0, 0)
        .unwrap()
        .ino;
    volume.write(ino, 0, content).unwrap();
    ino
}

/// The content of a file in the root directory.
pub fn content(volume: &Volume, name: &str) -> Vec<u8> {
    let attr = volume.lookup(ROOT_INO, name.as_bytes()).unwrap();
    read_all(volume, attr.ino, attr.size).unwrap()
}
