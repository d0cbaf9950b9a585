//! What a store can make a mount read and keep: records of its own making, genuine ones again and again, too much.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use super::*;
use crate::api::{Grant, VolumeKey};
use crate::error::StoreError;
use crate::record::FLAG_LAST;
use crate::seal::Nonces;
use crate::types::Protection;

type Stored<T> = std::result::Result<T, StoreError>;

/// Journal files that only the tests can name.
struct Journals(BTreeMap<String, Vec<u8>>);

impl Store for Journals {
    fn read_at(&self, path: &str, offset: u64, buf: &mut [u8]) -> Stored<usize> {
        let file = self.0.get(path).ok_or(StoreError::NotFound)?;
        let rest = &file[usize::try_from(offset).unwrap().min(file.len())..];
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn size(&self, path: &str) -> Stored<u64> {
        let file = self.0.get(path).ok_or(StoreError::NotFound)?;
        Ok(file.len() as u64)
    }

    fn list(&self, dir: &str) -> Stored<Vec<String>> {
        let names = self
            .0
            .keys()
            .filter_map(|path| path.strip_prefix(&format!("{dir}/")));
        Ok(names.map(str::to_owned).collect())
    }

    fn write_at(&self, _: &str, _: u64, _: &[u8]) -> Stored<()> {
        unreachable!("indexing writes nothing")
    }

    fn sync(&self, _: &str) -> Stored<()> {
        unreachable!("indexing writes nothing")
    }

    fn sync_dir(&self, _: &str) -> Stored<()> {
        unreachable!("indexing writes nothing")
    }

    fn remove(&self, _: &str) -> Stored<()> {
        unreachable!("indexing writes nothing")
    }

    fn replace(&self, _: &str, _: &[u8]) -> Stored<()> {
        unreachable!("indexing writes nothing")
    }

    fn lock_exclusive(&self) -> Stored<()> {
        unreachable!("indexing writes nothing")
    }
}

fn keys(key: u8) -> Keys {
    Keys::new(&Grant {
        volume_id: [1; 16],
        key: VolumeKey::new([key; 32]),
        key_version: 1,
        key_since: 0,
        older_key: None,
        kept_since: 0,
        epoch: 1,
        seq: 0,
        root: [0; 32],
        writable: true,
        chunk_size: 4096,
        protection: Protection::Encrypted,
    })
    .unwrap()
}

/// `count` chained records sealed under `keys`, and where they lead.
fn journal(keys: &Keys, count: u64) -> (Vec<u8>, Position) {
    let nonces = Nonces::new(1);
    let (mut bytes, mut at) = (Vec::new(), (0, [0; 32]));
    for _ in 0..count {
        let sealed =
            record::seal_record(keys, &nonces, FLAG_LAST, at.0 + 1, at.1, b"operations").unwrap();
        at = (at.0 + 1, sealed.root);
        bytes.extend(sealed.bytes);
    }
    (bytes, at)
}

fn store(files: impl IntoIterator<Item = Vec<u8>>) -> Journals {
    let named = (0..).zip(files);
    Journals(
        named
            .map(|(number, bytes)| (journal_path((1, number)), bytes))
            .collect(),
    )
}

fn refusal(store: &Journals, limits: &Limits) -> String {
    Index::read_within(store, &keys(7), limits)
        .err()
        .expect("refused")
        .problem()
}

#[test]
fn records_that_the_store_made_up_are_not_kept_and_the_chain_is_found_beside_them() {
    let keys = keys(7);
    let (genuine, end) = journal(&keys, 5);
    let (forged, _) = journal(&self::keys(8), 4000);
    let store = store([forged.clone(), genuine, forged]);
    let index = Index::read(&store, &keys).unwrap();
    assert_eq!((index.by_root.len(), index.by_prev.len()), (5, 5));
    assert_eq!(index.chain(&store, &keys, end).unwrap().len(), 5);
}

#[test]
fn genuine_records_that_the_store_shows_often_are_kept_once() {
    let keys = keys(7);
    let (genuine, end) = journal(&keys, 5);
    let store = store(std::iter::repeat_n(genuine.repeat(50), 20));
    let index = Index::read(&store, &keys).unwrap();
    let places: usize = index.by_prev.values().map(Vec::len).sum();
    assert_eq!((index.by_root.len(), places), (5, 5));
    assert_eq!(index.chain(&store, &keys, end).unwrap().len(), 5);
}

#[test]
fn journals_above_a_limit_are_refused_with_what_was_found_and_the_limit() {
    let (genuine, _) = journal(&keys(7), 5);
    let bytes = genuine.len() as u64;
    let store = store([genuine.clone(), genuine, b"STFJ".repeat(9)]);
    let enough = || Limits {
        files: 3,
        bytes: 2 * bytes + 36,
        records: 5,
    };
    assert!(Index::read_within(&store, &keys(7), &enough()).is_ok());
    let limits = Limits {
        files: 2,
        ..enough()
    };
    assert!(refusal(&store, &limits).ends_with("3 files, the limit is 2"));
    let limits = Limits {
        bytes: 2 * bytes,
        ..enough()
    };
    let found = format!("{} bytes, the limit is {}", 2 * bytes + 36, 2 * bytes);
    assert!(refusal(&store, &limits).ends_with(&found));
    let limits = Limits {
        records: 4,
        ..enough()
    };
    assert!(refusal(&store, &limits).ends_with("5 records, the limit is 4"));
}

#[test]
fn a_record_under_another_key_is_refused_as_such_when_the_root_leads_to_it() {
    let (genuine, end) = journal(&keys(7), 3);
    let store = store([genuine]);
    let other = keys(8);
    let index = Index::read(&store, &other).unwrap();
    let error = index.chain(&store, &other, end).unwrap_err();
    assert!(
        error
            .problem()
            .contains("does not authenticate under this volume's key"),
        "{error}"
    );
}
