//! A bounded cache of ciphertext in a file without a name, which is gone with the process. Blocks that are asked for by
//! several threads at once are fetched once.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use volume::StoreError;

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 1 << 20;
/// Fewest blocks.
const BLOCKS_MIN: u64 = 8;

/// Object and number of the block in it.
type Key = (Arc<str>, u64);
type Fetched = Result<Arc<Vec<u8>>, StoreError>;

pub(crate) struct Cache {
    file: File,
    blocks: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: HashMap<Key, Held>,
    /// Keys by their last use.
    order: BTreeMap<u64, Key>,
    uses: u64,
    free: Vec<u64>,
    /// Places given out so far.
    places: u64,
    flights: HashMap<Key, Arc<Flight>>,
}

#[derive(Clone, Copy)]
struct Held {
    place: u64,
    length: usize,
    used: u64,
}

/// A fetch that is under way.
#[derive(Default)]
struct Flight {
    outcome: Mutex<Option<Fetched>>,
    landed: Condvar,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    pub fn new(directory: &Path, bytes: u64) -> Result<Self, StoreError> {
        let file = tempfile::tempfile_in(directory).map_err(|error| {
            StoreError::Io(format!(
                "make the cache in {}: {error}",
                directory.display()
            ))
        })?;
        Ok(Self {
            file,
            blocks: (bytes / BLOCK).max(BLOCKS_MIN),
            state: Mutex::default(),
        })
    }

    /// Whether the block is here or on its way.
    pub fn has(&self, path: &str, number: u64) -> bool {
        let key = (Arc::from(path), number);
        let state = locked(&self.state);
        state.held.contains_key(&key) || state.flights.contains_key(&key)
    }

    /// Copies what the block has from `within` on into the front of `out`, from the cache or by `fetch`; returns the
    /// bytes copied and the block's length.
    pub fn read(
        &self,
        path: &str,
        number: u64,
        within: usize,
        out: &mut [u8],
        fetch: impl FnOnce() -> Result<Vec<u8>, StoreError>,
    ) -> Result<(usize, usize), StoreError> {
        let key: Key = (Arc::from(path), number);
        let flight = {
            let mut state = locked(&self.state);
            if let Some(found) = self.held(&mut state, &key, within, out) {
                return Ok(found);
            }
            if let Some(flight) = state.flights.get(&key).cloned() {
                drop(state);
                return flight.wait().map(|block| copy(&block, within, out));
            }
            let flight = Arc::new(Flight::default());
            state.flights.insert(key.clone(), Arc::clone(&flight));
            flight
        };
        let landing = Landing {
            cache: self,
            key,
            flight,
        };
        let fetched = fetch().map(Arc::new);
        landing.land(&fetched);
        fetched.map(|block| copy(&block, within, out))
    }

    /// Forgets an object.
    pub fn forget(&self, path: &str) {
        let mut state = locked(&self.state);
        let gone: Vec<Key> = state
            .held
            .keys()
            .filter(|key| &*key.0 == path)
            .cloned()
            .collect();
        for key in gone {
            state.drop_held(&key);
        }
    }

    fn held(
        &self,
        state: &mut State,
        key: &Key,
        within: usize,
        out: &mut [u8],
    ) -> Option<(usize, usize)> {
        let held = *state.held.get(key)?;
        let count = held.length.saturating_sub(within).min(out.len());
        let place = held.place * BLOCK + within as u64;
        let part = out.get_mut(..count).unwrap_or_default();
        if self.file.read_exact_at(part, place).is_err() {
            state.drop_held(key);
            return None;
        }
        state.order.remove(&held.used);
        state.uses += 1;
        let used = state.uses;
        state.order.insert(used, key.clone());
        state.held.insert(key.clone(), Held { used, ..held });
        Some((count, held.length))
    }

    /// Keeps a block; if the directory is full, it is simply not kept.
    fn keep(&self, state: &mut State, key: Key, data: &[u8]) {
        let place = match state.free.pop() {
            Some(place) => place,
            None if state.places < self.blocks => {
                state.places += 1;
                state.places - 1
            }
            None => {
                let Some((_, oldest)) = state.order.pop_first() else {
                    return;
                };
                let Some(held) = state.held.remove(&oldest) else {
                    return;
                };
                held.place
            }
        };
        if self.file.write_all_at(data, place * BLOCK).is_err() {
            state.free.push(place);
            return;
        }
        state.uses += 1;
        let used = state.uses;
        state.order.insert(used, key.clone());
        let length = data.len();
        state.held.insert(
            key,
            Held {
                place,
                length,
                used,
            },
        );
    }
}

impl State {
    fn drop_held(&mut self, key: &Key) {
        if let Some(held) = self.held.remove(key) {
            self.order.remove(&held.used);
            self.free.push(held.place);
        }
    }
}

impl Flight {
    fn wait(&self) -> Fetched {
        let mut outcome = locked(&self.outcome);
        loop {
            if let Some(fetched) = &*outcome {
                return fetched.clone();
            }
            outcome = self
                .landed
                .wait(outcome)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn land(&self, fetched: Fetched) {
        let mut outcome = locked(&self.outcome);
        if outcome.is_none() {
            *outcome = Some(fetched);
            self.landed.notify_all();
        }
    }
}

/// Ends a flight, also when the fetch panics: nobody waits for ever.
struct Landing<'a> {
    cache: &'a Cache,
    key: Key,
    flight: Arc<Flight>,
}

impl Landing<'_> {
    fn land(self, fetched: &Fetched) {
        if let Ok(data) = fetched {
            let mut state = locked(&self.cache.state);
            self.cache.keep(&mut state, self.key.clone(), data);
        }
        self.flight.land(fetched.clone());
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        locked(&self.cache.state).flights.remove(&self.key);
        let lost = StoreError::Io("the fetch ended without an answer".to_owned());
        self.flight.land(Err(lost));
    }
}

/// Copies from `within` on; returns the bytes copied and the block's length.
fn copy(block: &[u8], within: usize, out: &mut [u8]) -> (usize, usize) {
    let found = block.get(within..).unwrap_or_default();
    let count = found.len().min(out.len());
    if let (Some(to), Some(from)) = (out.get_mut(..count), found.get(..count)) {
        to.copy_from_slice(from);
    }
    (count, block.len())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{BLOCK, BLOCKS_MIN, Cache, StoreError};

    type Fetched = Result<Vec<u8>, StoreError>;

    fn cache() -> Cache {
        Cache::new(&std::env::temp_dir(), 0).expect("cache")
    }

    fn filled(with: u64) -> Vec<u8> {
        vec![u8::try_from(with % 251).unwrap_or(0); 1000]
    }

    fn whole(cache: &Cache, number: u64, fetch: impl FnOnce() -> Fetched) -> Fetched {
        let mut out = vec![0; 2000];
        let (count, length) = cache.read("a", number, 0, &mut out, fetch)?;
        assert_eq!(count, length);
        out.truncate(count);
        Ok(out)
    }

    fn unwanted() -> Fetched {
        Err(StoreError::Io("fetched again".to_owned()))
    }

    #[test]
    fn cache_when_full_drops_what_was_used_longest_ago_and_stays_within_its_bound() {
        let cache = cache();
        for number in 0..3 * BLOCKS_MIN {
            whole(&cache, 0, || Ok(filled(0))).expect("the first one stays");
            let got = whole(&cache, number, || Ok(filled(number)));
            assert_eq!(got.expect("block"), filled(number));
        }
        let first = whole(&cache, 0, unwanted).expect("kept, as it was used");
        assert_eq!(first, filled(0));
        let last = 3 * BLOCKS_MIN - 1;
        assert_eq!(whole(&cache, last, unwanted).expect("kept"), filled(last));
        assert!(!cache.has("a", 1));
        let bytes = cache.file.metadata().expect("metadata").len();
        assert!(bytes <= BLOCKS_MIN * BLOCK);
    }

    #[test]
    fn part_of_a_block_is_the_same_when_fetched_when_held_and_at_its_end() {
        let (cache, block) = (cache(), (0..=255).collect::<Vec<u8>>());
        for _ in 0..2 {
            let mut out = [0; 4];
            let fetch = || Ok(block.clone());
            assert_eq!(cache.read("a", 0, 9, &mut out, fetch), Ok((4, 256)));
            assert_eq!(out, [9, 10, 11, 12]);
            let fetch = || Ok(block.clone());
            assert_eq!(cache.read("a", 0, 254, &mut out, fetch), Ok((2, 256)));
            assert_eq!(out, [254, 255, 11, 12]);
            let fetch = || Ok(block.clone());
            assert_eq!(cache.read("a", 0, 256, &mut out, fetch), Ok((0, 256)));
            cache.forget("a");
        }
    }

    /// Eight threads that want the same block; the fetch takes a while.
    fn wanted_by_many(cache: &Cache, fetch: &(dyn Fn() -> Fetched + Sync)) -> Vec<Option<Fetched>> {
        let barrier = std::sync::Barrier::new(8);
        let one = || {
            barrier.wait();
            whole(cache, 7, || {
                std::thread::sleep(std::time::Duration::from_millis(300));
                fetch()
            })
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            let outcomes = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            outcomes.map(Result::ok).collect()
        })
    }

    #[test]
    fn block_when_wanted_by_many_threads_at_once_is_fetched_once_and_a_failure_reaches_all() {
        let (cache, fetches) = (cache(), AtomicUsize::new(0));
        let outcomes = wanted_by_many(&cache, &|| {
            fetches.fetch_add(1, Ordering::SeqCst);
            Err(StoreError::NotFound)
        });
        assert_eq!(outcomes, vec![Some(Err(StoreError::NotFound)); 8]);
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn fetch_when_it_panics_leaves_nobody_waiting_and_the_next_one_fetches_anew() {
        let cache = cache();
        let outcomes = wanted_by_many(&cache, &|| panic!("a defect"));
        let lost = StoreError::Io("the fetch ended without an answer".to_owned());
        assert_eq!(outcomes.iter().filter(|one| one.is_none()).count(), 1);
        assert!(
            outcomes
                .iter()
                .flatten()
                .all(|one| *one == Err(lost.clone()))
        );
        assert_eq!(whole(&cache, 7, || Ok(filled(7))), Ok(filled(7)));
    }
}
