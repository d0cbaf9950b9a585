//! Files, directories and grants behave as POSIX and the interface say.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use securetf_volume::{Freshness, NodeKind, ROOT_INO, RenameFlags, SetAttr, VolumeError};
use support::history::make;
use support::{MemoryStore, TestAnchor, open, open_grant, open_with, options};

#[test]
fn test_sparse_files_and_directories_behave_as_posix_says() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let volume = open(&store, &anchor, true).unwrap();
    let ino = make(&volume, "sparse", b"start");
    volume
        .set_attr(
            ino,
            &SetAttr {
                size: Some(1 << 40),
                ..SetAttr::default()
            },
        )
        .unwrap();
    volume.write(ino, (1 << 40) - 3, b"end").unwrap();
    volume.sync(None).unwrap();
    assert!(volume.attr(ino).unwrap().blocks < 100);
    let dir = volume
        .make_node(ROOT_INO, b"dir", NodeKind::Dir, 0o755, 0, 0)
        .unwrap()
        .ino;
    let sub = volume
        .make_node(dir, b"sub", NodeKind::Dir, 0o755, 0, 0)
        .unwrap()
        .ino;
    assert_eq!(volume.attr(dir).unwrap().nlink, 3);
    assert_eq!(
        volume.remove_dir(ROOT_INO, b"dir"),
        Err(VolumeError::NotEmpty)
    );
    let into_itself = volume.rename(ROOT_INO, b"dir", sub, b"x", RenameFlags::Replace);
    assert!(matches!(into_itself, Err(VolumeError::Invalid(_))));
    assert_eq!(
        volume.rename(ROOT_INO, b"dir", ROOT_INO, b"sparse", RenameFlags::Replace),
        Err(VolumeError::NotDirectory)
    );
    assert_eq!(
        volume.rename(ROOT_INO, b"sparse", dir, b"sub", RenameFlags::Replace),
        Err(VolumeError::IsDirectory)
    );
    volume
        .rename(dir, b"sub", ROOT_INO, b"moved", RenameFlags::NoReplace)
        .unwrap();
    assert_eq!(volume.lookup(sub, b"..").unwrap().ino, ROOT_INO);
    let long = vec![b'x'; 256];
    assert_eq!(
        volume
            .make_node(ROOT_INO, &long, NodeKind::File, 0, 0, 0)
            .err(),
        Some(VolumeError::NameTooLong)
    );
    assert_eq!(volume.attr(ROOT_INO).unwrap().nlink, 4);
    volume.close().unwrap();
    let reader = open(&store, &anchor, false).unwrap();
    let attr = reader.lookup(ROOT_INO, b"sparse").unwrap();
    let mut end = [9; 8];
    assert_eq!(reader.read(attr.ino, attr.size - 6, &mut end).unwrap(), 6);
    assert_eq!(&end[..6], b"\0\0\0end");
    assert_eq!(reader.write(attr.ino, 0, b"x"), Err(VolumeError::ReadOnly));
}

#[test]
fn test_grants_that_contradict_themselves_are_refused() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let grant = anchor.grant(true);
    open_grant(&store, &anchor, grant.clone()).unwrap();
    let again = open_grant(&store, &anchor, grant.clone()).err().unwrap();
    assert!(
        again.problem().contains("epoch was used before")
            || matches!(again, VolumeError::Rollback { .. }),
        "{again}"
    );
    let reused = securetf_volume::Grant {
        seq: anchor.position().0,
        root: anchor.position().1,
        ..grant.clone()
    };
    let error = open_grant(&store, &anchor, reused).err().unwrap();
    assert!(error.problem().contains("epoch was used before"), "{error}");
    let odd = securetf_volume::Grant {
        chunk_size: 5000,
        ..anchor.grant(true)
    };
    assert!(matches!(
        open_grant(&store, &anchor, odd),
        Err(VolumeError::Invalid(_))
    ));
    let virgin = MemoryStore::new(Default::default());
    let error = open(&virgin, &TestAnchor::virgin(), false).err().unwrap();
    assert!(error.problem().contains("never written"), "{error}");
}

#[test]
fn test_content_of_many_small_files_goes_into_packs_and_of_few_into_the_commit_itself() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let volume = open(&store, &anchor, true).unwrap();
    let few = make(&volume, "few", &[7; 1000]);
    volume.sync(None).unwrap();
    let packs = || {
        store
            .snapshot()
            .keys()
            .filter(|path| path.starts_with("data/"))
            .count()
    };
    assert_eq!(packs(), 0, "one write makes a small file durable");
    let many: Vec<_> = (0..100)
        .map(|number| make(&volume, &format!("many-{number}"), &[number; 1000]))
        .collect();
    let tiny = make(&volume, "tiny", &[9; 100]);
    volume.sync(None).unwrap();
    assert_eq!(packs(), 1);
    volume.write(many[3], 500, b"changed").unwrap();
    volume.close().unwrap();
    drop(volume);
    let volume = open(&store, &anchor, false).unwrap();
    let mut content = vec![0; 2000];
    assert_eq!(volume.read(few, 0, &mut content).unwrap(), 1000);
    assert_eq!(volume.read(tiny, 0, &mut content).unwrap(), 100);
    for (number, ino) in (0..100).zip(&many) {
        let mut expected = vec![number; 1000];
        if number == 3 {
            expected[500..507].copy_from_slice(b"changed");
        }
        assert_eq!(volume.read(*ino, 0, &mut content).unwrap(), 1000);
        assert_eq!(content[..1000], expected);
    }
    assert!(volume.check().unwrap().is_empty());
}

#[test]
fn test_a_snapshot_is_written_after_so_many_records_however_small_they_are() {
    let (store, anchor) = (MemoryStore::new(Default::default()), TestAnchor::virgin());
    let mut options = options(Freshness::Group);
    options.snapshot_after = u64::MAX; // bytes are not what brings it about here
    options.snapshot_after_records = 20;
    let volume = open_with(&store, &anchor, anchor.grant(true), options).unwrap();
    let ino = make(&volume, "log", b"");
    for line in 0..100 {
        volume.write(ino, line * 5, b"line\n").unwrap();
        volume.sync(None).unwrap();
        assert!(volume.history().unwrap().len() <= 22);
    }
    volume.close().unwrap();
    let reader = open(&store, &anchor, false).unwrap();
    assert_eq!(reader.attr(ino).unwrap().size, 500);
}
