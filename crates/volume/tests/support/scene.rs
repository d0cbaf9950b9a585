//! A volume whose life the host has recorded, commit by commit, and what the host does with it afterwards.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

use securetf_volume::{
    NodeKind, Position, ROOT_INO, RenameFlags, SetAttr, SetTime, Volume, VolumeError, XattrMode,
};

use super::history::{CHUNK, make, pattern};
use super::model::{View, view};
use super::{Files, MemoryStore, TestAnchor, open};

/// One commit: the store after it, the anchor, and what a program sees.
pub struct Step {
    pub name: &'static str,
    pub files: Files,
    pub position: Position,
    pub view: View,
}

/// A place of ciphertext: path and bytes.
pub type Slot = (String, Range<usize>);

pub struct Scene {
    pub steps: Vec<Step>,
    /// Where the full chunks of the newest state lie, by file and chunk index.
    pub slots: BTreeMap<(String, u64), Slot>,
}

/// What the host's change led to: an error at the opening, or the findings of `check` with the path of each file.
#[derive(Debug)]
pub enum Outcome {
    Refused(VolumeError),
    Damaged(Vec<(String, String)>),
    /// Exactly what was written is served.
    Exact,
}

impl Scene {
    pub fn get() -> &'static Self {
        static SCENE: OnceLock<Scene> = OnceLock::new();
        SCENE.get_or_init(play)
    }

    pub fn newest(&self) -> &Step {
        self.steps.last().unwrap()
    }

    pub fn step(&self, name: &str) -> usize {
        self.steps
            .iter()
            .position(|step| step.name == name)
            .unwrap()
    }

    pub fn slot(&self, file: &str, chunk: u64) -> &Slot {
        &self.slots[&(file.to_owned(), chunk)]
    }

    /// The ciphertext of a chunk in the newest state.
    pub fn sealed(&self, file: &str, chunk: u64) -> Vec<u8> {
        let (path, range) = self.slot(file, chunk);
        self.newest().files[path][range.clone()].to_vec()
    }

    /// The newest store with these bytes at this chunk's place.
    pub fn with(&self, changes: &[(&str, u64, Vec<u8>)]) -> Files {
        let mut files = self.newest().files.clone();
        for (file, chunk, bytes) in changes {
            let (path, range) = self.slot(file, *chunk);
            files.get_mut(path).unwrap()[range.start..range.start + bytes.len()]
                .copy_from_slice(bytes);
        }
        files
    }

    /// Opens a changed store at the newest anchored state and reads everything.
    pub fn look(&self, files: Files) -> Outcome {
        let newest = self.newest();
        let anchor = TestAnchor::at(50, newest.position);
        let volume = match open(&MemoryStore::new(files), &anchor, false) {
            Ok(volume) => volume,
            Err(error) => return Outcome::Refused(error),
        };
        let findings = volume.check().unwrap();
        if findings.is_empty() {
            let seen = view(&volume).unwrap();
            assert!(seen == newest.view, "something else was served silently");
            return Outcome::Exact;
        }
        assert!(view(&volume).is_err(), "a damaged file was served");
        let named = findings
            .into_iter()
            .map(|finding| (finding.path, finding.what));
        Outcome::Damaged(named.collect())
    }

    /// The change is noticed and exactly these files are named, with what is wrong.
    pub fn damages(&self, files: Files, expected: &[&str], words: &str) {
        match self.look(files) {
            Outcome::Damaged(found) => {
                let paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
                assert_eq!(paths, expected);
                assert!(
                    found.iter().all(|(_, what)| what.contains(words)),
                    "{found:?}"
                );
            }
            other => panic!("not noticed as damage of {expected:?}: {other:?}"),
        }
    }

    /// The volume does not open, because the store does not lead to the anchored state.
    /// The reason is one of `words`.
    pub fn refuses(&self, files: Files, words: &[&str]) {
        match self.look(files) {
            Outcome::Refused(error @ VolumeError::Rollback { .. }) => {
                let anchored =
                    format!("the anchor stands at sequence {}", self.newest().position.0);
                let text = error.problem();
                assert!(text.contains(&anchored), "{text}");
                assert!(words.iter().any(|words| text.contains(words)), "{text}");
                assert!(
                    error
                        .fix()
                        .contains("restore the complete volume directory")
                );
            }
            other => panic!("not refused as another state: {other:?}"),
        }
    }

    /// Everything the host can do to the record of one commit without the key is noticed: taking it away, changing
    /// any byte of it, putting the commit before or another one in its place, going back to before it.
    pub fn undo(&self, name: &str) {
        let at = self.step(name);
        let (before, after) = (&self.steps[at - 1], &self.steps[at]);
        let (path, record) = appended(&before.files, &after.files);
        let change = |edit: &dyn Fn(&mut Vec<u8>)| {
            let mut files = self.newest().files.clone();
            edit(files.get_mut(&path).unwrap());
            files
        };
        let gone = ["is missing or changed", "the newest records are missing"];
        let changed = ["missing", "it has another record"];
        self.refuses(change(&|raw| drop(raw.drain(record.clone()))), &gone);
        for byte in record.clone() {
            self.refuses(change(&|raw| raw[byte] ^= 1 << (byte % 8)), &changed);
        }
        let (other_path, other) = appended(&self.steps[at - 2].files, &before.files);
        let substitute = self.newest().files[&other_path][other].to_vec();
        self.refuses(
            change(&|raw| drop(raw.splice(record.clone(), substitute.iter().copied()))),
            &gone,
        );
        let mut mixed = self.newest().files.clone();
        for (path, content) in before
            .files
            .iter()
            .filter(|(path, _)| path.contains("metadata"))
        {
            mixed.insert(path.clone(), content.clone());
        }
        self.refuses(mixed, &gone);
        assert!(
            before.view != after.view,
            "the commit is visible to a program"
        );
    }
}

/// Where the journal grew.
pub fn appended(before: &Files, after: &Files) -> (String, Range<usize>) {
    let grown = after.iter().filter(|(path, _)| path.contains("journal"));
    let mut grown = grown.filter_map(|(path, content)| {
        let old = before.get(path).map_or(0, Vec::len);
        (content.len() > old).then(|| (path.clone(), old..content.len()))
    });
    let place = grown.next().unwrap();
    assert!(grown.next().is_none(), "one journal grows with one commit");
    place
}

/// The store's calls in their order tell the host which chunk is whose; the test asks `check` instead.
fn find_slots(files: &Files, position: Position) -> BTreeMap<(String, u64), Slot> {
    let store = MemoryStore::new(files.clone());
    let volume = open(&store, &TestAnchor::at(50, position), false).unwrap();
    let mut slots = BTreeMap::new();
    for (path, content) in files.iter().filter(|(path, _)| path.starts_with("data/")) {
        for start in (0..content.len()).step_by(CHUNK) {
            store.files.lock().unwrap().get_mut(path).unwrap()[start] ^= 1;
            for finding in volume.check().unwrap() {
                let (chunk, _) = finding
                    .what
                    .strip_prefix("chunk ")
                    .unwrap()
                    .split_once(':')
                    .unwrap();
                let end = content.len().min(start + CHUNK);
                slots.insert(
                    (finding.path, chunk.parse().unwrap()),
                    (path.clone(), start..end),
                );
            }
            store.files.lock().unwrap().get_mut(path).unwrap()[start] ^= 1;
        }
    }
    slots
}

fn dir(volume: &Volume, parent: u64, name: &str) -> u64 {
    let made = volume.make_node(parent, name.as_bytes(), NodeKind::Dir, 0o755, 0, 0);
    made.unwrap().ino
}

fn into(volume: &Volume, parent: u64, name: &str, content: &[u8]) -> u64 {
    let made = volume.make_node(parent, name.as_bytes(), NodeKind::File, 0o644, 0, 0);
    let ino = made.unwrap().ino;
    volume.write(ino, 0, content).unwrap();
    ino
}

fn link(volume: &Volume, target: &[u8]) {
    let kind = NodeKind::Symlink(target);
    volume
        .make_node(ROOT_INO, b"link", kind, 0o777, 0, 0)
        .unwrap();
}

/// A life in commits; each later one is what a host would like to undo.
fn play() -> Scene {
    let (store, anchor) = (MemoryStore::new(Files::new()), TestAnchor::virgin());
    let mut volume = super::open_roomy(&store, &anchor);
    let mut steps = Vec::new();
    let mut keep = |volume: &Volume, name| {
        volume.sync(None).unwrap();
        let (files, position) = (store.snapshot(), anchor.position());
        steps.push(Step {
            name,
            files,
            position,
            view: view(volume).unwrap(),
        });
    };
    let a = make(&volume, "a", &pattern(1, 3 * CHUNK));
    make(&volume, "b", &pattern(2, 3 * CHUNK));
    let (one, two) = (dir(&volume, ROOT_INO, "one"), dir(&volume, ROOT_INO, "two"));
    into(&volume, one, "same", &pattern(3, CHUNK));
    into(&volume, two, "same", &pattern(4, CHUNK));
    let gone = make(&volume, "gone", &pattern(5, 2 * CHUNK));
    link(&volume, b"a");
    keep(&volume, "made");
    into(&volume, one, "later", &pattern(6, CHUNK));
    keep(&volume, "added");
    let swap = |from: &[u8], to: &[u8]| {
        volume
            .rename(ROOT_INO, from, ROOT_INO, to, RenameFlags::Exchange)
            .unwrap();
    };
    swap(b"a", b"b");
    keep(&volume, "names swapped");
    swap(b"a", b"b");
    swap(b"one", b"two");
    keep(&volume, "directories swapped");
    let into_two = RenameFlags::NoReplace;
    volume
        .rename(ROOT_INO, b"one", one, b"moved", into_two)
        .unwrap();
    keep(&volume, "directory moved");
    volume.link(gone, ROOT_INO, b"hard").unwrap();
    keep(&volume, "linked");
    volume.remove_file(ROOT_INO, b"hard").unwrap();
    keep(&volume, "unlinked");
    volume.remove_file(ROOT_INO, b"gone").unwrap();
    keep(&volume, "deleted");
    volume.remove_file(ROOT_INO, b"link").unwrap();
    link(&volume, b"b");
    keep(&volume, "link changed");
    let mode = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    volume.set_attr(a, &mode).unwrap();
    keep(&volume, "mode changed");
    volume
        .xattr_set(a, b"user.x", b"value", XattrMode::Set)
        .unwrap();
    let times = SetAttr {
        mtime: Some(SetTime::At(7)),
        ..SetAttr::default()
    };
    volume.set_attr(a, &times).unwrap();
    keep(&volume, "times and xattr changed");
    volume.close().unwrap();
    // A new epoch writes to new places, so the old chunk stays where it was until the commit that replaces it.
    volume = super::open_roomy(&store, &anchor);
    volume.write(a, CHUNK as u64, &pattern(7, CHUNK)).unwrap();
    keep(&volume, "a written again");
    volume.write(a, CHUNK as u64, &pattern(8, CHUNK)).unwrap();
    keep(&volume, "and again");
    make(&volume, "new", &pattern(9, 2 * CHUNK));
    keep(&volume, "new");
    let slots = find_slots(&steps.last().unwrap().files, steps.last().unwrap().position);
    Scene { steps, slots }
}
