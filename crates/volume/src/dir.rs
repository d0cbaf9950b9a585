//! The entries of one directory, compact: 24 bytes for each, its name, and five bytes or ten in the index of names.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::types::Ino;

/// Removed entries that are always left where they are.
const REMOVED_MIN: usize = 64;

/// The entries of one directory. A cookie stays with its entry, and new ones are
/// higher, so a listing is stable under changes.
pub struct Dir {
    pub parent: Ino,
    /// By ascending cookie. A removed one keeps its place until there are more of these than others.
    entries: Vec<Entry>,
    /// The names, one after the other.
    names: Vec<u8>,
    /// Positions in `entries`, by the hash of their names.
    index: HashTable<u32>,
    hasher: RandomState,
    next_cookie: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    cookie: u64,
    ino: Ino,
    /// Where its name begins, times 256, and the length of that: never 0 but in a removed entry.
    name: u64,
}

impl Entry {
    fn is_removed(self) -> bool {
        self.name == 0
    }

    #[allow(clippy::cast_possible_truncation)] // a place in memory
    fn name(self, names: &[u8]) -> &[u8] {
        let (start, length) = ((self.name >> 8) as usize, (self.name & 0xFF) as usize);
        names.get(start..start + length).unwrap_or_default()
    }
}

impl Dir {
    /// First cookie of a real entry; "." and ".." come before.
    pub const FIRST: u64 = 3;

    pub fn new(parent: Ino) -> Self {
        Self {
            parent,
            entries: Vec::new(),
            names: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            next_cookie: Self::FIRST,
        }
    }

    pub fn get(&self, name: &[u8]) -> Option<Ino> {
        self.entry(name).map(|entry| entry.ino)
    }

    /// The place of a name in listings.
    pub fn cookie(&self, name: &[u8]) -> Option<u64> {
        self.entry(name).map(|entry| entry.cookie)
    }

    /// Inserts an entry at the end, or replaces one in its place.
    pub fn insert(&mut self, name: &[u8], ino: Ino) {
        if let Some(position) = self.position(name) {
            if let Some(entry) = self.entries.get_mut(position) {
                entry.ino = ino;
            }
            return;
        }
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let name = self.keep_name(name);
        self.entries.push(Entry { cookie, ino, name });
        self.index_entry(self.entries.len() - 1);
    }

    /// Moves an entry to the place of one that was removed: a listing that goes on meets a renamed file once.
    pub fn move_to(&mut self, name: &[u8], cookie: u64) {
        let Some(ino) = self.remove(name) else { return };
        let name = self.keep_name(name);
        let entry = Entry { cookie, ino, name };
        match self.entries.binary_search_by_key(&cookie, |one| one.cookie) {
            Ok(position) => {
                if let Some(place) = self.entries.get_mut(position) {
                    *place = entry;
                }
                self.index_entry(position);
            }
            Err(position) => {
                self.entries.insert(position, entry);
                self.rebuild();
            }
        }
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<Ino> {
        let hash = self.hasher.hash_one(name);
        let same = |position: &u32| named(&self.entries, &self.names, *position) == name;
        let (position, _) = self.index.find_entry(hash, same).ok()?.remove();
        let entry = self.entries.get_mut(position as usize)?;
        let ino = entry.ino;
        entry.name = 0;
        if self.entries.len() > 2 * self.index.len() + REMOVED_MIN {
            self.rebuild();
        }
        Some(ino)
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Entries after a cookie, in the order of their making.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &[u8], Ino)> {
        let from = self.entries.partition_point(|entry| entry.cookie <= cookie);
        let rest = self.entries.get(from..).unwrap_or_default().iter();
        rest.filter(|entry| !entry.is_removed())
            .map(|entry| (entry.cookie, entry.name(&self.names), entry.ino))
    }

    /// Gives room back that was kept for more entries: most directories do not change any more.
    pub fn shrink(&mut self) {
        self.entries.shrink_to_fit();
        self.names.shrink_to_fit();
        let hash = |position: &u32| {
            self.hasher
                .hash_one(named(&self.entries, &self.names, *position))
        };
        self.index.shrink_to_fit(hash);
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        let same = |position: &u32| named(&self.entries, &self.names, *position) == name;
        let found = self.index.find(self.hasher.hash_one(name), same)?;
        Some(*found as usize)
    }

    fn entry(&self, name: &[u8]) -> Option<&Entry> {
        self.entries.get(self.position(name)?)
    }

    /// Appends a name (1 to 255 bytes); returns what an entry says of it.
    fn keep_name(&mut self, name: &[u8]) -> u64 {
        let place = (self.names.len() as u64) << 8 | name.len() as u64;
        self.names.extend_from_slice(name);
        place
    }

    fn index_entry(&mut self, position: usize) {
        let (entries, names, hasher) = (&self.entries, &self.names, &self.hasher);
        let hash = |position: &u32| hasher.hash_one(named(entries, names, *position));
        let position = u32::try_from(position).expect("memory holds fewer entries");
        self.index.insert_unique(hash(&position), position, hash);
    }

    /// Leaves out what was removed, and counts positions anew.
    fn rebuild(&mut self) {
        let (entries, names) = (
            std::mem::take(&mut self.entries),
            std::mem::take(&mut self.names),
        );
        self.index.clear();
        for entry in entries.into_iter().filter(|entry| !entry.is_removed()) {
            let name = self.keep_name(entry.name(&names));
            self.entries.push(Entry { name, ..entry });
            self.index_entry(self.entries.len() - 1);
        }
    }
}

fn named<'a>(entries: &[Entry], names: &'a [u8], position: u32) -> &'a [u8] {
    entries
        .get(position as usize)
        .map_or(&[], |entry| entry.name(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(dir: &Dir, cookie: u64) -> Vec<(u64, String, Ino)> {
        dir.after(cookie)
            .map(|(cookie, name, ino)| (cookie, String::from_utf8_lossy(name).into_owned(), ino))
            .collect()
    }

    fn numbered(count: u64) -> Dir {
        let mut dir = Dir::new(1);
        for number in 0..count {
            dir.insert(number.to_string().as_bytes(), number + 10);
        }
        dir
    }

    #[test]
    fn entries_keep_their_cookies_when_most_others_go_and_names_are_found_again() {
        let mut dir = numbered(1000);
        for number in (0..1000).filter(|number| number % 10 != 3) {
            assert_eq!(dir.remove(number.to_string().as_bytes()), Some(number + 10));
        }
        assert!(dir.entries.len() < 300, "removed entries are left out");
        let expected: Vec<_> = (0..100)
            .map(|ten| ten * 10 + 3)
            .map(|number| (number + Dir::FIRST, number.to_string(), number + 10))
            .collect();
        assert_eq!(listed(&dir, 0), expected);
        let after: Vec<_> = expected.iter().skip(51).cloned().collect();
        assert_eq!(listed(&dir, 503 + Dir::FIRST), after);
        assert_eq!((dir.get(b"503"), dir.get(b"504")), (Some(513), None));
        dir.shrink();
        assert_eq!(listed(&dir, 0), expected);
        dir.insert(b"504", 7);
        assert_eq!(dir.cookie(b"504"), Some(1000 + Dir::FIRST));
    }

    #[test]
    fn a_replaced_entry_stays_in_its_place_and_a_moved_one_takes_that_of_the_removed() {
        let mut dir = numbered(3);
        dir.insert(b"1", 99);
        assert_eq!(dir.get(b"1"), Some(99));
        let place = dir.cookie(b"0").expect("it is there");
        dir.remove(b"0");
        dir.insert(b"new", 10);
        dir.move_to(b"new", place);
        let names: Vec<String> = listed(&dir, 0)
            .into_iter()
            .map(|(_, name, _)| name)
            .collect();
        assert_eq!(names, ["new", "1", "2"]);
        assert_eq!(
            (dir.cookie(b"new"), dir.get(b"new")),
            (Some(place), Some(10))
        );
    }

    #[test]
    fn a_place_that_was_left_out_already_can_be_taken() {
        let mut dir = numbered(400);
        let place = dir.cookie(b"1").expect("it is there");
        for number in 1..399 {
            dir.remove(number.to_string().as_bytes());
        }
        dir.rebuild();
        dir.insert(b"new", 5);
        dir.move_to(b"new", place);
        let found: Vec<Ino> = listed(&dir, 0).into_iter().map(|(_, _, ino)| ino).collect();
        assert_eq!(found, [10, 5, 409]);
        assert_eq!((dir.get(b"new"), dir.get(b"399")), (Some(5), Some(409)));
    }
}
