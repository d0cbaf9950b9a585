//! Authenticated volumes: plain files in place beside sealed digests. What the host changes is noticed, and the message
//! names the file; what it adds is not seen.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use securetf_volume::{
    Anchor, Freshness, Grant, NodeKind, Position, Protection, ROOT_INO, Store, StoreError, Volume,
    VolumeError,
};
use support::{Files, MemoryStore, TestAnchor, TestEnvironment, open_grant, options};

const CHUNK: usize = 4096;

fn granted(anchor: &TestAnchor, writable: bool) -> Grant {
    Grant {
        protection: Protection::Authenticated,
        ..anchor.grant(writable)
    }
}

fn content(seed: usize, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| ((at * 31 + seed * 7 + at / CHUNK) % 251) as u8)
        .collect()
}

fn plain() -> Files {
    let files = [
        ("plain/a", content(1, 3 * CHUNK + 100)),
        ("plain/b", content(2, 3 * CHUNK + 100)),
        ("plain/dir/c", content(3, 40)),
        ("plain/dir/empty", Vec::new()),
    ];
    files
        .map(|(path, content)| (path.to_owned(), content))
        .into()
}

/// Packs the plain files, as `volume-pack` does, and commits.
fn pack(store: &Arc<MemoryStore>, anchor: &Arc<TestAnchor>) -> Position {
    let volume = open_grant(store, anchor, granted(anchor, true)).unwrap();
    let files = store.snapshot();
    for name in [b"a".as_slice(), b"b"] {
        let _ = volume.remove_file(ROOT_INO, name);
    }
    let dir = match volume.lookup(ROOT_INO, b"dir") {
        Ok(dir) => dir,
        Err(_) => volume
            .make_node(ROOT_INO, b"dir", NodeKind::Dir, 0o755, 0, 0)
            .unwrap(),
    };
    for name in [b"c".as_slice(), b"empty"] {
        let _ = volume.remove_file(dir.ino, name);
    }
    for (path, content) in files.iter().filter(|(path, _)| path.starts_with("plain/")) {
        let (parent, name) = match path.strip_prefix("plain/dir/") {
            Some(name) => (dir.ino, name),
            None => (ROOT_INO, &path[6..]),
        };
        let made = volume.make_node(parent, name.as_bytes(), NodeKind::File, 0o644, 1, 2);
        volume.write(made.unwrap().ino, 0, content).unwrap();
    }
    let _ = volume.make_node(ROOT_INO, b"link", NodeKind::Symlink(b"dir/c"), 0o777, 0, 0);
    volume.close().unwrap();
    anchor.position()
}

fn packed() -> (Files, Position) {
    let (store, anchor) = (MemoryStore::new(plain()), TestAnchor::virgin());
    let position = pack(&store, &anchor);
    (store.snapshot(), position)
}

fn opened(files: Files, position: Position) -> Result<Arc<Volume>, VolumeError> {
    let anchor = TestAnchor::at(9, position);
    open_grant(&MemoryStore::new(files), &anchor, granted(&anchor, false))
}

fn read(volume: &Volume, path: &str) -> Result<Vec<u8>, VolumeError> {
    let mut ino = ROOT_INO;
    for name in path.split('/') {
        ino = volume.lookup(ino, name.as_bytes())?.ino;
    }
    let mut out = vec![0xEE; 5 * CHUNK];
    let length = volume.read(ino, 0, &mut out)?;
    out.truncate(length);
    Ok(out)
}

/// Opens what the host made of the volume; the file must be refused with these words, and `check` must name it.
fn noticed(files: Files, path: &str, words: &str) {
    let volume = opened(files, packed().1).unwrap();
    let error = read(&volume, path).unwrap_err();
    assert_eq!(error.errno(), 74, "{error}");
    assert!(
        error.problem().starts_with(&format!("/{path}: chunk ")) && error.problem().contains(words),
        "{error}"
    );
    let findings = volume.check().unwrap();
    let named = findings
        .iter()
        .any(|one| one.path == format!("/{path}") && one.what.contains(words));
    assert!(named, "{findings:?}");
}

const CHANGED: &str = "are not those that were sealed";

#[test]
fn test_every_file_is_read_back_and_its_contents_stay_in_place() {
    let (files, position) = packed();
    for (path, content) in plain() {
        assert_eq!(files[&path], content, "{path} was changed by packing");
    }
    assert!(!files.keys().any(|path| path.starts_with("data/")));
    let volume = opened(files, position).unwrap();
    for (path, content) in plain() {
        assert_eq!(read(&volume, &path[6..]).unwrap(), content, "{path}");
    }
    let link = volume.lookup(ROOT_INO, b"link").unwrap();
    assert_eq!(volume.read_link(link.ino).unwrap(), b"dir/c");
    assert_eq!(volume.check().unwrap(), []);
}

#[test]
fn test_a_part_of_a_chunk_is_the_sealed_one_at_each_offset() {
    let (files, position) = packed();
    let volume = opened(files, position).unwrap();
    let ino = volume.lookup(ROOT_INO, b"a").unwrap().ino;
    let expected = &plain()["plain/a"];
    for (offset, length) in [(0, 1), (4095, 2), (5000, 3000), (3 * CHUNK + 99, 50)] {
        let mut out = vec![0; length];
        let got = volume.read(ino, offset as u64, &mut out).unwrap();
        let end = (offset + length).min(expected.len());
        assert_eq!(out[..got], expected[offset..end]);
    }
}

#[test]
fn test_a_flipped_bit_is_noticed_and_none_of_the_chunk_is_handed_out() {
    let (mut files, position) = packed();
    files.get_mut("plain/a").unwrap()[CHUNK + 17] ^= 4;
    noticed(files.clone(), "a", CHANGED);
    let volume = opened(files, position).unwrap();
    let ino = volume.lookup(ROOT_INO, b"a").unwrap().ino;
    let mut out = vec![0xEE; 2 * CHUNK];
    assert!(volume.read(ino, 0, &mut out).is_err());
    assert!(out.iter().all(|byte| *byte == 0), "bytes were left behind");
    assert_eq!(volume.read(ino, 0, &mut out[..CHUNK]).unwrap(), CHUNK);
}

#[test]
fn test_every_byte_flipped_in_turn_is_noticed() {
    let (files, position) = packed();
    let length = files["plain/dir/c"].len();
    for at in 0..length {
        let mut files = files.clone();
        files.get_mut("plain/dir/c").unwrap()[at] ^= 1;
        let error = read(&opened(files, position).unwrap(), "dir/c").unwrap_err();
        assert!(error.problem().contains(CHANGED), "byte {at}: {error}");
    }
}

#[test]
fn test_swapped_files_and_swapped_chunks_are_noticed() {
    let (packed, _) = packed();
    let mut files = packed.clone();
    files.insert("plain/a".to_owned(), packed["plain/b"].clone());
    files.insert("plain/b".to_owned(), packed["plain/a"].clone());
    noticed(files.clone(), "a", CHANGED);
    noticed(files, "b", CHANGED);
    let mut files = packed.clone();
    let (first, second) = files.get_mut("plain/a").unwrap().split_at_mut(CHUNK);
    first.swap_with_slice(&mut second[..CHUNK]);
    noticed(files, "a", CHANGED);
}

#[test]
fn test_a_file_cut_or_extended_is_noticed_with_both_sizes() {
    let (packed, _) = packed();
    for length in [0, CHUNK, 3 * CHUNK + 99, 3 * CHUNK + 101, 5 * CHUNK] {
        let mut files = packed.clone();
        files.get_mut("plain/a").unwrap().resize(length, 0);
        let words = format!("plain/a has {length} bytes, 12388 were sealed");
        noticed(files, "a", &words);
    }
}

#[test]
fn test_a_deleted_or_renamed_file_is_noticed() {
    let (packed, _) = packed();
    let mut files = packed.clone();
    let content = files.remove("plain/dir/c").unwrap();
    noticed(files.clone(), "dir/c", "plain/dir/c is missing");
    files.insert("plain/dir/other".to_owned(), content);
    noticed(files, "dir/c", "plain/dir/c is missing");
}

#[test]
fn test_a_file_without_bytes_that_got_some_is_named_by_check() {
    let (mut files, position) = packed();
    files.insert("plain/dir/empty".to_owned(), vec![1]);
    let volume = opened(files, position).unwrap();
    assert_eq!(read(&volume, "dir/empty").unwrap(), b"");
    let findings = volume.check().unwrap();
    assert_eq!(findings[0].path, "/dir/empty");
    assert!(findings[0].what.contains("has 1 bytes, 0 were sealed"));
}

#[test]
fn test_what_the_host_adds_is_not_seen() {
    let (mut files, position) = packed();
    files.insert("plain/dir/added".to_owned(), b"malware".to_vec());
    let volume = opened(files, position).unwrap();
    assert_eq!(read(&volume, "dir/added"), Err(VolumeError::NotFound));
    assert_eq!(volume.check().unwrap(), []);
}

#[test]
fn test_an_older_manifest_with_its_older_files_is_refused() {
    let (store, anchor) = (MemoryStore::new(plain()), TestAnchor::virgin());
    pack(&store, &anchor);
    let older = store.snapshot();
    store.files.lock().unwrap().get_mut("plain/a").unwrap()[0] ^= 1;
    let position = pack(&store, &anchor);
    assert_eq!(
        read(&opened(store.snapshot(), position).unwrap(), "a").unwrap(),
        store.snapshot()["plain/a"]
    );
    let error = opened(older.clone(), position).err().unwrap();
    assert!(matches!(error, VolumeError::Rollback { .. }), "{error}");
    // The newest manifest beside the older files.
    let mut mixed = store.snapshot();
    mixed.insert("plain/a".to_owned(), older["plain/a"].clone());
    let error = read(&opened(mixed, position).unwrap(), "a").unwrap_err();
    assert!(error.problem().contains(CHANGED), "{error}");
}

#[test]
fn test_authenticated_for_encrypted_and_back_is_refused_with_both_words() {
    let (files, position) = packed();
    let anchor = TestAnchor::at(9, position);
    let error = open_grant(&MemoryStore::new(files), &anchor, anchor.grant(false)).err();
    let problem = error.unwrap().problem();
    assert_eq!(
        problem,
        "the volume is authenticated, the grant says encrypted"
    );
    let (store, anchor) = (MemoryStore::new(Files::new()), TestAnchor::virgin());
    let volume = open_grant(&store, &anchor, anchor.grant(true)).unwrap();
    volume.close().unwrap();
    for writable in [false, true] {
        let error = open_grant(&store, &anchor, granted(&anchor, writable)).err();
        assert_eq!(
            error.unwrap().problem(),
            "the volume is encrypted, the grant says authenticated"
        );
    }
}

#[test]
fn test_a_name_that_is_not_utf8_is_refused_when_it_is_packed() {
    let (store, anchor) = (MemoryStore::new(Files::new()), TestAnchor::virgin());
    let volume = open_grant(&store, &anchor, granted(&anchor, true)).unwrap();
    let error = volume.make_node(ROOT_INO, b"\xff", NodeKind::File, 0o644, 0, 0);
    let problem = error.unwrap_err().problem();
    assert!(problem.contains("must be UTF-8"), "{problem}");
}

/// A host that changes a file right after it was read, and puts it back before the next look at its size.
struct Shifting {
    inner: Arc<MemoryStore>,
    armed: AtomicBool,
    reads: Mutex<Vec<(String, u64, usize)>>,
}

impl Store for Shifting {
    fn read_at(&self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize, StoreError> {
        let got = self.inner.read_at(path, offset, buf)?;
        if path.starts_with("plain/") && self.armed.load(Ordering::SeqCst) {
            let mut reads = self.reads.lock().unwrap();
            reads.push((path.to_owned(), offset, got));
            let mut files = self.inner.files.lock().unwrap();
            files
                .get_mut(path)
                .unwrap()
                .iter_mut()
                .for_each(|byte| *byte ^= 0xFF);
        }
        Ok(got)
    }

    fn size(&self, path: &str) -> Result<u64, StoreError> {
        self.inner.size(path)
    }

    fn write_at(&self, path: &str, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        self.inner.write_at(path, offset, data)
    }

    fn sync(&self, path: &str) -> Result<(), StoreError> {
        self.inner.sync(path)
    }

    fn sync_dir(&self, dir: &str) -> Result<(), StoreError> {
        self.inner.sync_dir(dir)
    }

    fn remove(&self, path: &str) -> Result<(), StoreError> {
        self.inner.remove(path)
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list(dir)
    }

    fn replace(&self, path: &str, data: &[u8]) -> Result<(), StoreError> {
        self.inner.replace(path, data)
    }

    fn lock_exclusive(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[test]
fn test_bytes_changed_between_check_and_use_never_reach_the_program() {
    let (files, position) = packed();
    let anchor = TestAnchor::at(9, position);
    let store = Arc::new(Shifting {
        inner: MemoryStore::new(files),
        armed: AtomicBool::new(false),
        reads: Mutex::default(),
    });
    let volume = Volume::open_with(
        Arc::clone(&store) as Arc<dyn Store>,
        Some(Arc::clone(&anchor) as Arc<dyn Anchor>),
        Arc::new(TestEnvironment::default()),
        granted(&anchor, false),
        options(Freshness::Pinned),
    )
    .unwrap();
    store.armed.store(true, Ordering::SeqCst);
    // Read once, and changed on the storage since: what was verified is what is handed out.
    assert_eq!(read(&volume, "a").unwrap(), plain()["plain/a"]);
    let reads = store.reads.lock().unwrap().clone();
    let covered: usize = reads.iter().map(|(_, _, length)| length).sum();
    assert_eq!(
        covered,
        plain()["plain/a"].len(),
        "bytes were read twice: {reads:?}"
    );
    // The next read meets the changed file.
    let error = read(&volume, "a").unwrap_err();
    assert!(error.problem().contains(CHANGED), "{error}");
}
