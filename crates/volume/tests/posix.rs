//! Special files, holes, limits and big directories behave as POSIX and Linux say, over any number of opens.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use securetf_volume::{
    FileType, NodeKind, ROOT_INO, RenameFlags, Seek, SetAttr, Volume, VolumeError, XattrMode,
};
use support::history::make;
use support::{MemoryStore, TestAnchor, open};

fn volume() -> (Arc<MemoryStore>, Arc<TestAnchor>, Arc<Volume>) {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let volume = open(&store, &anchor, true).unwrap();
    (store, anchor, volume)
}

#[test]
fn test_special_files_are_the_same_when_the_volume_is_opened_again() {
    let (store, anchor, volume) = volume();
    let kinds = [
        ("fifo", NodeKind::Fifo, FileType::Fifo, 0),
        ("socket", NodeKind::Socket, FileType::Socket, 0),
        (
            "char",
            NodeKind::CharDevice(0x103),
            FileType::CharDevice,
            0x103,
        ),
        (
            "block",
            NodeKind::BlockDevice(u32::MAX),
            FileType::BlockDevice,
            u32::MAX,
        ),
    ];
    for (name, kind, _, _) in &kinds {
        let made = volume.make_node(ROOT_INO, name.as_bytes(), *kind, 0o4640, 7, 8);
        let ino = made.unwrap().ino;
        volume
            .link(ino, ROOT_INO, format!("{name} again").as_bytes())
            .unwrap();
        let refused = Err(VolumeError::Invalid(
            "a special file has no content of its own",
        ));
        assert_eq!(volume.write(ino, 0, b"content"), refused);
        let cut = SetAttr {
            size: Some(1),
            ..SetAttr::default()
        };
        assert_eq!(volume.set_attr(ino, &cut).map(|_| 0), refused);
    }
    volume.close().unwrap();
    let reader = open(&store, &anchor, false).unwrap();
    for (name, _, kind, device) in &kinds {
        let found = reader.lookup(ROOT_INO, name.as_bytes()).unwrap();
        assert_eq!((found.kind, found.device, found.size), (*kind, *device, 0));
        assert_eq!(
            (found.mode, found.uid, found.gid, found.nlink),
            (0o4640, 7, 8, 2)
        );
    }
    assert_eq!(reader.check().unwrap(), []);
}

#[test]
fn test_an_inode_is_found_by_its_number_until_its_last_name_is_gone() {
    let (_, _, volume) = volume();
    let ino = make(&volume, "file", b"content");
    assert_eq!(volume.lookup(ino, b".").unwrap(), volume.attr(ino).unwrap());
    assert_eq!(volume.lookup(ino, b".."), Err(VolumeError::NotDirectory));
    volume.open_file(ino).unwrap(); // still there, without a name
    volume.remove_file(ROOT_INO, b"file").unwrap();
    assert_eq!(volume.attr(ino).unwrap().nlink, 0);
    assert_eq!(volume.lookup(ino, b"."), Err(VolumeError::NotFound));
}

#[test]
fn test_a_punched_hole_frees_its_chunks_and_stays_a_hole_when_the_volume_is_opened_again() {
    let (store, anchor, volume) = volume();
    let ino = make(&volume, "file", &[7; 10 * 4096 + 100]);
    volume.sync(None).unwrap();
    let bytes = |store: &MemoryStore| -> usize {
        let files = store.snapshot();
        files
            .iter()
            .filter(|(path, _)| path.starts_with("data/"))
            .map(|(_, data)| data.len())
            .sum()
    };
    volume.zero(ino, 4096 + 10, 4 * 4096, true).unwrap();
    volume.zero(ino, 10 * 4096, 1 << 20, true).unwrap();
    volume.close().unwrap();
    drop(volume);
    let reader = open(&store, &anchor, false).unwrap();
    assert_eq!(reader.attr(ino).unwrap().size, 10 * 4096 + 100);
    assert_eq!(reader.seek(ino, 0, Seek::Hole), Ok(2 * 4096));
    assert_eq!(reader.seek(ino, 2 * 4096 + 5, Seek::Hole), Ok(2 * 4096 + 5));
    assert_eq!(reader.seek(ino, 2 * 4096 + 5, Seek::Data), Ok(5 * 4096));
    assert_eq!(reader.seek(ino, 5 * 4096, Seek::Hole), Ok(10 * 4096));
    assert_eq!(
        reader.seek(ino, 10 * 4096 + 1, Seek::Data),
        Err(VolumeError::NoMore)
    );
    let mut content = vec![0; 10 * 4096 + 100];
    reader.read(ino, 0, &mut content).unwrap();
    let hole = 4096 + 10..5 * 4096 + 10;
    let zero = |at: usize| hole.contains(&at) || at >= 10 * 4096;
    assert!(
        content
            .iter()
            .enumerate()
            .all(|(at, byte)| *byte == if zero(at) { 0 } else { 7 })
    );
    drop(reader);
    let volume = open(&store, &anchor, true).unwrap();
    volume.zero(ino, 0, 1 << 20, true).unwrap();
    volume.close().unwrap();
    assert_eq!(bytes(&store), 0, "{:?}", store.snapshot().keys());
}

#[test]
fn test_growing_a_file_never_cuts_what_another_thread_writes_beyond_it() {
    let (_, _, volume) = volume();
    for round in 0..300_u64 {
        let ino = make(&volume, &format!("file {round}"), b"");
        let gate = std::sync::Barrier::new(3);
        std::thread::scope(|scope| {
            let wait = |work: fn(&Volume, u64) -> Result<(), VolumeError>| {
                let (gate, volume) = (&gate, &volume);
                scope.spawn(move || {
                    gate.wait();
                    work(volume, ino).unwrap();
                });
            };
            wait(|volume, ino| volume.allocate(ino, 0, 3 * 4096, false));
            wait(|volume, ino| volume.zero(ino, 0, 2 * 4096, false));
            wait(|volume, ino| volume.write(ino, 5 * 4096, b"beyond").map(|_| ()));
        });
        let mut found = [0; 6];
        volume.read(ino, 5 * 4096, &mut found).unwrap();
        assert_eq!(
            (&found, volume.attr(ino).unwrap().size),
            (b"beyond", 5 * 4096 + 6)
        );
    }
}

#[test]
fn test_ranges_that_no_file_has_are_refused() {
    let (_, _, volume) = volume();
    let ino = make(&volume, "file", b"content");
    let empty = Err(VolumeError::Invalid("a range of no bytes"));
    assert_eq!(volume.zero(ino, 0, 0, true), empty);
    assert_eq!(volume.allocate(ino, 0, 0, false), empty);
    assert_eq!(
        volume.zero(ino, u64::MAX, 2, true),
        Err(VolumeError::TooBig)
    );
    assert_eq!(
        volume.allocate(ino, 1 << 48, 1, false),
        Err(VolumeError::TooBig)
    );
    assert_eq!(
        volume.zero(ROOT_INO, 0, 1, true),
        Err(VolumeError::IsDirectory)
    );
    assert_eq!(volume.seek(ino, 7, Seek::Data), Err(VolumeError::NoMore));
    assert_eq!(volume.attr(ino).unwrap().size, 7);
}

#[test]
fn test_links_and_attributes_above_their_limits_are_refused_with_the_errno_of_linux() {
    let (_, _, volume) = volume();
    let ino = make(&volume, "file", b"");
    for number in 1..65_000 {
        volume
            .link(ino, ROOT_INO, format!("name {number}").as_bytes())
            .unwrap();
    }
    let refused = volume.link(ino, ROOT_INO, b"one more").unwrap_err();
    assert_eq!(
        (&refused, refused.errno()),
        (&VolumeError::TooManyLinks, 31)
    );
    for name in [b"user.a", b"user.b", b"user.c"] {
        volume
            .xattr_set(ino, name, &[1; 65_536], XattrMode::Set)
            .unwrap();
    }
    let refused = volume
        .xattr_set(ino, b"user.d", &[1; 65_536], XattrMode::Set)
        .unwrap_err();
    assert_eq!(
        (&refused, refused.errno()),
        (&VolumeError::AttributesFull, 28)
    );
    assert_eq!(volume.check().unwrap(), []);
}

#[test]
fn test_content_or_owner_that_change_take_the_capabilities_of_a_program() {
    let (_, _, volume) = volume();
    let ino = make(&volume, "file", b"content");
    let name = b"security.capability";
    let owner = SetAttr {
        uid: Some(5),
        ..SetAttr::default()
    };
    let changes: [&dyn Fn(); 3] = [
        &|| assert_eq!(volume.write(ino, 0, b"other"), Ok(5)),
        &|| assert_eq!(volume.set_attr(ino, &owner).unwrap().uid, 5),
        &|| volume.zero(ino, 0, 3, true).unwrap(),
    ];
    for change in changes {
        volume
            .xattr_set(ino, name, b"value", XattrMode::Set)
            .unwrap();
        let mode = SetAttr {
            mode: Some(0o755),
            ..SetAttr::default()
        };
        volume.set_attr(ino, &mode).unwrap();
        assert_eq!(volume.xattr_get(ino, name), Ok(b"value".to_vec()));
        change();
        assert_eq!(volume.xattr_get(ino, name), Err(VolumeError::NoData));
    }
}

#[test]
fn test_a_listing_during_which_each_name_is_renamed_away_and_back_or_swapped_ends() {
    let (_, _, volume) = volume();
    for number in 0..50 {
        make(&volume, &format!("{number}"), b"");
    }
    let other = make(&volume, "zzz", b"");
    let (mut cookie, mut seen) = (2, Vec::new());
    loop {
        let mut next = None;
        volume
            .read_dir(ROOT_INO, cookie, &mut |entry| {
                next = Some((entry.cookie, entry.name.to_vec()));
                false
            })
            .unwrap();
        let Some((place, name)) = next else { break };
        cookie = place;
        let rename = |from: &[u8], to: &[u8], flags| {
            volume.rename(ROOT_INO, from, ROOT_INO, to, flags).unwrap();
        };
        rename(&name, b"away", RenameFlags::NoReplace);
        rename(b"away", &name, RenameFlags::Replace);
        if name != b"zzz" {
            rename(&name, b"zzz", RenameFlags::Exchange);
            rename(b"zzz", &name, RenameFlags::Exchange);
        }
        seen.push(name);
        assert!(seen.len() <= 51, "{seen:?}");
    }
    assert_eq!(seen.len(), 51);
    assert_eq!(volume.lookup(ROOT_INO, b"zzz").unwrap().ino, other);
}

/// What an answer costs does not grow with the directory: it looks at the entries that it gives and at no other.
#[test]
fn test_a_directory_of_100_000_names_is_listed_in_small_answers_each_once_while_it_changes() {
    let (_, _, volume) = volume();
    for number in 0..100_000 {
        let name = format!("{number:06}");
        volume
            .make_node(ROOT_INO, name.as_bytes(), NodeKind::Fifo, 0o600, 0, 0)
            .unwrap();
    }
    let (mut seen, mut cookie, mut removed) = (BTreeSet::new(), 2, 0);
    loop {
        let mut names = Vec::new();
        let mut shown = 0;
        volume
            .read_dir(ROOT_INO, cookie, &mut |entry| {
                shown += 1;
                if names.len() == 100 {
                    return false;
                }
                cookie = entry.cookie;
                names.push(entry.name.to_vec());
                true
            })
            .unwrap();
        assert!(shown <= 101);
        let Some(first) = names.first() else { break };
        volume.remove_file(ROOT_INO, first).unwrap();
        removed += 1;
        if removed <= 50 {
            let name = format!("new {removed}");
            volume
                .make_node(ROOT_INO, name.as_bytes(), NodeKind::Fifo, 0o600, 0, 0)
                .unwrap();
        }
        for name in names {
            assert!(seen.insert(name), "listed twice");
        }
    }
    let old = seen
        .iter()
        .filter(|name| name.len() == 6 && name[0].is_ascii_digit());
    assert_eq!(old.count(), 100_000);
}
