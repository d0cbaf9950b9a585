//! A volume that was written once is read forever: `tests/vectors/volume-v1` at the root of the repository.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use securetf_volume::{NodeKind, ROOT_INO, RenameFlags, SetAttr, SetTime, Volume, XattrMode};
use support::model::view;
use support::{Files, MemoryStore, TestAnchor, open};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/volume-v1")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

/// What a program sees: one line per name.
fn listing(volume: &Volume) -> String {
    let mut text = String::new();
    for (path, node) in view(volume).unwrap() {
        match node {
            None => writeln!(text, "{path} directory").unwrap(),
            Some(node) => {
                let kind = if node.symlink { "symlink" } else { "file" };
                let sum = hex(digest(&SHA256, &node.content).as_ref());
                let xattr = node.xattr.map_or("-".to_owned(), |value| hex(&value));
                let (size, mode) = (node.content.len(), node.mode);
                writeln!(
                    text,
                    "{path} {kind} {mode:04o} {size} links={} sha256={sum} user.x={xattr}",
                    node.nlink
                )
                .unwrap();
            }
        }
    }
    text
}

fn read_folder(dir: &Path, prefix: &str, files: &mut Files) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            read_folder(&entry.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
}

#[test]
fn test_the_golden_volume_is_read_as_on_the_day_it_was_written() {
    let mut files = Files::new();
    read_folder(&folder().join("volume"), "", &mut files);
    let anchor = std::fs::read_to_string(folder().join("anchor.txt")).unwrap();
    let (seq, root) = anchor.trim().split_once(' ').unwrap();
    let position = (seq.parse().unwrap(), unhex(root).try_into().unwrap());
    let store = MemoryStore::new(files);
    let reader = open(&store, &TestAnchor::at(9, position), false).unwrap();
    assert_eq!(reader.check().unwrap(), []);
    assert_eq!(
        listing(&reader),
        std::fs::read_to_string(folder().join("listing.txt")).unwrap()
    );
    let writer = open(&store, &TestAnchor::at(9, position), true).unwrap();
    writer.close().unwrap();
}

/// Run once per format version: `cargo test -p securetf-volume --test golden -- --ignored`.
#[test]
#[ignore = "writes the vector anew"]
fn write_the_golden_volume() {
    let (store, anchor) = (MemoryStore::new(Files::new()), TestAnchor::virgin());
    let volume = open(&store, &anchor, true).unwrap();
    let bytes =
        |length: usize| -> Vec<u8> { (0..length).map(|at| (at * 7 + at / 256) as u8).collect() };
    let file = |parent, name: &str, length| {
        let ino = volume
            .make_node(parent, name.as_bytes(), NodeKind::File, 0o640, 1000, 100)
            .unwrap()
            .ino;
        volume.write(ino, 0, &bytes(length)).unwrap();
        ino
    };
    let dir = volume
        .make_node(ROOT_INO, b"dir", NodeKind::Dir, 0o755, 0, 0)
        .unwrap()
        .ino;
    for (name, length) in [
        ("empty", 0),
        ("inline", 2048),
        ("packed", 3000),
        ("one-chunk", 4096),
        ("chunks", 9000),
    ] {
        file(dir, name, length);
    }
    let sparse = file(ROOT_INO, "sparse", 4096);
    volume
        .set_attr(
            sparse,
            &SetAttr {
                size: Some(40_000),
                ..SetAttr::default()
            },
        )
        .unwrap();
    volume
        .make_node(
            ROOT_INO,
            b"link",
            NodeKind::Symlink(b"dir/inline"),
            0o777,
            0,
            0,
        )
        .unwrap();
    for number in 0..40 {
        file(ROOT_INO, &format!("many-{number}"), 200 + number);
        volume.sync(None).unwrap();
    }
    volume.close().unwrap();
    drop(volume);
    let volume = open(&store, &anchor, true).unwrap();
    let sparse = volume.lookup(ROOT_INO, b"sparse").unwrap().ino;
    volume.write(sparse, 30_000, b"an island").unwrap();
    volume
        .xattr_set(sparse, b"user.x", b"value", XattrMode::Set)
        .unwrap();
    volume.link(sparse, dir, b"hard").unwrap();
    volume
        .set_attr(
            dir,
            &SetAttr {
                mtime: Some(SetTime::At(-5)),
                ..SetAttr::default()
            },
        )
        .unwrap();
    volume.remove_file(ROOT_INO, b"many-3").unwrap();
    volume
        .rename(
            ROOT_INO,
            b"many-4",
            ROOT_INO,
            b"many-5",
            RenameFlags::Replace,
        )
        .unwrap();
    volume.close().unwrap();
    for (path, content) in store.snapshot() {
        let path = folder().join("volume").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let (seq, root) = anchor.position();
    std::fs::write(
        folder().join("anchor.txt"),
        format!("{seq} {}\n", hex(&root)),
    )
    .unwrap();
    std::fs::write(folder().join("listing.txt"), listing(&volume)).unwrap();
}
