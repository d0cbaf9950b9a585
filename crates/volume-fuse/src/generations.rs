//! The states that a mount shows: one for ever, or the newest of a volume that is followed, and the ones before it for
//! whoever still holds their files.
//!
//! The kernel's number of an inode is the volume's with the generation above it: what the kernel keeps of one state is
//! never taken for another's. The root has the same number in all of them, and none of its names is kept by the kernel,
//! so that every open walks through the newest state.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use volume::{ROOT_INO, Volume};

use crate::convert::FOREVER;

/// Bits of the volume's own inode numbers. A volume that is followed has fewer inodes in its whole life.
const INO_BITS: u32 = 40;
const GENERATIONS_MAX: u64 = 1 << (u64::BITS - INO_BITS);

/// Where an inode of the kernel lies.
pub(crate) struct Place {
    pub(crate) volume: Arc<Volume>,
    pub(crate) ino: u64,
    generation: u64,
}

impl Place {
    /// The kernel's number of an inode of the same state.
    pub(crate) fn number(&self, ino: u64) -> u64 {
        if ino == ROOT_INO {
            ino
        } else {
            self.generation << INO_BITS | ino
        }
    }
}

/// The states of one mount.
pub(crate) enum Generations {
    /// The one state, or the one that this mount writes.
    Fixed(Arc<Volume>),
    Following(RwLock<Followed>),
}

/// Those that the kernel may still ask for; the newest has the highest number.
pub(crate) struct Followed {
    newest: u64,
    shown: BTreeMap<u64, Shown>,
}

struct Shown {
    volume: Arc<Volume>,
    /// How often the kernel was told of an inode and has not forgotten it.
    known: AtomicU64,
}

/// Why a state cannot follow the one that is shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfollowed {
    /// The mount was made for one state.
    Fixed,
    /// It is not newer than the one with this sequence.
    NotNewer(u64),
    /// No number is left.
    Exhausted,
}

impl Generations {
    pub(crate) fn new(volume: Arc<Volume>, following: bool) -> Self {
        if !following {
            return Self::Fixed(volume);
        }
        let known = AtomicU64::new(0);
        Self::Following(RwLock::new(Followed {
            newest: 0,
            shown: BTreeMap::from([(0, Shown { volume, known })]),
        }))
    }

    /// Where an inode lies; `None` when its state is gone.
    pub(crate) fn at(&self, number: u64) -> Option<Place> {
        let followed = match self {
            Self::Fixed(volume) => {
                return Some(Place {
                    volume: Arc::clone(volume),
                    ino: number,
                    generation: 0,
                });
            }
            Self::Following(followed) => read(followed),
        };
        let (generation, ino) = if number == ROOT_INO {
            (followed.newest, ROOT_INO)
        } else {
            (number >> INO_BITS, number & ((1 << INO_BITS) - 1))
        };
        let shown = followed.shown.get(&generation)?;
        Some(Place {
            volume: Arc::clone(&shown.volume),
            ino,
            generation,
        })
    }

    /// How long the kernel may keep the attributes, or the names, of this inode.
    pub(crate) fn keep(&self, number: u64) -> Duration {
        match self {
            Self::Following(_) if number == ROOT_INO => Duration::ZERO,
            _ => FOREVER,
        }
    }

    /// Whether the state of this place has been followed by another.
    pub(crate) fn is_replaced(&self, place: &Place) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Following(followed) => read(followed).newest != place.generation,
        }
    }

    /// The kernel is told of an inode of this state, which is kept until it forgets it.
    pub(crate) fn known(&self, place: &Place) {
        if let Self::Following(followed) = self
            && let Some(shown) = read(followed).shown.get(&place.generation)
        {
            shown.known.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The kernel forgot an inode of which it was told `times`.
    pub(crate) fn forgotten(&self, number: u64, times: u64) {
        let Self::Following(followed) = self else {
            return;
        };
        if number == ROOT_INO {
            return;
        }
        let generation = number >> INO_BITS;
        let unused = read(followed)
            .shown
            .get(&generation)
            .is_some_and(|shown| shown.known.fetch_sub(times, Ordering::AcqRel) == times);
        if unused {
            write(followed).drop_unused();
        }
    }

    /// Shows a newer state from now on.
    pub(crate) fn follow(&self, volume: Arc<Volume>) -> Result<(), Unfollowed> {
        let Self::Following(followed) = self else {
            return Err(Unfollowed::Fixed);
        };
        let mut followed = write(followed);
        let before = followed.seq();
        if volume.status().seq <= before {
            return Err(Unfollowed::NotNewer(before));
        }
        if followed.newest + 1 >= GENERATIONS_MAX {
            return Err(Unfollowed::Exhausted);
        }
        followed.newest += 1;
        let (newest, known) = (followed.newest, AtomicU64::new(0));
        followed.shown.insert(newest, Shown { volume, known });
        followed.drop_unused();
        Ok(())
    }
}

impl Followed {
    /// The sequence of the newest state.
    fn seq(&self) -> u64 {
        let newest = self.shown.get(&self.newest);
        newest.map_or(u64::MAX, |shown| shown.volume.status().seq)
    }

    /// Lets go of older states of which the kernel knows nothing.
    fn drop_unused(&mut self) {
        let newest = self.newest;
        self.shown.retain(|generation, shown| {
            *generation == newest || shown.known.load(Ordering::Acquire) != 0
        });
    }
}

fn read(followed: &RwLock<Followed>) -> RwLockReadGuard<'_, Followed> {
    followed.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(followed: &RwLock<Followed>) -> RwLockWriteGuard<'_, Followed> {
    followed.write().unwrap_or_else(PoisonError::into_inner)
}
